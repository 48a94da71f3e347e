"""What a data set is: pairs of an image and a mask, and what the masks mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from atrous.errors import AtrousError
from atrous.imaging.io import Pixels, read_image
from atrous.imaging.labels import Color, Labels, label_dtype
from atrous.registry import Registry


@dataclass(frozen=True)
class Item:
    """One image of a data set and where its labels lie; `mask` is None where there are none, as in test splits."""

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Sample:
    """An image and its labels, and the files they came from.

    `image` is (H, W, 3) uint8 RGB. `labels` is (H, W), uint8 or uint16, all ignore index where `label_path` is None.
    """

    image: Pixels
    labels: Labels
    name: str
    image_path: Path
    label_path: Path | None


LabelReader: TypeAlias = Callable[[Item], Labels]
"""Reads the labels of an item that has a mask. It must pickle, for worker processes."""


@dataclass(frozen=True)
class SegmentationDataset:
    """A split of a data set: a map-style data set for a `DataLoader`, whose items are `Sample`s.

    It holds paths, no pixels, so it pickles and forks at little cost. Own data sets are made by giving it items and a
    reader, see `MaskReader`.
    """

    name: str
    split: str
    items: tuple[Item, ...]
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    reader: LabelReader
    ignore_index: int = 255
    splits: tuple[str, ...] = ()
    """The splits that are there and share no image."""
    faults: tuple[str, ...] = ()
    """What was wrong with the listing: images without a mask, masks without an image; these are not among the items."""

    def __post_init__(self) -> None:
        if len(self.colors) != len(self.classes):
            raise AtrousError(f"{self.name}: {len(self.classes)} classes but {len(self.colors)} colors.")
        if 0 <= self.ignore_index < len(self.classes):
            raise AtrousError(
                f"{self.name}: the ignore index {self.ignore_index} is that of '{self.classes[self.ignore_index]}'."
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Raises: `AtrousError` for files that are missing, damaged, of unequal sizes, or with values of no class."""
        item = self.items[index]
        image = read_image(item.image)
        labels = self.labels(index) if item.mask is not None else self.unlabeled(image)
        if labels.shape != image.shape[:2]:
            raise AtrousError(size_mismatch_message(item, image.shape[:2], labels.shape[:2]))
        return Sample(image, labels, item.name, item.image, item.mask)

    def labels(self, index: int) -> Labels:
        """The labels alone, without reading the image.

        Raises: `AtrousError` as `[index]` does, and where there are none.
        """
        item = self.items[index]
        if item.mask is None:
            raise AtrousError(f"{item.image}: the split '{self.split}' of {self.name} has no labels.")
        return self.reader(item)

    def unlabeled(self, image: Pixels) -> Labels:
        """A label map for an image without labels: all is ignored."""
        dtype = label_dtype(len(self.classes), self.ignore_index)
        return np.full(image.shape[:2], self.ignore_index, dtype)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the images, as the data set's lists have them."""
        return tuple(item.name for item in self.items)

    def select(self, indices: Iterable[int]) -> SegmentationDataset:
        """The same data set with the items at `indices`, in their order; an index may come more than once."""
        return replace(self, items=tuple(self.items[index] for index in indices))


DATASETS: Registry[SegmentationDataset] = Registry("data set")


def size_mismatch_message(item: Item, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    """That an image and its mask have not one size, (height, width) each; and why, where it can be seen."""
    turned = " The one is the other turned: see the EXIF orientation." if image == mask[::-1] else ""
    return (
        f"{item.image} is {image[1]} x {image[0]}, its mask {item.mask} is {mask[1]} x {mask[0]}; "
        f"they must have one size.{turned}"
    )
