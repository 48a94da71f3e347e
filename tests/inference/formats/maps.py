"""Label maps for tests of the formats."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from atrous.inference import Segmentation


@st.composite
def label_maps(draw: st.DrawFn, ignored: bool = True) -> tuple[NDArray[np.uint8], int]:
    """Random label maps with their number of classes; with `ignored`, some pixels are 255."""
    num_classes = draw(st.integers(1, 4))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    values = st.integers(0, num_classes - 1)
    return draw(npst.arrays(np.uint8, shape, elements=values | st.just(255) if ignored else values)), num_classes


def smooth_map(height: int, width: int, num_classes: int, seed: int = 0) -> NDArray[np.uint8]:
    """A label map with regions of many sizes, and holes in them."""
    scores = np.random.default_rng(seed).normal(size=(height // 30 + 2, width // 30 + 2, num_classes))
    resized = cv2.resize(scores.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(resized.reshape(height, width, num_classes).argmax(2), np.uint8)


def segmentation_of(labels: NDArray[np.integer], num_classes: int) -> Segmentation:
    """A segmentation with these labels."""
    names = tuple(f"class {label}" for label in range(num_classes))
    colors = tuple((label, 2 * label % 256, 255) for label in range(num_classes))
    return Segmentation(np.zeros((*labels.shape, 3), np.uint8), labels, names, colors)
