"""Marks inside written files: a command recognizes its own files by them, and replaces no others unless asked."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from atrous.errors import AtrousError

SEARCHED = 4096
"""The number of bytes at the start and at the end of a file that are searched for a mark."""
_MARK = re.compile(rb"written by atrous ([a-z][a-z-]*)((?: [a-z]+=[0-9a-f]+)*);")
_DIGEST = "content"
"""The name of the detail that is the digest of the file without it."""
_CHUNK = 1 << 20
"""The number of bytes of a file in memory at a time."""
_PNG_HEADER = 33
"""The length of a PNG's signature and its first chunk, IHDR, which others follow."""


@dataclass(frozen=True)
class Mark:
    """The mark of the command that wrote a file: plain text, within a comment or another part that readers ignore.

    `details` are hexadecimal numbers by lower-case names, such as the digest of the settings.
    """

    command: str
    details: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The text that is written into the file, such as `written by atrous predict image=1f state=2e;`."""
        return " ".join(["written by atrous", self.command, *(f"{k}={v}" for k, v in self.details.items())]) + ";"

    def in_png(self, encoded: bytes) -> bytes:
        """Insert the mark into an encoded PNG as its text "Software"."""
        content = b"tEXtSoftware\0" + str(self).encode()
        chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        return encoded[:_PNG_HEADER] + chunk + encoded[_PNG_HEADER:]

    def seal(self, content: bytes) -> bytes:
        """Add a digest of the content to the mark inside it, so that the mark is void once the file has been edited."""
        return self._insert_digest(content, hashlib.sha256(content))

    def _insert_digest(self, content: bytes, digest: hashlib._Hash) -> bytes:
        text = str(self).encode()
        return content.replace(text, text[:-1] + _digest_detail(digest) + b";", 1)

    def append_to(self, path: Path) -> None:
        """Append the mark to an MP4, as a box of free space, or to a file whose readers ignore what follows its end."""
        content = str(self).encode()
        if path.suffix == ".mp4":
            content = struct.pack(">I", len(content) + 8) + b"free" + content
        with path.open("ab") as file:
            file.write(content)


class SealedWriter:
    """Write a file in pieces, the last of which has the mark, with a digest of all of them as in `Mark.seal`."""

    def __init__(self, file: BinaryIO, mark: Mark) -> None:
        self._file = file
        self._mark = mark
        self._digest = hashlib.sha256()

    def write(self, text: str) -> None:
        """Write a piece."""
        content = text.encode()
        self._digest.update(content)
        self._file.write(content)

    def finish(self, text: str) -> None:
        """Write the last piece, of at most `SEARCHED` bytes, with the mark in it."""
        content = text.encode()
        self._digest.update(content)
        self._file.write(self._mark._insert_digest(content, self._digest))


def read_mark(path: Path) -> Mark | None:
    """Read the mark of a file; None if it has none, or cannot be read, or has been edited since it was sealed."""
    try:
        with path.open("rb") as file:
            ends = file.read(SEARCHED)
            size = file.seek(0, 2)
            file.seek(max(0, size - SEARCHED))
            ends += file.read()
            file.seek(0)
            return find_mark(ends, iter(partial(file.read, _CHUNK), b""))
    except OSError:
        return None


def find_mark(ends: bytes, chunks: Iterable[bytes]) -> Mark | None:
    """Find the mark in the first and last bytes of a file, `SEARCHED` of them each, as `read_mark`.

    `chunks` are those of the whole file; they are read only if it is sealed.
    """
    match = _MARK.search(ends)
    if match is None:
        return None
    pairs = (pair.partition("=") for pair in match[2].decode().split())
    details = {key: value for key, _, value in pairs}
    digest = details.pop(_DIGEST, None)
    if digest is not None:
        detail = f" {_DIGEST}={digest}".encode()
        if _digest_detail(_digest_without(detail, chunks)) != detail:
            return None
    return Mark(match[1].decode(), details)


def _digest_without(text: bytes, chunks: Iterable[bytes]) -> hashlib._Hash:
    """Compute the digest of a file without the first occurrence of a text."""
    digest, rest = hashlib.sha256(), b""
    remaining = iter(chunks)
    for chunk in remaining:
        before, separator, after = (rest + chunk).partition(text)
        if separator:
            digest.update(before)
            rest = after
            break
        digest.update(before[: -len(text)])
        rest = before[-len(text) :]
    digest.update(rest)
    for chunk in remaining:
        digest.update(chunk)
    return digest


def _digest_detail(digest: hashlib._Hash) -> bytes:
    return f" {_DIGEST}={digest.hexdigest()[:16]}".encode()


def check_replaceable(
    paths: Iterable[Path], mark: Mark | None, *, overwrite: bool, inputs: Iterable[Path] = ()
) -> None:
    """Check that no file would be replaced but those with the mark of the same command.

    With `overwrite` all files may be, but for the `inputs` of the command.

    Raises: `AtrousError` naming the first other file that exists; without a `mark`, the first that exists.
    """
    originals = {path.resolve() for path in inputs}
    for path in paths:
        if path.resolve() in originals:
            raise AtrousError(f"{path} would overwrite an input: choose another output (-o).")
        if overwrite:
            continue
        if not path.exists():
            continue
        existing = read_mark(path) if mark is not None and path.is_file() else None
        if existing is None or mark is None or existing.command != mark.command:
            raise foreign_file_error(path, mark)


def foreign_file_error(path: object, mark: Mark | None) -> AtrousError:
    """Describe a file that is not replaced, because the command of `mark` did not write it as it is."""
    reason = "" if mark is None else f" and is not a file of `atrous {mark.command}`, or was edited"
    return AtrousError(
        f"{path} exists{reason}: choose another output (-o), or replace it with --overwrite (in Python overwrite=True)."
    )
