"""Probabilities from labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from atrous.crf import probabilities_from_labels
from atrous.errors import AtrousError


def test_labels_to_probabilities() -> None:
    p = probabilities_from_labels(np.array([[0, 2], [255, 1]]), 3, gt_prob=0.8)
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(p[:, 0, 0], [0.8, 0.1, 0.1], atol=1e-6)
    np.testing.assert_allclose(p[:, 1, 0], 1 / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: probabilities_from_labels(np.array([[0, 7]]), 3), r"labels hold \[7\], expected 0..2 or 255"),
        (lambda: probabilities_from_labels(np.zeros((2, 2)), 3), "labels are float64"),
        (lambda: probabilities_from_labels(np.zeros((2, 2), int), 3, gt_prob=1), "gt_prob is 1"),
        (lambda: probabilities_from_labels(np.zeros((2, 2), int), 1), "num_classes is 1"),
    ],
)
def test_bad_parameters(build: Any, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        build()
