"""Read and write files on this machine, in object stores, and in any place that fsspec knows, always completely."""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import url2pathname

from atrous.errors import AtrousError
from atrous.files import writing

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

OBJECT_STORES = ("s3", "s3a", "gcs", "gs", "abfs", "abfss", "az", "memory")
"""The kinds of storage in which a new object appears complete or not at all, by their names in Arrow and fsspec."""
ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
"""The schemes that Arrow opens by itself; fsspec opens all others."""
PACKAGES = {
    "http": "aiohttp",
    "https": "aiohttp",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "az": "adlfs",
    "hf": "huggingface_hub",
}
"""The packages that fsspec needs for a scheme."""


@dataclass(frozen=True)
class StoredFile:
    """A file below the folder of a `Storage`: its relative path, its size in bytes, and when it changed, in ns."""

    path: str
    size: int
    modified: int


def is_remote(text: str) -> bool:
    """Tell whether a text is the address of a place other than this machine, such as `s3://bucket/photos`."""
    return "://" in text


def to_path(text: str) -> str:
    """Convert an address that begins with `file://` to the path on this machine; others and paths stay as they are."""
    return url2pathname(urlsplit(text).path) if text.startswith("file://") else text


class Storage:
    """A folder, or a single file, on this machine or at an address such as `s3://bucket/photos`.

    Paths are relative to it, with `/`. It can be pickled, and opened by other processes and machines.

    Raises: `AtrousError` for an address of an unknown kind, or one that needs a package that is not installed.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self.address = to_path(os.fspath(address))
        self.folder = None if is_remote(self.address) else Path(self.address)
        self._filesystem, self._root = _open(self.address)
        self._is_object_store = not _kinds(self._filesystem).isdisjoint(OBJECT_STORES)

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.address,)

    def name(self, path: str = "") -> str:
        """Return the address of a file, without options such as the key of an account."""
        if self.folder is not None:
            return str(self.folder / path)
        return posixpath.join(self.address.partition("?")[0], path) if path else self.address.partition("?")[0]

    def list(self) -> Iterator[StoredFile]:
        """List all files, in the order of their paths; none where there is no such folder.

        A storage that is a single file lists it with an empty path.

        Raises: `AtrousError` if the place cannot be reached.
        """
        from pyarrow.fs import FileSelector, FileType

        try:
            root = self._filesystem.get_file_info(self._root)
            if root.type == FileType.File:
                yield StoredFile("", root.size or 0, root.mtime_ns or 0)
                return
            selector = FileSelector(self._root, allow_not_found=True, recursive=True)
            infos = [info for info in self._filesystem.get_file_info(selector) if info.type == FileType.File]
        except OSError as error:
            raise self._error("cannot be listed", "", error) from error
        for info in sorted(infos, key=lambda info: PurePosixPath(info.path)):
            path = posixpath.relpath(info.path.replace("\\", "/"), self._root)
            yield StoredFile(path, info.size or 0, info.mtime_ns or 0)

    def locate(self, other: Storage) -> str | None:
        """Find the path of another storage that is below this one; None if it is elsewhere."""
        root, path = PurePosixPath(self._root), PurePosixPath(other._root)
        below = self._filesystem == other._filesystem and root in path.parents
        return path.relative_to(root).as_posix() if below else None

    def read(self, path: str) -> bytes:
        """Read a file.

        Raises: `AtrousError` if it is missing or cannot be read.
        """
        try:
            with self._filesystem.open_input_stream(self._path(path), compression=None) as file:
                return bytes(file.read())
        except OSError as error:
            raise self._error("cannot be read", path, error) from error

    def read_ends(self, path: str, count: int) -> bytes | None:
        """Read the first and the last `count` bytes of a file; None where there is no such file.

        Raises: `AtrousError` if it cannot be read.
        """
        try:
            with self._filesystem.open_input_file(self._path(path)) as file:
                size = file.size()
                return bytes(file.read_at(min(count, size), 0)) + bytes(file.read_at(count, max(0, size - count)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error("cannot be read", path, error) from error

    def write(self, path: str, content: bytes) -> None:
        """Write a file completely or not at all; folders are created.

        Object stores do so by themselves; elsewhere a file is written beside the final one and renamed.

        Raises: `AtrousError` if it cannot be written.
        """
        if self.folder is not None:
            with writing(self.folder / path) as temporary:
                temporary.write_bytes(content)
            return
        final = self._path(path)
        target = final
        try:
            if not self._is_object_store:
                folder, name = posixpath.split(final)
                self._filesystem.create_dir(folder, recursive=True)
                target = posixpath.join(folder, f".{secrets.token_hex(4)}.{name}")
            stream = self._filesystem.open_output_stream(target, compression=None)
            stream.write(content)
            stream.close()  # only now the object exists: an error before leaves none
            if target != final:
                self._filesystem.move(target, final)
        except OSError as error:
            raise self._error("cannot be written", path, error) from error

    def _path(self, path: str) -> str:
        return posixpath.join(self._root, path) if path else self._root

    def _error(self, problem: str, path: str, error: OSError) -> AtrousError:
        reason = " ".join(str(error).split())[:300]
        return AtrousError(f"{self.name(path)}: {problem} ({reason}). Check the address and the permissions.")


def _open(address: str) -> tuple[FileSystem, str]:
    """Open the file system of an address by Arrow, or by fsspec, and find the path in it."""
    from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

    if not is_remote(address):
        return LocalFileSystem(), Path(address).absolute().as_posix()
    scheme = urlsplit(address).scheme.lower()
    try:
        if scheme in ARROW_SCHEMES:
            filesystem, path = FileSystem.from_uri(_to_uri(address))
        else:
            from fsspec.core import url_to_fs

            opened, path = url_to_fs(address)
            filesystem = PyFileSystem(FSSpecHandler(opened))
    except ImportError as error:
        package = PACKAGES.get(scheme, error.name or scheme)
        raise AtrousError(f"{address}: addresses of {scheme} need another package: pip install {package}.") from error
    except (OSError, ValueError) as error:
        raise AtrousError(
            f"{address}: not an address that can be opened ({' '.join(str(error).split())[:300]}). Expected for "
            "example s3://bucket/folder or gs://bucket/folder."
        ) from error
    return filesystem, path.rstrip("/") or path


def _to_uri(address: str) -> str:
    """Escape the names in an address, and add the endpoint of `AWS_ENDPOINT_URL`, which Arrow does not read, for S3."""
    path, question, options = address.partition("?")
    address = f"{quote(path, safe=':/@')}{question}{options}"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    parts = urlsplit(address)
    if parts.scheme != "s3" or not endpoint or "endpoint_override" in parts.query:
        return address
    added = {"endpoint_override": urlsplit(endpoint).netloc, "scheme": urlsplit(endpoint).scheme}
    if "region" not in parts.query:
        added["region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return f"{address}{'&' if parts.query else '?'}{urlencode(added)}"


def _kinds(filesystem: FileSystem) -> set[str]:
    """Return the names of a kind of storage in Arrow and fsspec, such as `gs` and `gcs`."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    if isinstance(filesystem, PyFileSystem) and isinstance(filesystem.handler, FSSpecHandler):
        protocol = filesystem.handler.fs.protocol
        return {protocol} if isinstance(protocol, str) else set(protocol)
    return {filesystem.type_name}


@lru_cache(maxsize=64)
def open_storage(address: str) -> Storage:
    """Open a storage once per process.

    Raises: `AtrousError` as `Storage` does.
    """
    return Storage(address)
