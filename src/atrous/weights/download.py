"""Download files: resumed after an interruption, verified by checksum, and renamed only when complete.

Where the publisher tells no checksum, that of the first download is remembered in a file beside it, whose name has
`.sha256` appended and which `sha256sum --check` reads; later downloads of the file must have the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from filelock import FileLock

from atrous.errors import AtrousError, UnavailableError
from atrous.files import write_text
from atrous.progress import OnProgress

log = logging.getLogger("atrous")

CHUNK = 1 << 20
TIMEOUT = 30
"""Seconds without data after which a download is interrupted."""


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follow redirects, with the token only to the server that it was meant for."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            request.remove_header("Authorization")
        return request


def download(
    url: str,
    path: Path,
    sha256: str,
    on_progress: OnProgress = lambda done, total: None,
    *,
    headers: Mapping[str, str] | None = None,
    advice: str = "",
) -> Path:
    """Download `url` to `path`, resuming an interrupted download.

    The data are written to a file with `.part` appended to its name, and their ETag or Last-Modified to one with
    `.part.version`: a download resumes only from this version of the file. Without a version it resumes if a checksum
    is known, else it starts over. A complete file with the right checksum (`sha256` may be the beginning of it, or
    empty: then it is remembered) is renamed; one with another checksum is removed. An existing file is kept if its
    checksum is right, else replaced. `headers` are sent with the request, `Authorization` only to the server of `url`;
    `advice` ends the messages of errors.

    Raises: `UnavailableError` without a connection or for an error of the server; `AtrousError` for a full disk or a
    wrong checksum.
    """
    part = path.with_name(path.name + ".part")
    advice = advice or f"Without a connection, put {path.name} into a folder and list the folder in ATROUS_WEIGHTS."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock")):
            if not has_sha256(path, sha256):  # another process may have been faster
                expected = sha256 or remembered_sha256(path)
                _download_rest(url, part, on_progress, headers or {}, verified=bool(expected))
                if expected:
                    check_sha256(part, expected, remove=True, source=url)
                else:
                    _remember_sha256(path, compute_sha256(part))
                os.replace(part, path)
    except urllib.error.HTTPError as error:
        raise UnavailableError(f"{url}: the server answered {error.code} {error.reason}. {advice}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UnavailableError(
            f"{url}: the download was interrupted ({reason}). Try again: it resumes where it stopped, if the server "
            f"permits. {advice}"
        ) from error
    except OSError as error:
        raise AtrousError(
            f"Cannot write {path}: {error.strerror or error}. Free disk space, or set ATROUS_CACHE to another folder."
        ) from error
    return path


def _download_rest(
    url: str, part: Path, on_progress: OnProgress, headers: Mapping[str, str], *, verified: bool
) -> None:
    """Download the rest of a part, or all if another version could be appended; `verified` files have a checksum."""
    version_file = part.with_name(part.name + ".version")
    version = _read_version(version_file)
    done = part.stat().st_size if part.exists() and (version or verified) else 0
    resume = {"Range": f"bytes={done}-", **({"If-Range": version} if version else {})} if done else {}
    request = urllib.request.Request(url, headers={**headers, **resume})
    try:
        response = urllib.request.build_opener(_RedirectHandler).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the range is empty: the file is complete, or another one, as the checksum tells
            raise
        version_file.unlink(missing_ok=True)
        return
    with response:
        resumed = response.status == 206
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            if not resumed:  # the old data are gone
                write_text(version_file, _version(response.headers))
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                on_progress(done, total)
        incomplete = total is None and not response.chunked  # the end of the connection may be an interruption
    if incomplete:
        raise ConnectionError("the server does not tell the length of the file")
    if total is not None and done < total:
        raise ConnectionError(f"{done} of {total} bytes received")
    version_file.unlink(missing_ok=True)


def _version(headers: HTTPMessage) -> str:
    """Read the version of a file for `If-Range`, which takes no weak ETags; an empty string if there is none."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _read_version(file: Path) -> str:
    version = file.read_text("utf-8", "replace") if file.is_file() else ""
    return version if re.fullmatch("[ -~]+", version) else ""  # others are damaged


def compute_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str:
    """Read the checksum of the first download of a file; an empty string if there was none.

    Raises: `AtrousError` if the file of the checksum is damaged.
    """
    memory = _memory(path)
    if not memory.is_file():
        return ""
    digest = memory.read_text("utf-8", "replace").partition(" ")[0].strip()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise AtrousError(f"{memory}: expected a SHA-256 checksum. Remove this file and {path.name}, and try again.")
    return digest


def _remember_sha256(path: Path, digest: str) -> None:
    write_text(_memory(path), f"{digest}  {path.name}\n")
    log.info("%s: its publisher tells no checksum; remembered in %s.", path.name, _memory(path))


def _memory(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def has_sha256(path: Path, expected: str) -> bool:
    """Tell whether a file exists and its SHA-256 begins with `expected`."""
    return path.is_file() and compute_sha256(path).startswith(expected)


def check_sha256(path: Path, expected: str, *, remove: bool = False, source: str = "") -> None:
    """Raise `AtrousError` unless the file's SHA-256 begins with `expected`; with `remove`, remove a wrong file."""
    actual = compute_sha256(path)
    if not actual.startswith(expected):
        if remove:
            path.unlink()
        advice = "The file was removed: try again." if remove else "Download it again, or rename it if it is your own."
        if (memory := _memory(path.with_name(path.name.removesuffix(".part")))).is_file():
            advice += f" If the publisher has replaced the file since the first download, remove {memory}."
        raise AtrousError(
            f"{source or path}: the content differs from the released file (SHA-256 {actual[:16]}..., expected "
            f"{expected[:16]}...). {advice}"
        )
