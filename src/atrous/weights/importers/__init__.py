"""Import weights of other projects, without running their code; one file per source format.

Each importer is a module with `read(path) -> (model, card)`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from atrous.errors import AtrousError

if TYPE_CHECKING:
    from atrous.card import Card
    from atrous.models import SegmentationModel

_BY_SUFFIX = {
    ".tflite": "atrous.weights.importers.tflite",
    ".pth": "atrous.weights.importers.torchvision",
    ".pt": "atrous.weights.importers.torchvision",
}


def importable() -> tuple[str, ...]:
    """List the file name suffixes that an importer reads."""
    return tuple(_BY_SUFFIX)


def import_file(path: Path) -> tuple[SegmentationModel, Card]:
    """Read a file of another project: the model with its weights, and a card for it.

    Raises: `AtrousError` for a suffix without an importer, a damaged file, or a network the importer does not know.
    """
    if path.suffix not in _BY_SUFFIX:
        raise AtrousError(
            f"{path}: cannot import weights from '{path.suffix}' files; expected .safetensors, {', '.join(_BY_SUFFIX)}."
        )
    return import_module(_BY_SUFFIX[path.suffix]).read(path)
