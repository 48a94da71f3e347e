"""Encode a segmentation for the page's viewer, which draws it in the browser."""

from __future__ import annotations

import json

import cv2
import numpy as np
from numpy.typing import NDArray

from atrous.imaging.draw import UNPAINTED_CLASSES
from atrous.imaging.io import Pixels
from atrous.imaging.labels import count_labels
from atrous.inference.formats import FORMATS
from atrous.inference.segmentation import Segmentation

MAX_VIEW_SIDE = 2048
"""The longer side of what is shown, at most; the labels to download keep the size of the image."""

PHOTO_QUALITY = 92
"""The JPEG quality of the photograph that is shown below the classes."""


def encode_view(segmentation: Segmentation, *, photo: bool = False) -> bytes:
    """Encode a segmentation as one body: a header as JSON, and the parts that it lists by name and length.

    A number of 4 bytes, little-endian, is the length of the header. The parts are `labels`, 8 bits per pixel, or 16 for
    more than 256 classes; `probability` of the label of each pixel, 0 to 255, if the segmentation has probabilities;
    `png`, the labels at the size of the image as palette PNG; and `photo`, a JPEG, if asked for. The first two and the
    photo are shrunk to sides of at most `MAX_VIEW_SIDE`.
    """
    shown = segmentation.shrink(MAX_VIEW_SIDE)
    height, width = shown.labels.shape
    dtype = "<u1" if len(segmentation.classes) <= 256 else "<u2"
    parts = {"labels": shown.labels.astype(dtype).tobytes()}
    if segmentation.probabilities is not None:
        parts["probability"] = _label_probability(segmentation, height, width).tobytes()
    parts["png"] = FORMATS["png"].encode(segmentation)
    if photo:
        parts["photo"] = _encode_jpeg(shown.image)
    counts = count_labels(segmentation.labels)
    fractions = np.zeros(len(segmentation.classes))
    fractions[: len(counts)] = counts[: len(fractions)] / segmentation.labels.size
    header = json.dumps(
        {
            "height": segmentation.labels.shape[0],
            "width": segmentation.labels.shape[1],
            "view_height": height,
            "view_width": width,
            "classes": segmentation.classes,
            "colors": segmentation.colors,
            "fractions": fractions.tolist(),
            "unpainted": [name for name in segmentation.classes if name.lower() in UNPAINTED_CLASSES],
            "parts": [(name, len(content)) for name, content in parts.items()],
        }
    ).encode()
    return b"".join([len(header).to_bytes(4, "little"), header, *parts.values()])


def _label_probability(segmentation: Segmentation, height: int, width: int) -> NDArray[np.uint8]:
    """Take the probability of each shown pixel's label, scaled to 0..255: (H, W) uint8."""
    assert segmentation.probabilities is not None
    rows, columns = (
        np.arange(new) * old // new for new, old in zip((height, width), segmentation.labels.shape, strict=True)
    )
    labels = segmentation.labels[np.ix_(rows, columns)]
    probability = segmentation.probabilities[labels, rows[:, None], columns]
    return np.rint(255 * probability.clip(0, 1)).astype(np.uint8)


def _encode_jpeg(pixels: Pixels) -> bytes:
    complete, content = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, PHOTO_QUALITY]
    )
    assert complete  # every array of 8-bit RGB can be encoded
    return content.tobytes()
