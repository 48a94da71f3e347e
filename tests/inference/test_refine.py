"""Segmentation refined by a fully connected CRF."""

from __future__ import annotations

import numpy as np
import pytest

from atrous import AtrousError, Segmenter
from atrous.crf import dense_crf, get_preset
from atrous.inference.refine import segment
from tests.inference.networks import ChannelNetwork, quadrants, rgb_card


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(ChannelNetwork(), rgb_card(), device="cpu")


def test_labels_are_those_of_the_crf_without_pruning(segmenter: Segmenter) -> None:
    image = quadrants(30, 40)
    expected = dense_crf(image, segmenter.probabilities(image).numpy(), "v2", output="labels")
    for crf in ("v2", get_preset("v2")):
        segmentation = segment(segmenter, image, crf)
        np.testing.assert_array_equal(segmentation.labels, expected)
        assert segmentation.labels.dtype == np.uint8
        assert segmentation.probabilities is None


def test_without_a_crf_labels_are_those_of_the_network(segmenter: Segmenter) -> None:
    image = quadrants(30, 40)
    np.testing.assert_array_equal(segment(segmenter, image).labels, segmenter(image).labels)


def test_an_unknown_preset(segmenter: Segmenter) -> None:
    with pytest.raises(AtrousError, match="Did you mean"):
        segment(segmenter, quadrants(30, 40), "V2")
