"""Weights in files and folders: saving, finding, loading.

A file of ours is a safetensors file whose metadata hold the card and a checksum of the tensors. Files of others are
read by importers. Nothing that is read here can run code.
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


@dataclass(frozen=True)
class Listed:
    """An id that `load` takes, and where its file lies; None where it would be downloaded."""

    name: str
    path: Path | None
    about: str
    megabytes: float | None


def save(
    model: SegmentationModel, path: str | os.PathLike[str], *, card: Card | None = None, half: bool = False
) -> Path:
    """Write a model and its card (by default `model.card`) to a safetensors file; `half` stores 16-bit floats.

    Raises: `AtrousError` for a model without a card, or a place that cannot be written.
    """
    path = Path(path)
    card = card or model.card
    if card is None:
        raise AtrousError("This model has no card: give one, for weights without a card cannot be used.")
    if path.suffix != SUFFIX:
        raise AtrousError(f"{path}: the name must end in {SUFFIX}.")
    tensors = {}
    for key, value in model.state_dict().items():
        floating = half and value.is_floating_point()
        tensors[key] = value.detach().to("cpu", torch.float16 if floating else value.dtype).contiguous()
    metadata = {"format": "pt", "atrous": card.model_dump_json(), "atrous_sha256": _digest(tensors)}
    with writing(path) as temporary:
        save_file(tensors, temporary, metadata)
    return path


def load(source: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> SegmentationModel:
    """A model in evaluation mode, with its card as `model.card`.

    `source` is an id (see `list_weights`), a safetensors file of ours, or a file that an importer reads. An id is
    looked for in the folders of `ATROUS_WEIGHTS`, in the user's cache, in the package; what is in none of them is
    downloaded to the cache, unless `ATROUS_OFFLINE` is set.

    Raises: `AtrousError` for an unknown id, a file that is damaged, altered or of an unknown kind, or a failed
    download.
    """
    path = find_weights(source)
    model, card = _read(path) if path.suffix == SUFFIX else import_file(path)
    model.card = card
    return model.eval().to(device)


def read_card(source: str | os.PathLike[str]) -> Card:
    """The card alone: of a safetensors file, without loading the tensors."""
    path = find_weights(source)
    return _metadata(path)[0] if path.suffix == SUFFIX else import_file(path)[1]


def write_card(path: str | os.PathLike[str], card: Card) -> None:
    """Give a safetensors file of ours another card, for example one with figures that were measured since.

    Raises: `AtrousError` for a file that is not ours or is damaged, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise AtrousError(f"{path}: only {SUFFIX} files hold a card; make one with `atrous import-weights`.")
    tensors, _ = _verified(path)
    metadata = {"format": "pt", "atrous": card.model_dump_json(), "atrous_sha256": _digest(tensors)}
    with writing(path) as temporary:
        save_file(tensors, temporary, metadata)


def find_weights(source: str | os.PathLike[str]) -> Path:
    """The file of a path or an id, downloaded if it is nowhere else.

    Raises: `AtrousError` where there is none.
    """
    path = Path(source)
    if path.is_file():
        _check_released(path)
        return path
    name = str(source)
    if path.is_dir():
        raise AtrousError(f"{path} is a folder: give a file in it, or set ATROUS_WEIGHTS={path} and give an id.")
    if name not in _known() and (path.suffix in (SUFFIX, *importable()) or len(path.parts) > 1):
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise AtrousError(f"{path}: there is no such file.{near}")
    if name not in _known():
        raise AtrousError(
            f"There are no weights '{name}'.{did_you_mean(name, _known())} `atrous weights` lists the {len(_known())} "
            f"that are known; a path to a file will do too."
        )
    return _find(name) or fetch(RELEASES[name].url, RELEASES[name].sha256)


def list_weights(pattern: str = "*") -> list[str]:
    """The ids that `load` takes and that match a wildcard, or hold the text."""
    return matching(pattern, _known())


def describe(name: str) -> Listed:
    """Where an id's file lies, and one line about it."""
    release = RELEASES.get(name)
    return Listed(name, _find(name), release.about if release else "", release.megabytes if release else None)


def cache_folder() -> Path:
    """Where downloads go: `ATROUS_CACHE`, else the system's place for caches."""
    given = os.environ.get("ATROUS_CACHE")
    return Path(given) if given else user_cache_path("atrous") / "weights"


def _folders() -> list[Path]:
    given = [Path(entry) for entry in os.environ.get("ATROUS_WEIGHTS", "").split(os.pathsep) if entry]
    return [folder for folder in (*given, cache_folder(), PACKAGED) if folder.is_dir()]


def _known() -> set[str]:
    stored = {path.name.removesuffix(SUFFIX) for folder in _folders() for path in folder.glob(f"*{SUFFIX}")}
    return stored | RELEASES.keys()


def find_file(name: str) -> Path | None:
    """A file of this name in the folders where weights are looked for."""
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
    """A file of a released name must have the released contents."""
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
    tensors, card = _verified(path)
    with torch.device("meta"):
        model = build_from_card(card)
    load_tensors(model, tensors, str(path))
    return model, card


def _verified(path: Path) -> tuple[dict[str, Tensor], Card]:
    """The tensors of a file of ours, which are those that were saved, and its card."""
    card, digest = _metadata(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise damaged_file_error(path, str(error)) from error
    if digest is not None and digest != _digest(tensors):
        raise damaged_file_error(path, "the tensors are not those that were saved")
    return tensors, card


def _metadata(path: Path) -> tuple[Card, str | None]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise damaged_file_error(path, str(error)) from error
    if "atrous" not in metadata:
        raise AtrousError(
            f"{path}: the file has no card, so its network and classes are unknown. It was not saved by atrous."
        )
    return Card.read(metadata["atrous"], str(path)), metadata.get("atrous_sha256")


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
