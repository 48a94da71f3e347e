"""The parts that all formats share: a segmentation as encoders see it, options, and the entry of the table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.imaging.io import Pixels
from atrous.imaging.labels import Color, Labels
from atrous.marks import Mark

PREDICTED = Mark("predict")
"""The mark in files of segmentations, where the caller gives no other."""


class Segmented(Protocol):
    """A segmentation as far as encoders need it; `atrous.inference.Segmentation` is one."""

    @property
    def image(self) -> Pixels:
        """Shape: (H, W, 3) uint8 RGB."""

    @property
    def labels(self) -> Labels:
        """Shape: (H, W)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""

    @property
    def colors(self) -> tuple[Color, ...]:
        """The colors of the classes."""

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """Shape: (K, H, W); None unless requested."""

    def shrink(self, max_side: int) -> Segmented:
        """Shrink image and labels to sides of at most `max_side` pixels."""

    def overlay(self, *, opacity: float = ..., legend: bool = ...) -> Pixels:
        """Paint the classes over the image."""


@dataclass(frozen=True)
class FormatOptions:
    """Options of the formats; each format uses those that concern it.

    Raises: `AtrousError` for a tolerance that is not a number from 0.
    """

    simplify: float = 0.0
    """Tolerance in pixels for the borders of polygons; at 0 they follow the edges of pixels exactly."""
    polygons: bool = False
    """Write COCO annotations as polygons instead of run lengths."""
    opacity: float = 0.55
    """Opacity of the classes in the overlay."""
    legend: bool = True
    """Draw the legend below the overlay."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.simplify) and self.simplify >= 0):
            raise AtrousError(f"simplify is {self.simplify}; expected a tolerance in pixels, 0 or more.")


Encoder: TypeAlias = Callable[[Segmented, str, FormatOptions, Mark], bytes]
"""Encode a segmentation: the file name of its image, options, and the mark of the command that writes the file."""


@dataclass(frozen=True)
class Format:
    """A file format of segmentations.

    `suffix` follows the stem of the image's name, as in `street_overlay.png`; `media_type` is that of HTTP.
    """

    name: str
    suffix: str
    media_type: str
    description: str
    encoder: Encoder
    needs_probabilities: bool = False

    def encode(
        self, segmentation: Segmented, *, file_name: str = "image", mark: Mark = PREDICTED, **options: Any
    ) -> bytes:
        """Encode a segmentation as the content of a file.

        `file_name` is the name of the image, which some formats refer to; `options` are those of `FormatOptions`.

        Raises: `AtrousError` for a segmentation without probabilities where they are needed, and invalid options.
        """
        return self.encoder(segmentation, file_name, FormatOptions(**options), mark)

    def path(self, labels: Path) -> Path:
        """Name the file of this format beside the label map `labels`, a *.png."""
        return labels.with_name(f"{labels.stem}{self.suffix}")
