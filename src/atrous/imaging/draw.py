"""Draw label maps: overlays with outlines and legends, and contact sheets of labeled images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from atrous.errors import AtrousError
from atrous.imaging.io import Pixels, resize_image
from atrous.imaging.labels import Color, Labels, class_fractions

BACKGROUND_COLOR = (24, 24, 27)
TEXT_COLOR = (235, 235, 235)
HATCH_COLOR = (255, 255, 255)
"""The color that hatches ignored pixels."""
TILE_SIZE = 240
"""The longer side of an image on a contact sheet, in pixels."""
SHEET_COLUMNS = 3
MIN_SHEET_WIDTH = 320
"""The width of a comparison sheet, at least, so that captions and legend are readable."""
GAP = 3
"""The space between an image and its labels, in pixels."""
IGNORED_COLOR = (255, 255, 255)
"""The color of ignored pixels on a comparison sheet."""
UNPAINTED_CLASSES = ("background", "void", "unlabeled", "other")
"""The names of classes that an overlay leaves unpainted."""


class LabeledImage(Protocol):
    """An image with its label map and a name, such as a sample of a data set, on a contact sheet."""

    @property
    def image(self) -> Pixels:
        """Shape: (H, W, 3) uint8 RGB."""

    @property
    def labels(self) -> Labels:
        """Shape: (H, W)."""

    @property
    def name(self) -> str:
        """The text written below the image."""


@dataclass(frozen=True)
class Comparison:
    """An image with its true and its predicted labels, and the caption above them.

    Shape: (H, W, 3) uint8, (H, W) and (H, W).
    """

    image: Pixels
    truth: Labels
    prediction: Labels
    caption: str


def find_outlines(labels: Labels, thickness: int) -> NDArray[np.bool_]:
    """Mark the pixels where one class meets another, as a line of the given thickness.

    Shape: (H, W) -> (H, W).
    """
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return cv2.dilate(edge, np.ones((thickness, thickness), np.uint8)).astype(bool)


@lru_cache(maxsize=8)
def _load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def draw_legend(entries: Sequence[tuple[str, Color]], width: int, *, max_font_size: int = 32) -> Pixels:
    """Draw a legend: color patches with a text next to each, in as many lines as needed.

    The font grows with the width, up to `max_font_size` pixels.

    Shape: -> (H, `width`, 3) uint8.
    """
    size = int(np.clip(width / 40, 11, max_font_size))
    font = _load_font(size)
    gap = size // 2
    placed: list[tuple[int, int, str, Color]] = []
    x, line = gap, 0
    for text, color in entries:
        needed = size + gap + round(font.getlength(text)) + 2 * gap
        if x > gap and x + needed > width:
            x, line = gap, line + 1
        placed.append((x, line, text, color))
        x += needed
    pitch = round(1.6 * size)
    strip = Image.new("RGB", (width, pitch * (line + 1) + gap), BACKGROUND_COLOR)
    draw = ImageDraw.Draw(strip)
    for x, line, text, color in placed:
        top = gap // 2 + line * pitch + (pitch - size) // 2
        draw.rectangle((x, top, x + size - 1, top + size - 1), fill=color, outline=(160, 160, 160))
        draw.text((x + size + gap // 2, top + size / 2), text, font=font, fill=TEXT_COLOR, anchor="lm")
    return np.asarray(strip)


def draw_overlay(
    image: Pixels,
    labels: Labels,
    class_names: Sequence[str],
    colors: Sequence[Color],
    *,
    opacity: float = 0.55,
    legend: bool = True,
) -> Pixels:
    """Paint the classes over an image, outlined in white, with a legend of the classes and their fractions below.

    Background classes (`UNPAINTED_CLASSES`) are not painted.

    Shape: (H, W, 3) uint8 and (H, W) -> (H, W, 3) uint8, or (H + legend, W, 3).
    Raises: `AtrousError` for an opacity outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise AtrousError(f"opacity is {opacity}; expected a number from 0 to 1.")
    image = np.ascontiguousarray(image)  # OpenCV takes no mirrored views
    mixed = np.asarray(cv2.addWeighted(image, 1 - opacity, _color_labels(labels, colors), opacity, 0), np.uint8)
    unpainted = np.array([name.lower() in UNPAINTED_CLASSES for name in class_names])
    if unpainted.any():
        cv2.copyTo(image, unpainted.astype(np.uint8)[labels], mixed)
    outlines = find_outlines(labels, thickness=max(1, round(min(labels.shape) / 400)))
    mixed |= np.asarray(cv2.cvtColor(255 * outlines.view(np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)
    if not legend:
        return mixed
    entries = [
        (f"{name} {fraction:.0%}" if fraction >= 0.005 else f"{name} <1%", colors[class_names.index(name)])
        for name, fraction in class_fractions(labels, class_names).items()
    ]
    return np.vstack([mixed, draw_legend(entries, image.shape[1])])


def _color_labels(labels: Labels, colors: Sequence[Color]) -> Pixels:
    """Shape: (H, W) -> (H, W, 3) uint8."""
    packed = np.zeros((len(colors), 4), np.uint8)  # one integer for each color is faster to look up than three
    packed[:, :3] = colors
    four = packed.view(np.uint32)[:, 0][labels].view(np.uint8).reshape(*labels.shape, 4)
    return np.asarray(cv2.cvtColor(four, cv2.COLOR_RGBA2RGB), np.uint8)


def blend_labels(image: Pixels, labels: Labels, colors: Sequence[Color], *, opacity: float = 0.6) -> Pixels:
    """Blend the color of every class over an image and hatch ignored pixels in white.

    Shape: (H, W, 3) uint8 and (H, W) -> (H, W, 3) uint8.
    """
    table = np.zeros((int(labels.max(initial=0)) + 1, 3), np.float32)
    table[: len(colors)] = np.array(colors, np.float32)[: len(table)]
    mixed = image * (1 - opacity) + table[labels] * opacity
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    ignored = labels >= len(colors)
    mixed[ignored] = image[ignored]
    mixed[ignored & ((rows + columns) % 8 < 2)] = HATCH_COLOR
    mixed[find_outlines(labels, 1)] = 255
    return mixed.round().astype(np.uint8)


def contact_sheet(samples: Sequence[LabeledImage], classes: Sequence[str], colors: Sequence[Color]) -> Pixels:
    """Draw samples in rows of three, each as image and overlay with its name, above a legend of the classes that occur.

    Shape: -> (H, W, 3) uint8.
    """
    tiles = [_draw_tile(sample, colors) for sample in samples]
    columns = min(SHEET_COLUMNS, len(tiles))
    width = columns * tiles[0].shape[1]
    rows = []
    for first in range(0, len(tiles), columns):
        row = tiles[first : first + columns]
        rows.append(np.full((max(tile.shape[0] for tile in row), width, 3), BACKGROUND_COLOR, np.uint8))
        for number, tile in enumerate(row):
            rows[-1][: tile.shape[0], number * tile.shape[1] : (number + 1) * tile.shape[1]] = tile
    present = {label for sample in samples for label in np.unique(sample.labels).tolist()}
    entries = _legend_entries(present, classes, colors, HATCH_COLOR, "ignored (hatched)")
    return np.vstack([*rows, draw_legend(entries, width, max_font_size=18)])


def comparison_sheet(
    rows: Sequence[Comparison], classes: Sequence[str], colors: Sequence[Color], *, row_height: int = 240
) -> Pixels:
    """Draw image, true labels and predicted labels side by side, a row with a caption for each image, and a legend.

    Ignored pixels are white.

    Shape: -> (H, W, 3) uint8.
    """
    strips = [_draw_comparison(row, colors, row_height) for row in rows]
    width = max(MIN_SHEET_WIDTH, *(strip.shape[1] for strip in strips))
    parts = []
    for row, strip in zip(rows, strips, strict=True):
        parts += [_draw_caption(row.caption, width), _pad_to_width(strip, width)]
    present = {label for row in rows for labels in (row.truth, row.prediction) for label in np.unique(labels).tolist()}
    parts.append(draw_legend(_legend_entries(present, classes, colors, IGNORED_COLOR), width, max_font_size=18))
    return np.vstack(parts)


def _draw_comparison(row: Comparison, colors: Sequence[Color], height: int) -> Pixels:
    width = max(1, round(row.image.shape[1] * height / row.image.shape[0]))
    palette = np.full((65536, 3), IGNORED_COLOR, np.uint8)
    palette[: len(colors)] = colors
    gap = np.full((height, GAP, 3), BACKGROUND_COLOR, np.uint8)
    truth, prediction = (
        palette[cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)]
        for labels in (row.truth, row.prediction)
    )
    return np.hstack([resize_image(row.image, height, width), gap, truth, gap, prediction])


def _draw_caption(text: str, width: int) -> Pixels:
    """Write a line of text, shortened at its start to the width, where names of files are most alike."""
    font = _load_font(13)
    shown = text
    while len(shown) > 4 and font.getlength(shown) > width - 2 * GAP:
        shown = f"...{shown[4:]}"
    strip = Image.new("RGB", (width, 22), BACKGROUND_COLOR)
    ImageDraw.Draw(strip).text((GAP, 4), shown, font=font, fill=TEXT_COLOR)
    return np.asarray(strip)


def _pad_to_width(picture: Pixels, width: int) -> Pixels:
    padded = np.full((picture.shape[0], width, 3), BACKGROUND_COLOR, np.uint8)
    padded[:, : picture.shape[1]] = picture
    return padded


def _legend_entries(
    present: Iterable[int], classes: Sequence[str], colors: Sequence[Color], ignored: Color, name: str = "ignored"
) -> list[tuple[str, Color]]:
    labels = sorted(present)
    entries = [(classes[label], colors[label]) for label in labels if label < len(classes)]
    return [*entries, *([(name, ignored)] if labels and labels[-1] >= len(classes) else [])]


def _draw_tile(sample: LabeledImage, colors: Sequence[Color]) -> Pixels:
    margin, caption = 10, 20
    scale = TILE_SIZE / max(sample.labels.shape)
    height, width = (max(1, round(side * scale)) for side in sample.labels.shape)
    image = resize_image(sample.image, height, width)
    labels = cv2.resize(sample.labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    tile = Image.new("RGB", (2 * TILE_SIZE + GAP + 2 * margin, height + caption + 2 * margin), BACKGROUND_COLOR)
    for number, picture in enumerate((image, blend_labels(image, np.asarray(labels, sample.labels.dtype), colors))):
        left = TILE_SIZE + margin + (GAP if number else -width)  # next to each other, in the middle of the tile
        tile.paste(Image.fromarray(picture), (left, margin))
    name = sample.name if len(sample.name) <= 60 else f"...{sample.name[-57:]}"
    font = _load_font(13)
    ImageDraw.Draw(tile).text((TILE_SIZE + margin - width, height + margin + 4), name, font=font, fill=TEXT_COLOR)
    return np.asarray(tile)
