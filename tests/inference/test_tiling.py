from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from atrous import AtrousError, Segmenter
from atrous.card import Card, Preprocessing
from atrous.inference import memory, segmenter
from atrous.inference.tiling import TiledAxis
from atrous.models import SegmentationModel

SEEN_AROUND = 24
"""More than half the receptive field of `Small`, in pixels."""


class Small(SegmentationModel):
    """Two strided convolutions and a dilated one: a receptive field of 3 + 2 * 2 + 4 * 4 * 2 = 39 pixels."""

    num_classes = 5

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 3, 1, 4, 4)
        )
        for layer in self.body[::2]:
            nn.init.normal_(layer.weight, std=0.3)
        self.largest = 0

    output_stride = 4

    def scores(self, image: Tensor) -> Tensor:
        self.largest = max(self.largest, image.shape[-1] * image.shape[-2])
        return self.body(image)


def card(align_corners: bool, **how) -> Card:
    return Card(
        model="none",
        classes=tuple("abcde"),
        colors=((0, 0, 0),) * 5,
        preprocessing=Preprocessing(mean=(127.5,) * 3, std=(60,) * 3, **how),
        align_corners=align_corners,
    )


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(length=st.integers(1, 900), tile=st.integers(1, 300), overlap=st.floats(0, 0.9), align_corners=st.booleans())
def test_windows_cover_and_their_shares_sum_to_one(length: int, tile: int, overlap: float, align_corners: bool) -> None:
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
    model = Small(align_corners)
    height, width, tile = 640 + align_corners, 800 + align_corners, 320 + align_corners
    pixels = noise(height, width)
    whole = Segmenter(model, card(align_corners), device="cpu")
    tiled = Segmenter(model, card(align_corners), device="cpu", tile=tile, overlap=overlap)
    expected, found = whole.logits(pixels), tiled.logits(pixels)
    prediction = tiled.predict_coarse(pixels)
    far = np.ones((height, width), bool)
    for axis, side in ((prediction.rows, height), (prediction.columns, width)):
        for start in axis.starts:
            for seam in {start, start + axis.tile} - {0, axis.padded_length}:
                near = slice(max(0, seam - SEEN_AROUND), seam + SEEN_AROUND)
                far[(near, slice(None)) if side == height else (slice(None), near)] = False
    assert far.mean() > 0.2
    assert (found - expected).abs().amax(0).numpy()[far].max() < 1e-4
    labels, truth = tiled(pixels).labels, whole(pixels).labels
    assert (labels == truth)[far].all()
    assert (labels == truth).mean() > 0.9


@settings(max_examples=15)
@given(height=st.integers(1, 150), width=st.integers(1, 150), tile=st.integers(1, 100), align_corners=st.booleans())
def test_any_size_and_labels_are_those_of_the_probabilities(
    height: int, width: int, tile: int, align_corners: bool
) -> None:
    tiled = Segmenter(Small(align_corners), card(align_corners), device="cpu", tile=tile)
    pixels = noise(height, width)
    found = tiled(pixels, probabilities=True)
    assert found.probabilities.shape == (5, height, width)
    best = np.sort(found.probabilities, 0)
    sure = best[-1] - best[-2] > 1e-4
    labels = tiled(pixels).labels
    np.testing.assert_array_equal(labels[sure], found.labels[sure])


class Irregular(Small):
    """Scores on no regular grid of the input."""

    def scores(self, image: Tensor) -> Tensor:
        return super().scores(image)[..., 1:-2, 1:-2]


def test_scores_on_no_grid_are_blended_pixel_by_pixel() -> None:
    pixels = noise(150, 170)
    tiled = Segmenter(Irregular(False), card(False), device="cpu", tile=96)
    assert tiled(pixels).labels.shape == (150, 170)
    model = Irregular(False)
    one = Segmenter(model, card(False), device="cpu", tile=192)
    padded = Segmenter(model, card(False, resize="pad", size=(192, 192)), device="cpu")
    torch.testing.assert_close(one.logits(pixels), padded.logits(pixels), rtol=1e-4, atol=1e-4)


def test_tiles_may_be_looked_at_more_than_once() -> None:
    pixels = noise(90, 130)
    found = Segmenter(Small(True), card(True), device="cpu", tile=65, tta="v3")(pixels, probabilities=True)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)


def test_progress_is_told_of_every_window() -> None:
    tiled = Segmenter(Small(True), card(True), device="cpu", tile=65)
    told: list[tuple[int, int]] = []
    tiled.on_progress = lambda done, total: told.append((done, total))
    tiled(noise(200, 200))
    assert told == [(n, len(told)) for n in range(1, len(told) + 1)]
    assert len(told) > 4


def test_large_labels_lie_in_a_mapped_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMMAP_PIXELS", 1000)
    found = Segmenter(Small(True), card(True), device="cpu", tile=65)(noise(70, 80))
    assert isinstance(found.labels, np.memmap)
    assert sum(found.class_fractions().values()) == pytest.approx(1)


def test_an_image_that_would_not_fit_is_tiled_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(segmenter, "SMALL_IMAGE_PIXELS", 0)
    monkeypatch.setattr(segmenter, "FALLBACK_TILE", 64)
    monkeypatch.setattr(segmenter, "free_memory", lambda device: 1e6)
    model = Small(False)
    with caplog.at_level(logging.WARNING, "atrous"):
        labels = Segmenter(model, card(False), device="cpu")(noise(300, 400)).labels
    assert labels.shape == (300, 400)
    assert "400 x 300 pixels: segmenting it in windows of 64" in caplog.text


class Overflowing(Small):
    """Runs out of memory above so many pixels."""

    def scores(self, image: Tensor) -> Tensor:
        if image.shape[-1] * image.shape[-2] > 100 * 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999 bytes.")
        return super().scores(image)


def test_running_out_of_memory_falls_back_to_windows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(segmenter, "FALLBACK_TILE", 64)
    with caplog.at_level(logging.WARNING, "atrous"):
        Segmenter(Overflowing(False), card(False), device="cpu")(noise(150, 160))
    assert "Memory ran out" in caplog.text
    squeezed = Segmenter(Overflowing(False), card(False, resize="squeeze", size=(128, 128)), device="cpu")
    with pytest.raises(AtrousError, match="another device"):
        squeezed(noise(150, 160))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Small):
        def scores(self, image: Tensor) -> Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Segmenter(Broken(False), card(False), device="cpu")(noise(40, 40))


def test_the_estimate_counts_inputs_and_outputs_of_the_widest_layer() -> None:
    model = Small(False).eval()
    needs = memory.bytes_per_pixel(model, model.scores, torch.device("cpu"))
    widest = 4 * (3 + 8 / 4)  # the first convolution: 3 channels in, 8 out at half the size
    assert needs == pytest.approx(2 * widest, rel=0.1)
    assert memory.free_memory(torch.device("cpu")) > 2**20


def test_windows_that_cannot_be_are_refused() -> None:
    for tile, overlap in ((0, 0.25), (64, 1.0), (64, -0.1)):
        with pytest.raises(AtrousError, match="tile"):
            Segmenter(Small(True), card(True), device="cpu", tile=tile, overlap=overlap)
