"""Import weights of other projects, without running their code; one file per source format or library.

A module of a file format has `read(path) -> (model, card)`; `formats` recognizes the format by the content of the file.
State dicts are recognized by their keys, see `state_dict`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from atrous.weights.catalog import find_release
from atrous.weights.importers.formats import find_format

if TYPE_CHECKING:
    from atrous.card import Card
    from atrous.models import SegmentationModel


def import_file(path: Path) -> tuple[SegmentationModel, Card]:
    """Read a file of another project: the model with its weights, and a card for it.

    The card of a file that is listed in the catalog has its license, training data and published figures.

    Raises: `AtrousError` for a format that is not read, a damaged file, or a network that is not known.
    """
    card: Card
    model, card = import_module(f"{__name__}.{find_format(path).module}").read(path)
    release = find_release(path)
    return model, card if release is None else release.complete(card)
