from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous import AtrousError, Segmenter
from atrous.inference.preprocess import preprocess
from atrous.inference.tta import PRESETS, TTAConfig, tta_preset
from atrous.inference.views import run_crops, run_views, run_views_fused, scaled_side, window_starts
from atrous.layers.resize import resize
from atrous.models import SegmentationModel
from tests.inference.networks import ChannelNetwork, letter_card, rgb_card, waves


class Convolution(SegmentationModel):
    """Strided, with weights of its own for left and right, so that scales and mirrors differ."""

    def __init__(self, align_corners: bool = True, classes: int = 4) -> None:
        super().__init__()
        self.num_classes = classes
        self.align_corners = align_corners
        self.conv = nn.Conv2d(3, classes, 3, 4, 1)
        self.sizes: list[tuple[int, int]] = []

    @property
    def output_stride(self) -> int:
        return 4

    def scores(self, image: Tensor) -> Tensor:
        self.sizes.append((image.shape[-2], image.shape[-1]))
        return self.conv(image)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)


def by_hand(model: Convolution, image: Tensor, options: TTAConfig) -> Tensor:
    """Mean soft-max over scales and mirrors, every map made in full."""

    def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=model.align_corners)

    size = image.shape[-2:]
    views = []
    for scale in options.scales:
        sides = [scaled_side(side, scale, align_corners=model.align_corners) for side in size]
        for mirrored in (False, True)[: 1 + options.flip]:
            sized = resize(image, sides)
            scores = model.conv(sized.flip(-1) if mirrored else sized)
            full = resize(scores, size)
            views.append(full.flip(-1) if mirrored else full)
    if options.merge == "mean_logits":
        return torch.stack(views).mean(0).softmax(1)
    return torch.stack([view.softmax(1) for view in views]).mean(0)


MEAN_LOGITS = TTAConfig((0.5, 1.0, 1.5), flip=True, merge="mean_logits")


@pytest.mark.parametrize("preset", ["none", "flip", "v3", "v3_plus", "cityscapes", "refinenet", MEAN_LOGITS])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("options", [{}, {"resize": "pad", "size": (65, 65)}, {"resize": "squeeze", "size": (33, 33)}])
def test_presets_by_hand(preset: str | TTAConfig, align_corners: bool, options: dict, pixels: np.ndarray) -> None:
    model = Convolution(align_corners)
    segmenter = Segmenter(model, letter_card(align_corners, 4, 30, **options), device="cpu", tta=preset)
    image, content = preprocess(pixels, segmenter.card.preprocessing)
    with torch.no_grad():
        expected = by_hand(model, torch.from_numpy(image[None]), tta_preset(preset))[..., : content[0], : content[1]]
        if content == (45, 61):
            torch.testing.assert_close(segmenter.probabilities(pixels), expected[0], rtol=1e-4, atol=1e-5)
    result = segmenter(pixels, probabilities=True)
    best = np.sort(result.probabilities, 0)
    sure = best[-1] - best[-2] > 1e-4
    np.testing.assert_array_equal(segmenter(pixels).labels[sure], result.labels[sure])
    np.testing.assert_allclose(
        torch.from_numpy(result.probabilities).numpy(), segmenter.logits(pixels).softmax(0).numpy(), atol=1e-5
    )


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "pspnet_cityscapes_multi"])  # ten seconds
def test_every_preset_agrees_with_a_single_view(name: str) -> None:
    pixels = waves(120, 160)
    plain = Segmenter(ChannelNetwork(), rgb_card(), device="cpu")(pixels)
    model = ChannelNetwork()
    result = Segmenter(model, rgb_card(), device="cpu", tta=name)(pixels, probabilities=True)
    assert (result.labels == plain.labels).mean() > 0.97
    np.testing.assert_allclose(result.probabilities.sum(0), 1, rtol=1e-3)
    if PRESETS[name].crop is None:
        assert len(model.inputs) == PRESETS[name].num_views


@pytest.mark.parametrize("align_corners", [True, False])
def test_pspnet_sums_the_scores_of_a_crop_and_its_mirror_image(align_corners: bool, pixels: np.ndarray) -> None:
    model = Convolution(align_corners)
    tta = TTAConfig(flip=True, crop=65, long_side=61)
    segmenter = Segmenter(model, letter_card(align_corners, 4, 30), device="cpu", tta=tta)
    image = torch.zeros(1, 3, 65, 65)  # the crop, padded with the mean
    image[0, :, :45, :61] = torch.from_numpy((pixels.astype(np.float32) - 127.5) / 30).permute(2, 0, 1)
    with torch.no_grad():
        scores = F.interpolate(model.conv(image), size=(65, 65), mode="bilinear", align_corners=align_corners)
        mirrored = F.interpolate(model.conv(image.flip(-1)), (65, 65), mode="bilinear", align_corners=align_corners)
        expected = (scores + mirrored.flip(-1)).softmax(1)[0, :, :45, :61]
    torch.testing.assert_close(segmenter.probabilities(pixels), expected, rtol=1e-4, atol=1e-5)


def test_v2_takes_the_largest_score_on_the_grid_of_scale_1(pixels: np.ndarray) -> None:
    model = Convolution()
    segmenter = Segmenter(model, letter_card(True, 4, 30), device="cpu", tta="v2")
    (view,) = segmenter.predict_coarse(pixels).views
    image = torch.from_numpy((pixels.astype(np.float32) - 127.5) / 30).permute(2, 0, 1)[None]
    with torch.no_grad():
        maps = []
        for scale in (1, 0.75, 0.5):
            size = [int((side - 1) * scale + 1) for side in (45, 61)]
            maps.append(model.conv(F.interpolate(image, size=size, mode="bilinear", align_corners=True)))
        grid = maps[0].shape[-2:]
        resized = [F.interpolate(m, size=grid, mode="bilinear", align_corners=True) for m in maps]
    torch.testing.assert_close(view, torch.stack(resized).amax(0)[0], rtol=1e-5, atol=1e-5)


def test_probabilities_are_averaged_and_scores_maximized() -> None:
    image = torch.rand(1, 3, 20, 20)
    segmenter = Segmenter(ChannelNetwork(), rgb_card(), device="cpu", tta=TTAConfig((1.0,), flip=True))
    pixels = waves(20, 30)
    direct = torch.from_numpy(pixels.astype(np.float32) / 25.5).permute(2, 0, 1).softmax(0)
    torch.testing.assert_close(segmenter.probabilities(pixels), direct, rtol=1e-4, atol=1e-5)
    (fused,) = run_views(lambda x: x * 10, image, PRESETS["v2"], align_corners=True)
    views = [
        resize(resize(image, size, align_corners=True) * 10, (20, 20), align_corners=True)
        for size in ((20, 20), (15, 15), (10, 10))
    ]
    torch.testing.assert_close(fused, torch.stack(views).amax(0))


def test_refinenet_averages_probabilities(pixels: np.ndarray) -> None:
    model = Convolution()
    segmenter = Segmenter(model, letter_card(True, 4, 30), device="cpu", tta="refinenet")
    image, _ = preprocess(pixels, segmenter.card.preprocessing)
    with torch.no_grad():
        expected = by_hand(model, torch.from_numpy(image[None]), TTAConfig((0.4, 0.6, 0.8, 1.0, 1.2)))
    torch.testing.assert_close(segmenter.probabilities(pixels), expected[0], rtol=1e-4, atol=1e-5)


def test_sizes_of_the_papers() -> None:
    sides = [scaled_side(513, scale, align_corners=True) for scale in PRESETS["v3"].scales]
    assert sides == [257, 385, 513, 641, 769, 897]
    assert PRESETS["v3"].num_views == 12


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [
        ("pspnet", (375, 500), [(193, 257), (289, 385), (385, 513), (481, 641), (577, 769), (673, 897)]),
        ("pspnet_single", (500, 333), [(513, 342)]),
        ("pspnet_cityscapes", (128, 256), [(1025, 2049)]),
    ],
)
def test_sizes_of_pspnet(name: str, size: tuple[int, int], sizes: list[tuple[int, int]]) -> None:
    """Longer sides of 512 or 2048 times the scale, plus 1, and halves rounded up, as in the released `eval_sub.m`."""
    image = np.zeros((*size, 3), np.uint8)
    maps = run_crops(
        lambda x: x[:, :2, ::8, ::8], image, PRESETS[name], rgb_card().preprocessing,
        align_corners=True, device=torch.device("cpu"),
    )  # fmt: skip
    assert [(scores.shape[-2], scores.shape[-1]) for scores in maps] == sizes


def test_pspnet_on_cityscapes_at_six_scales() -> None:
    assert PRESETS["pspnet_cityscapes_multi"].scales == PRESETS["pspnet"].scales
    multi = replace(PRESETS["pspnet_cityscapes_multi"], scales=(1.0,), source=PRESETS["pspnet_cityscapes"].source)
    assert multi == PRESETS["pspnet_cityscapes"]


def test_crops_of_pspnet_cover_the_image_two_thirds_apart() -> None:
    assert window_starts(473, 473) == [0]
    assert window_starts(512, 473) == [0, 39]
    assert window_starts(1000, 473) == [0, 316, 527]
    for length in range(473, 2000, 37):
        starts = window_starts(length, 473)
        assert starts[-1] + 473 == length
        assert all(0 < b - a <= 316 for a, b in itertools.pairwise(starts))
        covered = np.zeros(length, int)
        for start in starts:
            assert 0 <= start <= length - 473
            covered[start : start + 473] += 1
        assert covered.min() >= 1


def test_pspnet_divides_by_visits_and_resizes_probabilities(pixels: np.ndarray) -> None:
    model = Convolution()
    options = TTAConfig((1.0,), flip=False, crop=33, long_side=61)
    segmenter = Segmenter(model, letter_card(True, 4, 30), device="cpu", tta=options)
    result = segmenter(pixels, probabilities=True)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
    image = torch.from_numpy((pixels.astype(np.float32) - 127.5) / 30).permute(2, 0, 1)
    summed, visits = torch.zeros(4, 45, 61), torch.zeros(45, 61)
    with torch.no_grad():
        for top in (0, 12):
            for left in (0, 22, 28):
                probabilities = model.conv(image[None, :, top : top + 33, left : left + 33])
                probabilities = F.interpolate(
                    probabilities, size=(33, 33), mode="bilinear", align_corners=True
                ).softmax(1)[0]
                summed[:, top : top + 33, left : left + 33] += probabilities
                visits[top : top + 33, left : left + 33] += 1
    np.testing.assert_allclose(result.probabilities, (summed / visits).numpy(), atol=1e-5)
    assert set(model.sizes) == {(33, 33)}


def test_views_fused_on_the_grid_are_the_mean(pixels: np.ndarray) -> None:
    model = Convolution()
    image = torch.randn(2, 3, 33, 33)
    with torch.no_grad():
        fused = run_views_fused(model.scores, image, PRESETS["flip"], align_corners=True)
        mean = (model.conv(image).softmax(1) + model.conv(image.flip(-1)).flip(-1).softmax(1)) / 2
    torch.testing.assert_close(fused.exp(), mean)


def test_invalid_options_are_named() -> None:
    with pytest.raises(AtrousError, match=r"no test-time augmentation 'v3plus'\. Did you mean 'v3_plus'"):
        Segmenter(Convolution(), letter_card(True, 4, 30), device="cpu", tta="v3plus")
    with pytest.raises(AtrousError, match="all positive"):
        TTAConfig((0.0, 1.0))
    with pytest.raises(AtrousError, match="give both"):
        TTAConfig(crop=473)
    with pytest.raises(AtrousError, match="crops its own windows"):
        Segmenter(Convolution(), letter_card(True, 4, 30), device="cpu", tta="pspnet", tile=64)
