"""Read and write label maps.

Masks come as index PNGs, palette PNGs, gray images of 0 and 255, color images, with 16 bits, with a stray alpha
channel. `MaskReader` reads them all, and reports every value or color that belongs to no class.
"""

from __future__ import annotations

import io
import zlib
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
from atrous.marks import Mark

Color: TypeAlias = tuple[int, int, int]
Labels: TypeAlias = NDArray[np.integer[Any]]
"""A label map (H, W): uint8, or uint16 where 8 bits do not hold the classes and the ignore index."""

UNKNOWN = 65535
"""Marks stored values without a class in lookup tables; labels are smaller."""

LOSSY = ("JPEG", "MPO")
"""Pillow's names of the formats whose compression changes label values."""
_ONE_CHANNEL = ("1", "L", "P", "LA", "PA", "I", "F")
"""Pillow's modes of masks that hold values, not colors, besides the modes of 16 bits."""
_SCALED_GRAY = {"L;2": 85, "L;4": 17}
"""The factors by which Pillow scales gray values of 2 and 4 bits up to 8 bits."""


@lru_cache(maxsize=8)
def voc_color_map(count: int) -> tuple[Color, ...]:
    """Compute the color map of PASCAL VOC for any number of classes: the label's bits spread over red, green and blue.

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
    """Choose the smallest integer type that holds all labels and the ignore index."""
    return np.uint8 if max(num_classes - 1, ignore_index) < 256 else np.uint16


def count_labels(labels: Labels) -> NDArray[np.int64]:
    """Count the pixels of each label value.

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
    return fractions_of_counts(count_labels(labels), class_names)


def fractions_of_counts(counts: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, float]:
    """Compute the fractions of the classes that occur from the number of pixels of each label value, the largest first.

    Shape: (256,) or (65536,), as `count_labels`.
    """
    total, counts = counts.sum(), counts[: len(class_names)]
    order = np.argsort(-counts, kind="stable")
    return {class_names[index]: float(counts[index] / total) for index in order if counts[index]}


def describe_classes(classes: tuple[str, ...], limit: int = 12) -> str:
    """List classes with their labels in one line, shortened to the first three and the last if there are many."""
    return _shorten([f"{label} {name}" for label, name in enumerate(classes)], limit)


def read_raw_mask(path: Path, *, as_colors: bool = False) -> NDArray[Any]:
    """Read the stored values of a mask file: palette indices, gray values, or RGB colors.

    Alpha is dropped and the EXIF orientation is applied, as for images. `as_colors` returns the RGB colors of palette
    and gray masks too.

    Shape: -> (H, W) uint8 or uint16, or (H, W, 3) uint8.
    Raises: `AtrousError` for a file that is missing, truncated, empty, too large or not an image, and for JPEG, floats
    and 16-bit color, which do not hold labels.
    """
    with open_image(path) as image:
        if image.format in LOSSY:
            raise AtrousError(
                f"{path}: this mask is a JPEG, whose compression changes labels along every edge. Save the original "
                "mask as PNG."
            )
        raw = _raw_mode(image)
        if "16" in raw and not image.mode.startswith("I"):
            raise AtrousError(
                f"{path}: this mask is 16-bit color ({raw}); expected 8 bits per color channel, or 16-bit gray. "
                "Save it with 8 bits per channel."
            )
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
            f"{path}: this mask holds {values.dtype} values from {values.min():g} to {values.max():g}; expected "
            "integers from 0 to 65535. Save it as 8-bit or 16-bit gray."
        )
    if raw in _SCALED_GRAY:
        values = values // _SCALED_GRAY[raw]
    return values.astype(np.uint8 if values.dtype == np.uint8 else np.uint16)


def _raw_mode(image: Image.Image) -> str:
    """Name the pixel format of the file itself; Pillow's mode hides bits that it drops or scales."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode


class HasMask(Protocol):
    """An item of a data set, as far as `MaskReader` needs it."""

    @property
    def mask(self) -> Path | None:
        """The mask file; None where an image has no labels."""


class UnknownValueError(AtrousError):
    """A mask with values or colors that belong to no class: which ones, and all `stored` values (none for colors)."""

    def __init__(
        self, message: str, unknown: tuple[str, ...] = (), stored: tuple[int, ...] = (), expected: str = ""
    ) -> None:
        super().__init__(message)
        self.unknown = unknown
        self.stored = stored
        self.expected = expected
        """The second half of the message: what was expected, and what to do."""


@dataclass(frozen=True)
class MaskReader:
    """Reads mask files as labels 0 to K - 1 and the ignore index, by the coding of one data set.

    A stored value or color without a class is an error, never a label.
    """

    classes: tuple[str, ...]
    """The names of the classes, in the order of the labels."""
    ignore_index: int = 255
    """The label of ignored pixels."""
    values: Mapping[int, int] | None = None
    """Stored value to label; None where the stored value is the label."""
    colors: Mapping[Color, int] | None = None
    """RGB color to label, for masks stored in color."""
    by_color: bool = False
    """Read palette and gray masks by their colors too, not by their indices and values."""
    advice: str = "Correct the mask, or map the value to a class or to the ignore index."
    """The last sentence of the error for a value without a class: what the user can do."""

    def __call__(self, item: HasMask) -> Labels:
        assert item.mask is not None
        return self.read(item.mask)

    def read(self, path: Path) -> Labels:
        """Read the labels of a mask file.

        Shape: -> (H, W) uint8, or uint16 where 8 bits do not hold them.
        Raises: `AtrousError` for a file that is not readable, or holds a value or color without a class.
        """
        return self.decode(read_raw_mask(path, as_colors=self.by_color), path)

    def decode(self, stored: NDArray[Any], path: Path) -> Labels:
        """Convert stored values, as `read_raw_mask` returns them, to labels; `path` is for error messages."""
        if stored.ndim == 2:
            return self._by_value(stored, path)
        if self.colors is not None:
            return self._by_color(stored, path)
        if (stored[..., 0] == stored[..., 1]).all() and (stored[..., 0] == stored[..., 2]).all():
            return self._by_value(np.ascontiguousarray(stored[..., 0]), path)  # gray, saved as RGB
        raise AtrousError(
            f"{path}: this mask is in color, but the colors of the classes ({describe_classes(self.classes)}) are "
            "unknown. List the color of each class, or save masks of class indices."
        )

    def _by_value(self, stored: NDArray[Any], path: Path) -> Labels:
        counts = count_labels(stored)
        present = np.flatnonzero(counts)
        unknown = present[self._table[present] == UNKNOWN]
        if unknown.size:
            listed = ", ".join(f"{value} ({counts[value]} px)" for value in unknown[:5])
            more = f" and {unknown.size - 5} more" if unknown.size > 5 else ""
            values = f"value{'s' * (unknown.size > 1)} {listed}{more}"
            raise self._unknown_value_error(path, values, tuple(map(str, unknown.tolist())), tuple(present.tolist()))
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
        unknown = labels == UNKNOWN
        if unknown.any():
            color, count = np.unique(packed[unknown], return_counts=True)
            most = color[count.argmax()]
            rgb = (int(most >> 16), int(most >> 8 & 255), int(most & 255))
            values = f"{color.size} color{'s' * (color.size > 1)} such as {rgb} ({count.max()} px)"
            raise self._unknown_value_error(path, values, (str(rgb),))
        return labels.astype(label_dtype(len(self.classes), self.ignore_index))

    def _unknown_value_error(
        self, path: Path, values: str, unknown: tuple[str, ...], stored: tuple[int, ...] = ()
    ) -> UnknownValueError:
        coding = "" if self.values is None else f" (stored as {_shorten(list(map(str, sorted(self.values))))})"
        listed = f"{describe_classes(self.classes)}{coding}"
        expected = f"Expected {listed}, and {self.ignore_index} for ignored pixels. {self.advice}"
        return UnknownValueError(f"{path}: {values} without a class. {expected}", unknown, stored, expected)

    @cached_property
    def _table(self) -> NDArray[np.uint16]:
        """The label of each stored value."""
        table = np.full(65536, UNKNOWN, np.uint16)
        values = self.values
        if values is None:
            values = {label: label for label in (*range(len(self.classes)), self.ignore_index)}
        for value, label in values.items():
            table[value] = label
        return table


def pack_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Pack RGB colors into one integer each, red in the highest of three bytes.

    Shape: (H, W, 3) -> (H, W).
    """
    four = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA)  # blue in the lowest byte, by little-endian order
    four[..., 3] = 0
    return four.view("<u4")[..., 0]


@lru_cache(maxsize=4)
def _color_table(colors: tuple[tuple[Color, int], ...]) -> NDArray[np.uint16]:
    """Make the table of labels by packed color: 2^24 entries, 32 MB; only the pages of used colors are read."""
    table = np.full(2**24, UNKNOWN, np.uint16)
    for (red, green, blue), label in colors:
        table[red << 16 | green << 8 | blue] = label
    return table


def _shorten(entries: Sequence[str], limit: int = 12) -> str:
    return ", ".join(entries if len(entries) <= limit else [*entries[:3], "...", entries[-1]])


def save_labels(labels: NDArray[np.integer], colors: Sequence[Color], path: Path, mark: Mark | None = None) -> None:
    """Save a label map as a PNG, see `encode_labels`, with the mark of the command that writes it, if any.

    Raises: `AtrousError` if the file cannot be written.
    """
    content = encode_labels(labels, colors)
    with writing(path) as temporary:
        temporary.write_bytes(content if mark is None else mark.in_png(content))


def encode_labels(labels: NDArray[np.integer], colors: Sequence[Color]) -> bytes:
    """Encode a label map as a palette PNG, or as 16-bit gray if 8 bits do not hold the classes and the labels.

    Labels without a color, such as 255 for ignored pixels, get the color of VOC's color map.
    """
    if len(colors) > 256 or labels.max(initial=0) > 255:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8))
        palette = (*colors, *voc_color_map(256)[len(colors) :])
        picture.putpalette(np.array(palette, np.uint8).tobytes())  # makes it a palette image
    content = io.BytesIO()
    picture.save(content, format="PNG", compress_type=zlib.Z_RLE)  # labels come in runs
    return content.getvalue()
