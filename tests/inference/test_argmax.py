"""The fused resize and arg-max, against the two in turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.inference.argmax import resized_argmax
from atrous.layers.resize import resize


def smooth(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Scores of blobs: most cells have one candidate, the borders several."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, max(1, height // 5), max(1, width // 5), generator=generator)
    noise = 0.1 * torch.randn(classes, height, width, generator=generator)
    return resize(coarse, (height, width), align_corners=False)[0] * 4 + noise


@settings(max_examples=40)
@given(
    classes=st.integers(1, 30),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    to=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    corners=st.booleans(),
    seed=st.integers(0, 99),
    rough=st.booleans(),
)
def test_labels_are_those_of_resize_then_argmax(
    classes: int, height: int, width: int, to: tuple[int, int], corners: bool, seed: int, rough: bool
) -> None:
    scores = smooth(classes, height, width, seed)
    if rough:
        scores = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed))
    resized = resize(scores[None], to, align_corners=corners)[0]
    fused = resized_argmax(scores, to, align_corners=corners)
    assert fused.shape == to
    assert fused.dtype == np.uint8
    best = resized.topk(min(2, classes), 0).values
    clear = (best[0] - best[-1] > 1e-5).numpy() if classes > 1 else np.ones(to, bool)
    np.testing.assert_array_equal(fused[clear], resized.argmax(0).numpy()[clear])


def test_a_crop_is_the_upper_left_and_out_is_filled() -> None:
    scores = smooth(21, 33, 33, 1)
    whole = resized_argmax(scores, (257, 257), align_corners=True)
    out = np.zeros((100, 200), np.uint8)
    assert resized_argmax(scores, (257, 257), align_corners=True, crop=(100, 200), out=out) is out
    np.testing.assert_array_equal(out, whole[:100, :200])
    assert len(np.unique(whole)) > 3


@pytest.mark.parametrize("classes", [257, 300])
def test_more_than_256_classes(classes: int) -> None:
    scores = torch.zeros(classes, 2, 2)
    scores[classes - 1] = 1
    labels = resized_argmax(scores, (5, 5), align_corners=False)
    assert labels.dtype == np.uint16
    assert (labels == classes - 1).all()
