"""Several scales, mirror images, crops and windows, on networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from atrous import AtrousError, Segmenter, create_model, list_models
from atrous.card import Card, Preprocessing
from atrous.inference.tta import PRESETS, TTAConfig, run_views, scaled_side, window_starts
from atrous.layers.resize import resize
from atrous.models import SegmentationModel


class Pointwise(SegmentationModel):
    """A stride-1 network that sees one pixel: windows and scales change nothing but resampling."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    @property
    def output_stride(self) -> int:
        return 1

    def scores(self, image: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape))
        return image * 10


def card(**how) -> Card:
    return Card(
        model="none",
        classes=("red", "green", "blue"),
        colors=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
        preprocessing=Preprocessing(mean=(0, 0, 0), std=(255, 255, 255), **how),
    )


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 17 + phase) + np.cos(y / 23 + 2 * phase) for phase in (0, 2, 4)]
    return np.clip(128 + 60 * np.dstack(waves), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", [*PRESETS])
def test_every_preset_finds_what_one_look_finds(name: str) -> None:
    pixels = picture(120, 160)
    plain = Segmenter(Pointwise(), card(), device="cpu")(pixels)
    model = Pointwise()
    found = Segmenter(model, card(), device="cpu", tta=name)(pixels, probabilities=True)
    assert (found.labels == plain.labels).mean() > 0.97
    np.testing.assert_allclose(found.probabilities.sum(0), 1, rtol=1e-3)
    if PRESETS[name].crop is None:
        assert len(model.seen) == PRESETS[name].num_views


def test_the_scales_of_v3_are_those_of_513() -> None:
    sides = [scaled_side(513, scale, align_corners=True) for scale in PRESETS["v3"].scales]
    assert sides == [257, 385, 513, 641, 769, 897]


def test_probabilities_are_averaged_and_scores_maximized() -> None:
    image = torch.rand(1, 3, 20, 20)
    segmenter = Segmenter(Pointwise(), card(), device="cpu", tta=TTAConfig((1.0,), flip=True))
    pixels = picture(20, 30)
    direct = torch.from_numpy(pixels.astype(np.float32) / 25.5).permute(2, 0, 1).softmax(0)
    torch.testing.assert_close(segmenter.probabilities(pixels), direct, rtol=1e-4, atol=1e-5)
    (fused,) = run_views(lambda x: x * 10, image, PRESETS["v2"], align_corners=True)
    views = [
        resize(resize(image, size, align_corners=True) * 10, (20, 20), align_corners=True)
        for size in ((20, 20), (15, 15), (10, 10))
    ]
    torch.testing.assert_close(fused, torch.stack(views).amax(0))


def test_windows_cover_everything_and_never_reach_beyond() -> None:
    for length in (473, 474, 900, 1000):
        starts = window_starts(length, 473)
        covered = np.zeros(length, int)
        for start in starts:
            assert 0 <= start <= length - 473
            covered[start : start + 473] += 1
        assert covered.min() >= 1


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(("height", "width"), [(200, 333), (64, 64), (65, 500), (30, 20)])
def test_tiles_of_a_local_network_equal_the_whole(height: int, width: int, probabilities: bool) -> None:
    pixels = picture(height, width)
    whole = Segmenter(Pointwise(), card(), device="cpu")(pixels, probabilities=probabilities)
    model = Pointwise()
    tiled = Segmenter(model, card(), device="cpu", tile=64)(pixels, probabilities=probabilities)
    assert (tiled.labels == whole.labels).mean() > 0.999
    assert max(max(shape[-2:]) for shape in model.seen) <= 64
    if probabilities:
        np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-3)


def test_tiles_of_a_real_network_agree_away_from_seams() -> None:
    model = create_model("fcn.resnet50", width=0.125, num_classes=3).eval()
    torch.nn.init.normal_(model.classifier[-1].weight, std=1.0)
    model.card = card()
    pixels = picture(320, 400)
    whole = Segmenter(model, device="cpu")(pixels).labels
    tiled = Segmenter(model, device="cpu", tile=257)(pixels).labels
    assert (whole == tiled).mean() > 0.9


@pytest.mark.parametrize("name", [name for name in list_models() if not name.startswith("crf_rnn")])
def test_labels_are_the_argmax_of_the_logits_for_every_network(name: str) -> None:
    """Whatever a network does to its scores: resize, deconvolve, crop."""
    torch.manual_seed(1)
    model = create_model(name, width=0.125, num_classes=3).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and not layer.weight.any():
            torch.nn.init.normal_(layer.weight)
    model.card = card()
    pixels = picture(61, 75)
    found = Segmenter(model, device="cpu")(pixels).labels
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None])[0]
    best = logits.topk(2, 0).values
    clear = (best[0] - best[1] > 1e-3 * best.abs().max()).numpy()
    np.testing.assert_array_equal(found[clear], logits.argmax(0).numpy()[clear])


def test_many_pictures_of_mixed_sizes_come_in_order() -> None:
    pictures = [picture(20, 30), picture(20, 30), picture(40, 30), picture(20, 30)]
    segmenter = Segmenter(Pointwise(), card(), device="cpu")
    for found, pixels in zip(segmenter.segment_many(pictures, batch=4), pictures, strict=True):
        np.testing.assert_array_equal(found.labels, segmenter(pixels).labels)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(AtrousError, match="Did you mean 'v3'"):
        Segmenter(Pointwise(), card(), device="cpu", tta="v33")
    with pytest.raises(AtrousError, match="all positive"):
        TTAConfig((0.0,))
    with pytest.raises(AtrousError, match="remove tile"):
        Segmenter(Pointwise(), card(), device="cpu", tta="pspnet", tile=100)
