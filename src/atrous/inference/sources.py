"""Expand the arguments of `atrous predict` to images: files, folders, patterns, web addresses, standard input."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from atrous.console import print_line
from atrous.errors import AtrousError
from atrous.imaging.fetch import MAX_BYTES, fetch, is_url
from atrous.inference.jobs import ImageSource


@dataclass(frozen=True)
class WebImage:
    """An image on the web."""

    url: str
    allow_private: bool

    def __str__(self) -> str:
        """The address."""
        return self.url

    def open(self) -> BinaryIO:
        """Fetch the image.

        Raises: `AtrousError` as `fetch`.
        """
        return named_stream(fetch(self.url, allow_private=self.allow_private), self.url)

    def state(self) -> list[Any]:
        """Nothing is known before the image is fetched."""
        return []


@dataclass(frozen=True)
class StandardInput:
    """An image that is piped into the command."""

    def __str__(self) -> str:
        """The argument that stands for standard input."""
        return "-"

    def open(self) -> BinaryIO:
        """Read all of the input.

        Raises: `AtrousError` if it is too large.
        """
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise AtrousError(f"standard input: more than {MAX_BYTES / 2**20:.0f} MiB. Give the image as a file.")
        return named_stream(content, "standard input")

    def state(self) -> list[Any]:
        """Nothing is known before it is read."""
        return []


def named_stream(content: bytes, name: str) -> BinaryIO:
    """Make an open file of bytes that has a name for the messages of errors."""
    file = io.BytesIO(content)
    file.name = name
    return file


def expand_source(
    text: str, *, results: Path | None = None, allow_private: bool = False
) -> list[tuple[ImageSource, Path]]:
    """Expand an argument to images, each with its path relative to the folder or pattern.

    If the folder `results` is inside the one that is expanded, its images are left out.

    Raises: `AtrousError` for a folder or pattern without images.
    """
    import glob

    from atrous.imaging.io import IMAGE_SUFFIXES
    from atrous.inference.video import VIDEO_SUFFIXES

    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if text == "-":
        return [(StandardInput(), Path("stdin"))]
    if is_url(text):
        return [(WebImage(text, allow_private), _file_name(text))]
    if "://" in text:
        raise AtrousError(f"{text}: not a file of this machine; --ray reads addresses such as s3://bucket/photos.")
    path = Path(text)
    if path.is_dir():
        files = _without_results(
            path, [p for p in sorted(path.rglob("*")) if p.suffix.lower() in suffixes and p.is_file()], results
        )
        videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        left_out = f"{len(videos)} video{'s' * (len(videos) > 1)} such as {videos[0]}" if videos else ""
        if not images:
            advice = f", but {left_out}: name each video itself." if videos else ": choose another one."
            raise AtrousError(f"{path}: the folder holds no images{advice}")
        if videos:
            print_line("[yellow]note[/]: {} left out; name videos themselves to segment them", left_out, stderr=True)
        return [(image, image.relative_to(path)) for image in images]
    if not path.exists() and glob.has_magic(text):
        folder = next(parent for parent in path.parents if parent.is_dir())  # its brackets are no pattern
        pattern = str(path.relative_to(folder))
        matches = sorted(folder / match for match in glob.glob(pattern, root_dir=folder, recursive=True))
        if not matches:
            raise AtrousError(f"'{text}' matches no file: check the folder and the suffix, such as 'photos/*.jpg'.")
        return [(match, Path(match.name)) for match in matches if match.is_file()]
    return [(path, Path(path.name))]


def _without_results(folder: Path, files: list[Path], results: Path | None) -> list[Path]:
    """Leave out the files in the folder of results, if that is inside the folder they were found in, and say so."""
    if results is None or folder.resolve() not in results.resolve().parents:
        return files
    inside = folder / results.resolve().relative_to(folder.resolve())
    kept = [file for file in files if inside not in file.parents]
    note_results(len(files) - len(kept), inside)
    return kept


def note_results(count: int, place: str | Path) -> None:
    """Tell that images inside the folder of results are left out, if there are any."""
    if count:
        template = "[yellow]note[/]: {} images in {}, where the results are, are left out"
        print_line(template, count, place, stderr=True)


def _file_name(url: str) -> Path:
    """Name the results of an address: by the last part of its path, of characters that every file system takes."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return Path(re.sub(r"[^\w.-]+", "_", name).strip("._")[:100] or "image")
