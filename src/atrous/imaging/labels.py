"""Label maps: classes as pixels, colors and files.

Masks come as index PNGs, as palette PNGs, in gray with 0 and 255, in color, with 16 bits, with an alpha channel nobody
meant. One reader takes them all, and knows no class that it was not told of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.io import open_image

Color: TypeAlias = tuple[int, int, int]
Labels: TypeAlias = NDArray[np.integer[Any]]
"""uint8, or uint16 where 8 bits do not hold the classes and the ignore index."""

UNKNOWN = 65535
"""What no stored value may be read as: it has no class. Labels end below it."""

LOSSY = ("JPEG", "MPO")
_ONE_CHANNEL = ("1", "L", "P", "LA", "PA", "I", "F")
"""Pillow's modes of masks that hold values, not colors; those of 16 bits beside."""
_SCALED_GRAY = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the gray values of 2 and 4 bits with, to fill 8."""


def voc_color_map(count: int) -> tuple[Color, ...]:
    """The color map of PASCAL VOC, for any number of classes: the bits of the label spread over red, green and blue.

    Source: `VOClabelcolormap.m` of the VOC development kit.
    """

    def color(label: int) -> Color:
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        return channels[0], channels[1], channels[2]

    return tuple(color(label) for label in range(count))


def label_dtype(num_classes: int, ignore_index: int) -> type[np.integer[Any]]:
    """The smallest type that holds all labels and the ignore index."""
    return np.uint8 if max(num_classes - 1, ignore_index) < 256 else np.uint16


def count_labels(labels: Labels) -> NDArray[np.int64]:
    """How many pixels have each value.

    Shape: any -> (256,) or (65536,).
    """
    if labels.dtype != np.uint8 or labels.ndim != 2:
        return np.bincount(labels.reshape(-1), minlength=65536 if labels.dtype == np.uint16 else 256)
    counts = np.zeros(256, np.int64)
    rows = max(1, 2**24 // max(labels.shape[1], 1))  # OpenCV counts in float32, exact up to there
    for top in range(0, labels.shape[0], rows):
        band: Any = np.ascontiguousarray(labels[top : top + rows])
        counts += cv2.calcHist([band], [0], None, [256], [0, 256]).reshape(-1).astype(np.int64)
    return counts


def class_fractions(labels: Labels, class_names: Sequence[str]) -> dict[str, float]:
    """Compute the fraction of the pixels that each class covers, for the classes that occur, the largest first."""
    counts = count_labels(labels)[: len(class_names)]
    order = np.argsort(-counts, kind="stable")
    return {class_names[index]: float(counts[index] / labels.size) for index in order if counts[index]}


def describe_classes(classes: tuple[str, ...], most: int = 12) -> str:
    """The classes with their labels, in a line: all of a few, the ends of many."""
    listed = [f"{label} {name}" for label, name in enumerate(classes)]
    return ", ".join(listed if len(listed) <= most else [*listed[:3], "...", listed[-1]])


def read_raw_mask(path: Path, *, as_colors: bool = False) -> NDArray[Any]:
    """The values of a mask file as they are stored: of a palette the indices, of gray the values, of color the RGB.

    Alpha is dropped, and what EXIF says of orientation is followed, as it is with images. `as_colors` gives colors of
    palettes and of gray as well.

    Shape: -> (H, W) uint8 or uint16, or (H, W, 3) uint8.
    Raises: `AtrousError` for a missing, truncated, empty or too large file, no image, a JPEG, floats or 16-bit color.
    """
    with open_image(path) as image:
        if image.format in LOSSY:
            raise AtrousError(
                f"{path}: a mask stored as JPEG, which blurs labels at every edge. Save the original as PNG instead."
            )
        raw = _raw_mode(image)
        if "16" in raw and not image.mode.startswith("I"):
            raise AtrousError(f"{path}: 16 bits in a mask of {raw}; 16 bits are read in gray only, colors have 8.")
        image = ImageOps.exif_transpose(image)
        if as_colors or not (image.mode in _ONE_CHANNEL or image.mode.startswith("I;16")):
            return np.asarray(image.convert("RGB"))
        values = np.asarray(image)
    if values.ndim == 3:  # with alpha
        values = values[..., 0]
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise AtrousError(
            f"{path}: values from {values.min():g} to {values.max():g} of {values.dtype}; whole numbers from 0 to "
            "65535 are expected. Save it as 8 or 16-bit gray."
        )
    if raw in _SCALED_GRAY:
        values = values // _SCALED_GRAY[raw]
    return values.astype(np.uint8 if values.dtype == np.uint8 else np.uint16)


def _raw_mode(image: Image.Image) -> str:
    """How the file packs its pixels; Pillow's mode alone hides bits that it drops or spreads."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode


class HasMask(Protocol):
    """An item of a data set, as far as `MaskReader` needs it."""

    @property
    def mask(self) -> Path | None:
        """The mask file; None where an image has no labels."""


@dataclass(frozen=True)
class MaskReader:
    """From a mask file to labels 0 to K - 1 and the ignore index, by the rules of one data set; nothing else gets out.

    `values` maps stored values to labels; without it a stored value is the label. `colors` maps the colors of masks
    in RGB to labels. `by_color` looks at the colors of palette and gray masks as well, whatever their indices are.
    """

    classes: tuple[str, ...]
    ignore_index: int = 255
    values: Mapping[int, int] | None = None
    colors: Mapping[Color, int] | None = None
    by_color: bool = False
    advice: str = "Correct the mask, or map the value to a class or to the ignore index."
    """What to do about a value without a class."""

    def __call__(self, item: HasMask) -> Labels:
        assert item.mask is not None
        return self.read(item.mask)

    def read(self, path: Path) -> Labels:
        """The labels of a mask file.

        Shape: -> (H, W) uint8, or uint16 where 8 bits do not hold them.
        Raises: `AtrousError` for a file that cannot be read, or holds a value or color without a class.
        """
        return self.decode(read_raw_mask(path, as_colors=self.by_color), path)

    def decode(self, stored: NDArray[Any], path: Path) -> Labels:
        """As `read`, of what `read_raw_mask` gave for `path`."""
        if stored.ndim == 2:
            return self._by_value(stored, path)
        if self.colors is not None:
            return self._by_color(stored, path)
        if (stored[..., 0] == stored[..., 1]).all() and (stored[..., 0] == stored[..., 2]).all():
            return self._by_value(np.ascontiguousarray(stored[..., 0]), path)  # gray, saved as RGB
        raise AtrousError(
            f"{path}: a mask in color, but it is not known which color is which class. Give the colors of the "
            f"classes ({describe_classes(self.classes)}), or save masks of class indices."
        )

    def _by_value(self, stored: NDArray[Any], path: Path) -> Labels:
        counts = count_labels(stored)
        found = np.flatnonzero(counts)
        unknown = found[self._table[found] == UNKNOWN]
        if unknown.size:
            listed = ", ".join(f"{value} ({counts[value]} px)" for value in unknown[:5])
            more = f" and {unknown.size - 5} more" if unknown.size > 5 else ""
            raise self._stranger(path, f"value{'s' * (unknown.size > 1)} {listed}{more}")
        dtype = label_dtype(len(self.classes), self.ignore_index)
        if self.values is None:
            return stored.astype(dtype, copy=False)
        if stored.dtype == np.uint8 and dtype == np.uint8:
            return np.asarray(cv2.LUT(stored, self._table[:256].astype(np.uint8)), np.uint8)
        return self._table[stored].astype(dtype)

    def _by_color(self, stored: NDArray[np.uint8], path: Path) -> Labels:
        assert self.colors is not None
        packed = pack_rgb(stored)
        labels = _color_table(tuple(self.colors.items()))[packed]
        lost = labels == UNKNOWN
        if lost.any():
            color, count = np.unique(packed[lost], return_counts=True)
            most = color[count.argmax()]
            rgb = (int(most >> 16), int(most >> 8 & 255), int(most & 255))
            raise self._stranger(path, f"{color.size} color{'s' * (color.size > 1)} such as {rgb} ({count.max()} px)")
        return labels.astype(label_dtype(len(self.classes), self.ignore_index))

    def _stranger(self, path: Path, found: str) -> AtrousError:
        coded = "" if self.values is None else f" (stored as {_shorten(sorted(self.values))})"
        return AtrousError(
            f"{path}: {found} found, of no class. Expected are {describe_classes(self.classes)}{coded}, and "
            f"{self.ignore_index} for what is ignored. {self.advice}"
        )

    @cached_property
    def _table(self) -> NDArray[np.uint16]:
        """Stored value -> label."""
        table = np.full(65536, UNKNOWN, np.uint16)
        values = self.values
        if values is None:
            values = {label: label for label in (*range(len(self.classes)), self.ignore_index)}
        for value, label in values.items():
            table[value] = label
        return table


def pack_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """RGB as one number, red in the highest of three bytes.

    Shape: (H, W, 3) -> (H, W).
    """
    four = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA)  # blue in the lowest byte, by little-endian order
    four[..., 3] = 0
    return four.view("<u4")[..., 0]


@lru_cache(maxsize=4)
def _color_table(colors: tuple[tuple[Color, int], ...]) -> NDArray[np.uint16]:
    """Packed color -> label, for all 2^24; 32 MB, of which only the pages of colors that occur are touched often."""
    table = np.full(2**24, UNKNOWN, np.uint16)
    for (red, green, blue), label in colors:
        table[red << 16 | green << 8 | blue] = label
    return table


def _shorten(values: list[int], most: int = 12) -> str:
    listed = [str(value) for value in values]
    return ", ".join(listed if len(listed) <= most else [*listed[:3], "...", listed[-1]])


def save_labels(labels: NDArray[np.integer], colors: Sequence[Color], path: Path) -> None:
    """Write a label map as a palette PNG, or as 16-bit gray where there are more than 256 classes.

    Labels without a color, such as 255 for what is ignored, get that of VOC.
    Raises: `AtrousError` for a place that cannot be written.
    """
    if len(colors) > 256:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8))
        palette = (*colors, *voc_color_map(256)[len(colors) :])
        picture.putpalette(np.array(palette, np.uint8).tobytes())  # makes it a palette image
    with writing(path) as temporary:
        picture.save(temporary, format="PNG")
