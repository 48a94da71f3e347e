"""Raster formats: labels as palette PNG, overlays, class probabilities."""

from __future__ import annotations

from atrous.errors import AtrousError
from atrous.imaging.io import encode_png
from atrous.imaging.labels import encode_labels
from atrous.imaging.probabilities import ClassProbabilities, encode_probabilities
from atrous.inference.formats.format import FormatOptions, Segmented
from atrous.marks import Mark

MAX_OVERLAY_SIDE = 4096
"""The longer side of an encoded overlay, at most."""


def encode_palette_png(segmentation: Segmented, file_name: str, options: FormatOptions, mark: Mark) -> bytes:
    """Encode the labels as a palette PNG, or as 16-bit gray above 256 classes."""
    return mark.in_png(encode_labels(segmentation.labels, segmentation.colors))


def encode_overlay(segmentation: Segmented, file_name: str, options: FormatOptions, mark: Mark) -> bytes:
    """Encode the overlay as a PNG, with sides of at most 4,096 pixels."""
    shrunk = segmentation.shrink(MAX_OVERLAY_SIDE)
    return mark.in_png(encode_png(shrunk.overlay(opacity=options.opacity, legend=options.legend)))


def encode_probability_maps(segmentation: Segmented, file_name: str, options: FormatOptions, mark: Mark) -> bytes:
    """Encode the class probabilities as 16-bit floats with the names and colors of the classes.

    Raises: `AtrousError` for a segmentation without probabilities.
    """
    if segmentation.probabilities is None:
        raise AtrousError("This result has no probabilities: ask for them by segmenter(image, probabilities=True).")
    maps = ClassProbabilities(segmentation.probabilities, segmentation.classes, segmentation.colors)
    return encode_probabilities(maps, mark)
