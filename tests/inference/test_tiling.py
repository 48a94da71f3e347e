from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous import AtrousError, Segmenter, create_model
from atrous.inference.tiling import TiledAxis
from tests.inference.networks import ChannelNetwork, SmallNetwork, letter_card, noise, rgb_card, waves

FIELD_OF_VIEW = 24
"""More than half the receptive field of `SmallNetwork`, in pixels."""


@given(length=st.integers(1, 900), tile=st.integers(1, 300), overlap=st.floats(0, 0.9), align_corners=st.booleans())
def test_windows_cover_and_their_weights_sum_to_one(
    length: int, tile: int, overlap: float, align_corners: bool
) -> None:
    axis = TiledAxis.cover(length, tile, overlap, align_corners=align_corners)
    assert axis.tile >= tile
    assert axis.padded_length >= length
    assert all(start % 32 == 0 for start in axis.starts)
    stride = 16
    count = (axis.tile - align_corners) // stride + align_corners
    assert axis.score_stride(count) == stride
    total = np.zeros((axis.padded_length - align_corners) // stride + align_corners)
    for start, share in zip(axis.starts, axis.blend_weights(stride), strict=True):
        assert share.shape == (count,)
        assert (share > 0).all()
        total[start // stride : start // stride + count] += share
    np.testing.assert_allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiled_equals_whole_away_from_seams(align_corners: bool, overlap: float) -> None:
    model = SmallNetwork(align_corners)
    height, width, tile = 640 + align_corners, 800 + align_corners, 320 + align_corners
    pixels = noise(height, width)
    whole = Segmenter(model, letter_card(align_corners), device="cpu")
    tiled = Segmenter(model, letter_card(align_corners), device="cpu", tile=tile, overlap=overlap)
    expected, result = whole.logits(pixels), tiled.logits(pixels)
    prediction = tiled.predict_coarse(pixels)
    far = np.ones((height, width), bool)
    for axis, side in ((prediction.rows, height), (prediction.columns, width)):
        for start in axis.starts:
            for seam in {start, start + axis.tile} - {0, axis.padded_length}:
                near = slice(max(0, seam - FIELD_OF_VIEW), seam + FIELD_OF_VIEW)
                far[(near, slice(None)) if side == height else (slice(None), near)] = False
    assert far.mean() > 0.2
    assert (result - expected).abs().amax(0).numpy()[far].max() < 1e-4
    labels, truth = tiled(pixels).labels, whole(pixels).labels
    assert (labels == truth)[far].all()
    assert (labels == truth).mean() > 0.9


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(("height", "width"), [(200, 333), (64, 64), (65, 500), (30, 20)])
def test_tiles_of_a_local_network_equal_the_whole(height: int, width: int, probabilities: bool) -> None:
    pixels = waves(height, width)
    whole = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")(pixels, probabilities=probabilities)
    model = ChannelNetwork()
    tiled = Segmenter(model, rgb_card(), device="cpu", tile=64)(pixels, probabilities=probabilities)
    assert (tiled.labels == whole.labels).mean() > 0.999
    assert max(max(image.shape[-2:]) for image in model.inputs) <= 64
    if probabilities:
        np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-3)


def test_tiles_of_a_real_network_agree_away_from_seams() -> None:
    model = create_model("fcn.resnet50", width=0.125, num_classes=3).eval()
    torch.nn.init.normal_(model.classifier[-1].weight, std=1.0)
    model.card = rgb_card()
    pixels = waves(320, 400)
    whole = Segmenter(model, device="cpu")(pixels).labels
    tiled = Segmenter(model, device="cpu", tile=257)(pixels).labels
    assert (whole == tiled).mean() > 0.9


@settings(max_examples=15)
@given(height=st.integers(1, 150), width=st.integers(1, 150), tile=st.integers(1, 100), align_corners=st.booleans())
def test_any_size_and_labels_are_those_of_the_probabilities(
    height: int, width: int, tile: int, align_corners: bool
) -> None:
    tiled = Segmenter(SmallNetwork(align_corners), letter_card(align_corners), device="cpu", tile=tile)
    pixels = noise(height, width)
    result = tiled(pixels, probabilities=True)
    assert result.probabilities.shape == (5, height, width)
    best = np.sort(result.probabilities, 0)
    sure = best[-1] - best[-2] > 1e-4
    labels = tiled(pixels).labels
    np.testing.assert_array_equal(labels[sure], result.labels[sure])


class IrregularNetwork(SmallNetwork):
    """A network whose scores lie on no regular grid of the input."""

    def scores(self, image: Tensor) -> Tensor:
        return super().scores(image)[..., 1:-2, 1:-2]


def test_scores_on_no_grid_are_blended_pixel_by_pixel() -> None:
    pixels = noise(150, 170)
    tiled = Segmenter(IrregularNetwork(False), letter_card(False), device="cpu", tile=96)
    assert tiled(pixels).labels.shape == (150, 170)
    model = IrregularNetwork(False)
    one = Segmenter(model, letter_card(False), device="cpu", tile=192)
    padded = Segmenter(model, letter_card(False, resize="pad", size=(192, 192)), device="cpu")
    torch.testing.assert_close(one.logits(pixels), padded.logits(pixels), rtol=1e-4, atol=1e-4)


def test_tiles_with_test_time_augmentation() -> None:
    pixels = noise(90, 130)
    result = Segmenter(SmallNetwork(True), letter_card(True), device="cpu", tile=65, tta="v3")(
        pixels, probabilities=True
    )
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)


def test_progress_counts_every_window() -> None:
    tiled = Segmenter(SmallNetwork(True), letter_card(True), device="cpu", tile=65)
    calls: list[tuple[int, int]] = []
    tiled.on_progress = lambda done, total: calls.append((done, total))
    tiled(noise(200, 200))
    assert calls == [(n, len(calls)) for n in range(1, len(calls) + 1)]
    assert len(calls) > 4


def test_invalid_windows_are_refused() -> None:
    for tile, overlap in ((0, 0.25), (64, 1.0), (64, -0.1)):
        with pytest.raises(AtrousError, match="tile"):
            Segmenter(SmallNetwork(True), letter_card(True), device="cpu", tile=tile, overlap=overlap)
