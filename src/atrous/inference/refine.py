"""Segment an image and refine its labels with a fully connected CRF."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from atrous.imaging.io import ImageLike, read_image
from atrous.inference.segmentation import Segmentation
from atrous.inference.segmenter import Segmenter

if TYPE_CHECKING:
    from atrous.crf import CRFPreset


def segment(
    segmenter: Segmenter, image: ImageLike, crf: str | CRFPreset | None = None, *, probabilities: bool = False
) -> Segmentation:
    """Segment an image, and refine the labels with a CRF, by the name of its preset or as a `CRFPreset`, if one is set.

    Prediction and evaluation both use this function, so that what is measured is what is predicted. No class is pruned.
    `probabilities=True` keeps those of the network, before the CRF.

    Raises: `AtrousError` for an image that cannot be read, or an unknown preset.
    """
    if crf is None:
        return segmenter(image, probabilities=True) if probabilities else segmenter(image)
    from atrous.crf import dense_crf

    pixels = read_image(image)
    segmentation = segmenter(pixels, probabilities=True)
    assert segmentation.probabilities is not None
    labels = dense_crf(pixels, segmentation.probabilities, crf, output="labels")
    kept = segmentation.probabilities if probabilities else None
    return replace(segmentation, labels=labels.astype(segmentation.labels.dtype), probabilities=kept)
