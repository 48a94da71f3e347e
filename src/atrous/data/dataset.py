"""The data set class: pairs of an image and a mask, classes, and a reader of the masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.imaging.io import Pixels, read_image
from atrous.imaging.labels import Color, Labels, label_dtype
from atrous.registry import Registry


@dataclass(frozen=True)
class Item:
    """The files of one image; `mask` is None where there are no labels, as in test splits.

    `image_id` identifies the image in all data sets that contain it: collection and name, such as `voc/2007_000032`.
    Without one, the bytes of the file identify it.
    """

    name: str
    image: Path
    mask: Path | None
    image_id: str = ""


@dataclass(frozen=True)
class Sample:
    """An image with its labels, and the files they were read from.

    Shape: `image` (H, W, 3) uint8 RGB; `labels` (H, W) uint8 or uint16, all ignore index where `mask_path` is None.
    """

    image: Pixels
    labels: Labels
    name: str
    image_path: Path
    mask_path: Path | None
    weights: NDArray[np.float32] | None = None
    """(H, W), added to the class weights of the pixels in the loss; None for none."""

    def __repr__(self) -> str:
        """Summarize in one line: the name, the size and the labels that occur."""
        height, width = self.labels.shape
        present = ", ".join(map(str, np.unique(self.labels)))
        return f"<Sample {self.name}: {width} x {height} pixels, labels {present}>"


LabelReader: TypeAlias = Callable[[Item], Labels]
"""A function that reads the labels of an item that has a mask; picklable, for worker processes."""
InstancesReader: TypeAlias = Callable[[Item], NDArray[np.int32]]
"""A function that reads the numbers of the objects of an item that has a mask, 0 for the background."""


@dataclass(frozen=True)
class SegmentationDataset:
    """One split of a data set: a map-style data set of `Sample`s for a `DataLoader`.

    It holds paths, not pixels, so pickling and forking it is cheap. To make a data set of your own, give it items and a
    reader such as `MaskReader`.
    """

    name: str
    split: str
    items: tuple[Item, ...]
    classes: tuple[str, ...]
    """The names of the classes, in the order of the labels."""
    colors: tuple[Color, ...]
    """The RGB color of each class."""
    reader: LabelReader
    """Reads the labels of an item."""
    ignore_index: int = 255
    instances: InstancesReader | None = None
    """Reads the numbers of the objects, where masks tell objects apart; None where they do not."""
    splits: tuple[str, ...] = ()
    """Names of the mutually disjoint splits found on disk."""
    listing_errors: tuple[str, ...] = ()
    """Errors found while listing the files, such as images without a mask, which are not among the items."""

    def __post_init__(self) -> None:
        if len(self.colors) != len(self.classes):
            raise AtrousError(
                f"{self.name}: {len(self.classes)} classes but {len(self.colors)} colors; give one color per class."
            )
        if 0 <= self.ignore_index < len(self.classes):
            raise AtrousError(
                f"{self.name}: the ignore index {self.ignore_index} is also the label of "
                f"'{self.classes[self.ignore_index]}'; choose a number that is not a label, such as 255."
            )

    def __repr__(self) -> str:
        """Summarize in one line: name, split, the numbers of images and classes."""
        return f"<SegmentationDataset {self.name} {self.split}: {len(self)} images, {len(self.classes)} classes>"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Read a sample.

        Raises: `AtrousError` for files that are missing or damaged, sizes that differ, and values without a class.
        """
        item = self.items[index]
        image = read_image(item.image)
        labels = self.labels(index) if item.mask is not None else self._ignored(image)
        if labels.shape != image.shape[:2]:
            raise AtrousError(size_mismatch_message(item, image.shape[:2], labels.shape[:2]))
        return Sample(image, labels, item.name, item.image, item.mask)

    def labels(self, index: int) -> Labels:
        """Read the labels of a sample without its image.

        Raises: `AtrousError` as `[index]` does, and for an image without labels.
        """
        item = self.items[index]
        if item.mask is None:
            raise AtrousError(
                f"{item.image}: the split '{self.split}' of {self.name} has no labels. Choose a split with labels."
            )
        return self.reader(item)

    def _ignored(self, image: Pixels) -> Labels:
        dtype = label_dtype(len(self.classes), self.ignore_index)
        return np.full(image.shape[:2], self.ignore_index, dtype)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the images, as in the lists of the data set."""
        return tuple(item.name for item in self.items)

    def select(self, indices: Iterable[int]) -> SegmentationDataset:
        """Make a data set of the items at `indices`, in their order; an index may be repeated."""
        return replace(self, items=tuple(self.items[index] for index in indices))


DATASETS: Registry[SegmentationDataset] = Registry("data set", "atrous data list")


def size_mismatch_message(item: Item, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    """Describe the different sizes, (height, width), of an image and its mask, with the cause if it is a rotation."""
    cause = " One is the other rotated: check the EXIF orientation." if image == mask[::-1] else ""
    return (
        f"{item.image} is {image[1]} x {image[0]}, but its mask {item.mask} is {mask[1]} x {mask[0]}; "
        f"both must have the same size.{cause}"
    )
