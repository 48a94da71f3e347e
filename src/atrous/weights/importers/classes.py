"""Name the classes of imported networks, whose files give no more than their number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from atrous.data.datasets import ade20k, cityscapes, voc
from atrous.errors import AtrousError
from atrous.imaging.labels import voc_color_map

MAX_CLASSES = 10_000
"""More classes than any data set has: what a damaged file may claim."""


@dataclass(frozen=True)
class ClassTable:
    """Names and colors of the classes of a network."""

    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    data: str = ""
    """The data set the names come from: "VOC", "Cityscapes", "ADE20K", or "" for numbered classes."""


_TABLES = {
    21: ClassTable(voc.CLASSES, voc.COLORS, "VOC"),
    19: ClassTable(cityscapes.CLASSES, cityscapes.COLORS, "Cityscapes"),
    150: ClassTable(ade20k.CLASSES, ade20k.COLORS, "ADE20K"),
    151: ClassTable(("other", *ade20k.CLASSES), ((0, 0, 0), *ade20k.COLORS), "ADE20K"),
}
"""The data sets of released networks, by the number of classes; with 151, class 0 is ADE20K's "other objects"."""


def name_classes(count: int, path: Path) -> ClassTable:
    """Name the classes of a network after the data set with this number of classes, else by numbers.

    Raises: `AtrousError` for a number that no data set has.
    """
    numbered = number_classes(count, path)
    return _TABLES.get(count, numbered)


def number_classes(count: int, path: Path) -> ClassTable:
    """Number the classes of a network: "class 0", "class 1".

    Raises: `AtrousError` for a number that no data set has.
    """
    if not 1 <= count <= MAX_CLASSES:
        raise AtrousError(
            f"{path}: the last layer has {count} classes; expected 1 to {MAX_CLASSES}. The file is damaged, or of "
            "another network."
        )
    return ClassTable(tuple(f"class {index}" for index in range(count)), voc_color_map(count))
