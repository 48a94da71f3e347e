"""Segmentations as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atrous.errors import AtrousError
from atrous.imaging.draw import draw_legend, find_outlines
from atrous.imaging.io import Pixels

if TYPE_CHECKING:
    from atrous.inference.segmenter import Segmentation

NAMES_OF_NOTHING = ("background", "void", "unlabeled", "other")
"""Classes that stay unpainted in an overlay."""


def draw_overlay(found: Segmentation, *, opacity: float, legend: bool) -> Pixels:
    """The image with its classes painted over it at `opacity`, outlined in white, and a legend below.

    Shape: -> (H + legend, W, 3) uint8.
    """
    if not 0 <= opacity <= 1:
        raise AtrousError(f"opacity {opacity}: it lies between 0 and 1.")
    colors = np.array(found.colors, np.float32)
    weight = np.full(len(found.classes), opacity, np.float32)
    weight[[index for index, name in enumerate(found.classes) if name.lower() in NAMES_OF_NOTHING]] = 0
    mixed = np.empty_like(found.image)
    for rows in np.array_split(np.arange(found.image.shape[0]), max(1, found.labels.size // 2**20)):
        part, alpha = found.labels[rows], weight[found.labels[rows]][..., None]  # in bands: floats are large
        mixed[rows] = found.image[rows] * (1 - alpha) + colors[part] * alpha
    mixed[find_outlines(found.labels, thickness=max(1, round(min(found.labels.shape) / 400)))] = 255
    return np.vstack([mixed, _legend(found)]) if legend else mixed


def _legend(found: Segmentation) -> Pixels:
    """The classes found and their shares."""
    entries = [
        (f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%", found.colors[found.classes.index(name)])
        for name, share in found.class_fractions().items()
    ]
    return draw_legend(entries, found.image.shape[1])
