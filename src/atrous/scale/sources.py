"""List the images of a job: of folders, files and patterns, on this machine and in object stores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO

from atrous.errors import AtrousError
from atrous.imaging.fetch import is_url
from atrous.imaging.io import IMAGE_SUFFIXES
from atrous.inference.jobs import ImageSource
from atrous.inference.sources import expand_source, named_stream, note_results
from atrous.scale.storage import Storage, is_remote, open_storage, to_path

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class StoredImage:
    """An image in an object store or another place that is not a folder of this machine."""

    address: str
    """The address of the folder, or of the image itself."""
    path: str
    """The path of the image in the folder; empty if the address is that of the image."""
    size: int
    modified: int

    def __str__(self) -> str:
        """The address of the image."""
        return open_storage(self.address).name(self.path)

    def open(self) -> BinaryIO:
        """Read the image.

        Raises: `AtrousError` if it is missing or cannot be read.
        """
        return named_stream(open_storage(self.address).read(self.path), str(self))

    def state(self) -> list[Any]:
        """Size and time of change, by which a changed image is recognized."""
        return [self.size, self.modified]


def list_images(
    texts: Iterable[str],
    *,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    results: str | None = None,
    allow_private: bool = False,
) -> dict[ImageSource, PurePath]:
    """List the images of files, folders, patterns and addresses, each with its path relative to folder or pattern.

    If `results`, a folder or an address, is inside a folder that is listed, its images are left out.

    Raises: `AtrousError` for standard input, and for a folder or pattern without images.
    """
    images: dict[ImageSource, PurePath] = {}
    place = None if results is None else open_storage(results)
    for text in map(to_path, texts):
        if text == "-":
            raise AtrousError("Standard input cannot be read by --ray: give a file, or leave out --ray.")
        if is_remote(text) and not is_url(text):
            images.update(_list_remote(text, suffixes, place))
        elif suffixes != IMAGE_SUFFIXES and Path(text).is_dir():
            files = sorted(path for path in Path(text).rglob("*") if path.suffix.lower() in suffixes)
            images.update((path, path.relative_to(text)) for path in files)
        else:
            folder = None if place is None else place.folder
            images.update(expand_source(text, results=folder, allow_private=allow_private))
    return images


def _list_remote(
    address: str, suffixes: tuple[str, ...], results: Storage | None
) -> Iterator[tuple[StoredImage, PurePosixPath]]:
    path, question, options = address.partition("?")
    pattern = ""
    if _MAGIC.search(path):
        segments = path.split("/")
        first = next(index for index, segment in enumerate(segments) if _MAGIC.search(segment))
        path, pattern = "/".join(segments[:first]), "/".join(segments[first:])
    folder = f"{path}{question}{options}"
    storage = Storage(folder)
    inside = None if results is None or pattern else storage.locate(results)
    images = left_out = 0
    for file in storage.list():
        relative = PurePosixPath(file.path or PurePosixPath(storage.name()).name)
        if not (_matches(relative, pattern) if pattern else relative.suffix.lower() in suffixes):
            continue
        if inside is not None and relative.is_relative_to(inside):
            left_out += 1
        else:
            images += 1
            image = StoredImage(storage.address, file.path, file.size, file.modified)
            yield image, PurePosixPath(relative.name) if pattern else relative
    if inside is not None:
        note_results(left_out, storage.name(inside))
    if not images:
        raise AtrousError(f"{storage.name()}: no images there ({', '.join(suffixes)}): check the address.")


def _matches(path: PurePosixPath, pattern: str) -> bool:
    parts = pattern.split("/")
    return len(parts) == len(path.parts) and all(map(fnmatchcase, path.parts, parts))


def absolute_name(source: ImageSource | str | Path) -> str:
    """Name a file so that two names of one file agree: its address, or its resolved path."""
    return str(source.resolve()) if isinstance(source, Path) else str(source)
