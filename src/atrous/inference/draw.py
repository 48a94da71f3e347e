"""Segmentations as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from atrous.data.images import Pixels
from atrous.errors import AtrousError

if TYPE_CHECKING:
    from atrous.inference.segmenter import Segmentation

NAMES_OF_NOTHING = ("background", "void", "unlabelled", "other")
"""Classes that stay unpainted in an overlay."""


def draw_overlay(found: Segmentation, *, opacity: float, legend: bool) -> Pixels:
    """The image with its classes painted over it at `opacity`, outlined in white, and a legend below.

    Shape: -> (H + legend, W, 3) uint8.
    """
    if not 0 <= opacity <= 1:
        raise AtrousError(f"opacity {opacity}: it lies between 0 and 1.")
    colours = np.array(found.colours, np.float32)
    weight = np.full(len(found.classes), opacity, np.float32)
    weight[[index for index, name in enumerate(found.classes) if name.lower() in NAMES_OF_NOTHING]] = 0
    mixed = np.empty_like(found.image)
    for rows in np.array_split(np.arange(found.image.shape[0]), max(1, found.labels.size // 2**20)):
        part, alpha = found.labels[rows], weight[found.labels[rows]][..., None]  # in bands: floats are large
        mixed[rows] = found.image[rows] * (1 - alpha) + colours[part] * alpha
    mixed[_outlines(found.labels, thickness=max(1, round(min(found.labels.shape) / 400)))] = 255
    return np.vstack([mixed, _legend(found)]) if legend else mixed


def _outlines(labels: NDArray[np.integer], thickness: int) -> NDArray[np.bool_]:
    """Where one class meets another."""
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return cv2.dilate(edge, np.ones((thickness, thickness), np.uint8)).astype(bool)


def _legend(found: Segmentation) -> Pixels:
    """A strip of colour patches with the names and shares of the classes found, in as many lines as it needs."""
    width = found.image.shape[1]
    size = int(np.clip(width / 40, 11, 32))
    font = ImageFont.load_default(size)
    gap = size // 2
    placed: list[tuple[int, int, str, str]] = []
    x, line = gap, 0
    for name, share in found.shares().items():
        text = f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%"
        needed = size + gap + round(font.getlength(text)) + 2 * gap
        if x > gap and x + needed > width:
            x, line = gap, line + 1
        placed.append((x, line, name, text))
        x += needed
    pitch = round(1.6 * size)
    strip = Image.new("RGB", (width, pitch * (line + 1) + gap), (24, 24, 27))
    draw = ImageDraw.Draw(strip)
    for x, line, name, text in placed:
        top = gap // 2 + line * pitch + (pitch - size) // 2
        colour = found.colours[found.classes.index(name)]
        draw.rectangle((x, top, x + size - 1, top + size - 1), fill=colour, outline=(160, 160, 160))
        draw.text((x + size + gap // 2, top + size / 2), text, font=font, fill=(235, 235, 235), anchor="lm")
    return np.asarray(strip)
