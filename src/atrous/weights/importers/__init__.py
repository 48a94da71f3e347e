"""Weights of others, read without running their code; one file per source format.

Each importer is a module with `read(path) -> (model, card)`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel

_BY_SUFFIX = {
    ".tflite": "atrous.weights.importers.tflite",
    ".pth": "atrous.weights.importers.torchvision",
    ".pt": "atrous.weights.importers.torchvision",
}


def importable() -> tuple[str, ...]:
    """The file name suffixes there is an importer for."""
    return tuple(_BY_SUFFIX)


def import_file(path: Path) -> tuple[SegmentationModel, Card]:
    """The model of a file, and the card it would have.

    Raises: `AtrousError` for a suffix without an importer, a damaged file, or contents the importer does not know.
    """
    if path.suffix not in _BY_SUFFIX:
        raise AtrousError(
            f"{path}: no weights are read from '{path.suffix}' files, only .safetensors, {', '.join(_BY_SUFFIX)}."
        )
    return import_module(_BY_SUFFIX[path.suffix]).read(path)
