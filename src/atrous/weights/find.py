"""Find the files of weights by id or path, and download those that are not on this machine; torch is not imported."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from atrous.errors import AtrousError, UnavailableError, did_you_mean
from atrous.progress import progress_bar
from atrous.registry import matching
from atrous.weights.catalog import RELEASES, Release, find_release
from atrous.weights.hub import HubId, download_headers, endpoint, find_hub_file, is_hub_id, is_offline
from atrous.weights.importers.formats import SAFETENSORS, Content, checkpoint_index, suffixes

log = logging.getLogger("atrous")

SUFFIX = ".safetensors"
PACKAGED = Path(__file__).parent / "packaged"
"""The folder of the weights that come with the package."""


@dataclass(frozen=True)
class WeightsInfo:
    """An id of weights and its file."""

    name: str
    path: Path | None
    """The file on this machine; None if it would be downloaded."""
    release: Release | None
    """The entry of the catalog; None for own weights."""


class DownloadNeededError(AtrousError):
    """A file that would have to be downloaded where downloads are disabled."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} would have to be downloaded.")
        self.url = url


@contextmanager
def downloads_disabled() -> Iterator[None]:
    """Raise `DownloadNeededError` within this context instead of downloading a file."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


_downloads = ContextVar("downloads", default=True)


def find_weights(source: str | os.PathLike[str]) -> Path:
    """Find the file of an id or a path; download it if it is not on this machine.

    Ids that begin with `hf://` are those of the Hugging Face hub, see `hub`.

    Raises: `AtrousError` for an unknown id, a missing file, or a failed download.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise AtrousError(f"The weights are {source!r}; expected an id, such as those of `atrous weights`, or a path.")
    if is_hub_id(source):
        return _find_on_hub(HubId.parse(os.fspath(source)))
    path = Path(source)
    if not path.is_file() and (index := checkpoint_index(path)):
        return index
    if path.is_file():
        _check_released(path)
        return path
    name = str(source)
    if path.is_dir():
        raise AtrousError(
            f"{path} is a folder; expected a file or an id. Name a file in it, or set ATROUS_WEIGHTS={path}."
        )
    if name not in _known() and (path.suffix in suffixes() or len(path.parts) > 1):
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise AtrousError(f"{path}: no such file.{near or ' Check the path.'}")
    if name not in _known():
        raise AtrousError(
            f"There are no weights '{name}'.{did_you_mean(name, _known())} `atrous weights` lists all {len(_known())}; "
            "the path of a file works too."
        )
    if file := _locate(name):
        _check_released(file)
        return file
    return fetch(RELEASES[name].url, RELEASES[name].sha256, RELEASES[name].file)


def _find_on_hub(wanted: HubId) -> Path:
    """Find a file of the hub in the cache, or download it; a damaged one is downloaded again."""
    from atrous.weights.download import has_sha256

    file = find_hub_file(wanted, hub_folder(), online=_downloads.get() and not is_offline())
    if file is None:
        url = f"{endpoint()}/{wanted.repo}"
        if _downloads.get():
            raise AtrousError(f"{wanted} is not in the cache, and connections are disabled: unset ATROUS_OFFLINE.")
        raise DownloadNeededError(url)
    if not has_sha256(file.path, file.sha256):
        if file.path.exists():
            log.warning("%s is damaged and is downloaded again.", file.path)
        advice = f"If the repository is restricted, accept its terms on {endpoint()}/{wanted.repo} and set HF_TOKEN."
        name = str(file.path.relative_to(cache_folder()))
        fetch(file.url, file.sha256, name, headers=download_headers, advice=advice)
    if not SAFETENSORS.recognizes(Content.read(file.path)):
        raise AtrousError(f"{file.id}: this is not a safetensors file, whatever its name; others are not read.")
    return file.path


def hub_folder() -> Path:
    """Locate the folder of files of the hub, in that of downloads."""
    return cache_folder() / "hub"


def list_weights(pattern: str = "*") -> list[str]:
    """List the ids of weights that match a wildcard, or contain a text.

    >>> atrous.list_weights("*voc")
    """
    return matching(pattern, _known())


def describe_weights(name: str) -> WeightsInfo:
    """Describe the weights of an id and locate their file, without downloading it or checking its content."""
    return WeightsInfo(name, _locate(name), RELEASES.get(name))


def cache_folder() -> Path:
    """Locate the folder of downloads: `ATROUS_CACHE`, else the user's cache folder on this system."""
    folder = os.environ.get("ATROUS_CACHE")
    if folder:
        return Path(folder)
    from platformdirs import user_cache_path

    return user_cache_path("atrous") / "weights"


def _folders() -> list[Path]:
    own = [Path(entry) for entry in os.environ.get("ATROUS_WEIGHTS", "").split(os.pathsep) if entry]
    return [folder for folder in (*own, cache_folder(), PACKAGED) if folder.is_dir()]


def is_read_only(path: Path) -> bool:
    """Tell whether a file of weights is part of the package or of the cache, whose files are never changed."""
    folders = path.resolve().parents
    return folders[0] in (PACKAGED.resolve(), cache_folder().resolve()) or hub_folder().resolve() in folders


def _known() -> set[str]:
    stored = {path.name.removesuffix(SUFFIX) for folder in _folders() for path in folder.glob(f"*{SUFFIX}")}
    return stored | RELEASES.keys()


def find_file(name: str) -> Path | None:
    """Find a file by its name in the folders of weights; None if there is none."""
    return next((folder / name for folder in _folders() if (folder / name).is_file()), None)


def _locate(name: str) -> Path | None:
    """Locate the file of an id on this machine."""
    files = [name + SUFFIX] + ([RELEASES[name].file] if name in RELEASES else [])
    return next((folder / file for folder in _folders() for file in files if (folder / file).is_file()), None)


def _check_released(path: Path) -> None:
    """Check that a file with the name of a released one has its checksum: the publisher's, or the remembered one."""
    release = find_release(path)
    if release is not None:
        from atrous.weights.download import check_sha256, remembered_sha256

        if expected := release.sha256 or remembered_sha256(path):
            check_sha256(path, expected)


def fetch(
    url: str,
    sha256: str,
    file: str = "",
    *,
    headers: Callable[[], Mapping[str, str]] | None = None,
    advice: str = "",
) -> Path:
    """Download a file of weights to the cache, with a progress bar; `file` is its name there, by default as in `url`.

    `headers` makes the headers of the request, `advice` ends the messages of failed downloads.

    Raises: `UnavailableError` without a connection, or if `ATROUS_OFFLINE` is set; `AtrousError` for a full disk or a
    wrong checksum; `DownloadNeededError` where downloads are disabled.
    """
    from atrous.weights.download import download

    path = cache_folder() / (file or url.rsplit("/", 1)[-1])
    if is_offline():
        raise UnavailableError(
            f"{path.name} is not on this machine, and ATROUS_OFFLINE is set. Get {url} and put it into a folder "
            f"listed in ATROUS_WEIGHTS{f' as {path.name}' if not url.endswith(path.name) else ''}."
        )
    if not _downloads.get():
        raise DownloadNeededError(url)
    with progress_bar(f"{path.name} -> {path.parent}", unit="bytes") as on_progress:
        return download(url, path, sha256, on_progress, headers=headers() if headers else {}, advice=advice)
