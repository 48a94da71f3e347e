"""Unaries of the drop-in: errors that the original lets pass, and the deprecated names."""

from __future__ import annotations

import numpy as np
import pytest

from atrous.crf.pydensecrf import utils
from tests.crf.crf_samples import random_probabilities


def test_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"labels lie in 0\.\.7"):
        utils.unary_from_labels(np.array([0, 7]), 3, 0.7)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"`gt_prob` must be in \(0,1\)"):
        utils.unary_from_labels(np.array([0, 1]), 3, 1.5)
    with pytest.raises(ValueError, match=r"`scale` needs to be in \(0,1\]"):
        utils.unary_from_softmax(random_probabilities(3, 4, 5), scale=2)


def test_deprecated_names() -> None:
    labels, soft = np.array([1, 0, 2]), random_probabilities(3, 4, 5)
    with pytest.deprecated_call():
        np.testing.assert_array_equal(utils.compute_unary(labels, 2), utils.unary_from_labels(labels, 2, 0.5))
    with pytest.deprecated_call():
        np.testing.assert_array_equal(utils.softmax_to_unary(soft), utils.unary_from_softmax(soft, clip=None))
