"""Segment an image and refine its labels with a fully connected CRF."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from atrous.imaging.io import ImageLike
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
    refined = refine_labels(segmenter(image, probabilities=True), crf)
    return refined if probabilities else replace(refined, probabilities=None)


def refine_labels(segmentation: Segmentation, crf: str | CRFPreset) -> Segmentation:
    """Refine the labels of a segmentation with probabilities by a CRF; the probabilities stay those of the network.

    Raises: `AtrousError` for an unknown preset, or a segmentation without probabilities.
    """
    from atrous.crf import dense_crf

    labels = dense_crf(segmentation.image, segmentation.probabilities, crf, output="labels")
    return replace(segmentation, labels=labels.astype(segmentation.labels.dtype))
