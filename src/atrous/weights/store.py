"""Save weights to files, find them by id or path, load them.

Weights are saved as safetensors files whose metadata contain the card and a checksum of the tensors. Files of other
projects are read by importers. Reading a file never runs code in it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError, did_you_mean
from atrous.files import writing
from atrous.models import SegmentationModel, build_from_card
from atrous.progress import progress_bar
from atrous.registry import matching
from atrous.weights.catalog import RELEASES
from atrous.weights.download import check_sha256, download
from atrous.weights.importers import import_file, importable
from atrous.weights.tensors import damaged_file_error, load_tensors

SUFFIX = ".safetensors"
PACKAGED = Path(__file__).parent / "packaged"
"""The folder of the weights that come with the package."""


@dataclass(frozen=True)
class WeightsInfo:
    """An id of weights and its file."""

    name: str
    path: Path | None
    """The file on this machine; None if it would be downloaded."""
    description: str
    megabytes: float | None
    """The size of the download; None if there is none."""


def save(
    model: SegmentationModel, path: str | os.PathLike[str], *, card: Card | None = None, half: bool = False
) -> Path:
    """Save a model and its card (by default `model.card`) to a safetensors file; `half` stores 16-bit floats.

    Raises: `AtrousError` for a model without a card, a name that does not end in .safetensors, or a file that is not
    writable.
    """
    path = Path(path)
    card = card or model.card
    if card is None:
        raise AtrousError(
            "This model has no card with its classes and preprocessing, which whoever loads the weights needs. Set "
            "model.card, or pass card=."
        )
    if path.suffix != SUFFIX:
        raise AtrousError(f"{path}: the name of a file of weights must end in {SUFFIX}; rename it.")
    tensors = {}
    for key, value in model.state_dict().items():
        floating = half and value.is_floating_point()
        tensors[key] = value.detach().to("cpu", torch.float16 if floating else value.dtype).contiguous()
    _write(tensors, card, path)
    return path


def _write(tensors: dict[str, Tensor], card: Card, path: Path) -> None:
    metadata = {"format": "pt", "atrous": card.model_dump_json(), "atrous_sha256": _digest(tensors)}
    with writing(path, sync=True) as temporary:
        save_file(tensors, temporary, metadata)


def load(source: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> SegmentationModel:
    """Load a segmentation network with its weights, in evaluation mode, by id or from a file.

        >>> import atrous
        >>> model = atrous.load("deeplab_v3_plus.efficientnet_lite0.camvid")
        >>> model.card.classes
        ('sky', 'building', 'pole', ...)

    `source` is an id (`atrous.list_weights()` lists them), a `.safetensors` file that atrous saved, or a file of
    another project that an importer reads (TensorFlow Lite, torchvision). The file of an id is searched for in the
    folders of the environment variable `ATROUS_WEIGHTS` (separated as in `PATH`), then in the user's cache
    (`ATROUS_CACHE` moves it), then in the package; otherwise it is downloaded to the cache, unless `ATROUS_OFFLINE` is
    set.

    The network takes normalized images; `model.card.preprocessing` describes how. `atrous.Segmenter.load` applies it,
    and takes photographs.

    Returns: the network on `device`; `model.card` has its classes, preprocessing, license and measured figures.
    Raises: `AtrousError` for an unknown id (with the nearest known ones), a file that is missing, damaged, altered or
    of an unknown format, and a failed download.
    """
    path = find_weights(source)
    model, card = _read(path) if path.suffix == SUFFIX else import_file(path)
    model.card = card
    return model.eval().to(device)


def read_card(source: str | os.PathLike[str]) -> Card:
    """Read the card of weights by id or from a file, without loading the tensors of a safetensors file.

    Raises: `AtrousError` as `load` does.
    """
    path = find_weights(source)
    return _metadata(path)[0] if path.suffix == SUFFIX else import_file(path)[1]


def write_card(path: str | os.PathLike[str], card: Card) -> None:
    """Replace the card of a safetensors file, for example to add measured figures; the tensors stay the same.

    Raises: `AtrousError` for a file without a card, a damaged file, or one that is not writable.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise AtrousError(f"{path}: only {SUFFIX} files contain a card; convert it with `atrous import-weights`.")
    tensors, _ = _read_verified(path)
    _write(tensors, card, path)


def find_weights(source: str | os.PathLike[str]) -> Path:
    """Find the file of an id or a path; download it if it is not on this machine.

    Raises: `AtrousError` for an unknown id, a missing file, or a failed download.
    """
    path = Path(source)
    if path.is_file():
        _check_released(path)
        return path
    name = str(source)
    if path.is_dir():
        raise AtrousError(
            f"{path} is a folder; expected a file or an id. Name a file in it, or set ATROUS_WEIGHTS={path}."
        )
    if name not in _known() and (path.suffix in (SUFFIX, *importable()) or len(path.parts) > 1):
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise AtrousError(f"{path}: no such file.{near or ' Check the path.'}")
    if name not in _known():
        raise AtrousError(
            f"There are no weights '{name}'.{did_you_mean(name, _known())} `atrous weights` lists all {len(_known())}; "
            "the path of a file works too."
        )
    return _find(name) or fetch(RELEASES[name].url, RELEASES[name].sha256)


def list_weights(pattern: str = "*") -> list[str]:
    """List the ids of weights that match a wildcard, or contain a text.

    >>> atrous.list_weights("*voc")
    """
    return matching(pattern, _known())


def describe_weights(name: str) -> WeightsInfo:
    """Describe the weights of an id and find their file, without downloading it."""
    release = RELEASES.get(name)
    return WeightsInfo(
        name, _find(name), release.description if release else "", release.megabytes if release else None
    )


def cache_folder() -> Path:
    """Locate the folder of downloads: `ATROUS_CACHE`, else the user's cache folder on this system."""
    folder = os.environ.get("ATROUS_CACHE")
    return Path(folder) if folder else user_cache_path("atrous") / "weights"


def _folders() -> list[Path]:
    own = [Path(entry) for entry in os.environ.get("ATROUS_WEIGHTS", "").split(os.pathsep) if entry]
    return [folder for folder in (*own, cache_folder(), PACKAGED) if folder.is_dir()]


def _known() -> set[str]:
    stored = {path.name.removesuffix(SUFFIX) for folder in _folders() for path in folder.glob(f"*{SUFFIX}")}
    return stored | RELEASES.keys()


def find_file(name: str) -> Path | None:
    """Find a file by its name in the folders of weights; None if there is none."""
    return next((folder / name for folder in _folders() if (folder / name).is_file()), None)


def _find(name: str) -> Path | None:
    files = [name + SUFFIX] + ([RELEASES[name].file] if name in RELEASES else [])
    for folder in _folders():
        for file in files:
            if (folder / file).is_file():
                _check_released(folder / file)
                return folder / file
    return None


def _check_released(path: Path) -> None:
    """Check that a file with the name of a released one has its checksum."""
    for release in RELEASES.values():
        if path.name == release.file:
            check_sha256(path, release.sha256)


def fetch(url: str, sha256: str) -> Path:
    """Download a file of weights to the cache, with a progress bar.

    Raises: `AtrousError` if the download fails, or if `ATROUS_OFFLINE` is set.
    """
    path = cache_folder() / url.rsplit("/", 1)[-1]
    if os.environ.get("ATROUS_OFFLINE"):
        raise AtrousError(
            f"{path.name} is not on this machine, and ATROUS_OFFLINE is set. Get {url} and put it into a folder "
            "listed in ATROUS_WEIGHTS."
        )
    with progress_bar(f"{path.name} -> {path.parent}", unit="bytes") as on_progress:
        return download(url, path, sha256, on_progress)


def _read(path: Path) -> tuple[SegmentationModel, Card]:
    tensors, card = _read_verified(path)
    with torch.device("meta"):
        model = build_from_card(card)
    load_tensors(model, tensors, str(path))
    return model, card


def _read_verified(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Read tensors and card, and check that the tensors are the saved ones."""
    card, digest = _metadata(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise damaged_file_error(path, str(error)) from error
    if digest is not None and digest != _digest(tensors):
        raise damaged_file_error(path, "the checksum of the tensors differs")
    return tensors, card


def _metadata(path: Path) -> tuple[Card, str | None]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise damaged_file_error(path, str(error)) from error
    if "atrous" not in metadata:
        raise AtrousError(
            f"{path}: this file has no card, so its network and classes are unknown; it was not saved by atrous. "
            "Import the original file with `atrous import-weights`."
        )
    return Card.read(metadata["atrous"], str(path)), metadata.get("atrous_sha256")


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
