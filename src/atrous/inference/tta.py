"""Test-time augmentation: several scales, mirror images and crops, fused as each paper fuses them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from atrous.card import Preprocessing
from atrous.errors import AtrousError, did_you_mean
from atrous.imaging.io import Pixels
from atrous.inference.preprocess import normalize, rescale
from atrous.layers.resize import resize

ScoreFunction: TypeAlias = Callable[[Tensor], Tensor]
"""A network's coarse scores: (N, 3, H, W) -> (N, K, h, w)."""


@dataclass(frozen=True)
class TTAConfig:
    """Test-time augmentation: the views of an image that the network is run on, and how their scores are fused.

    A view is the network's input at one of `scales`, mirrored from left to right as well with `flip`. `merge` is one of

    - `"mean_softmax"`: the mean of the softmax of each view's scores, resized to the network's input;
    - `"mean_logits"`: the mean of the resized scores;
    - `"max_logits"`: the largest score, on the grid of the first view's scores.

    `crop` selects the protocol of PSPNet instead: the longer side of the image becomes `long_side` times each scale,
    windows of `crop` pixels are moved by two thirds of their size, and each pixel's probability is the mean over the
    windows that cover it.

    Raises: `AtrousError` for scales that are not positive, or a crop without a longer side.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    merge: Literal["mean_softmax", "mean_logits", "max_logits"] = "mean_softmax"
    crop: int | None = None
    long_side: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise AtrousError(f"scales {self.scales}: one or more, all positive, are expected.")
        if (self.crop is None) != (self.long_side is None) or min(self.crop or 1, self.long_side or 1) < 1:
            raise AtrousError(f"crop {self.crop} and long_side {self.long_side}: give both, positive, or neither.")

    @property
    def num_views(self) -> int:
        """The number of forward passes for an image that is not cropped."""
        return len(self.scales) * (1 + self.flip)


_SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

PRESETS = {
    "none": TTAConfig(source="scale 1 alone: FCN, SegNet, U-Net, Dilated, DeepLab v1"),
    "flip": TTAConfig(flip=True, source="scale 1 and its mirror image"),
    "v2": TTAConfig((1.0, 0.75, 0.5), merge="max_logits", source="DeepLab v2, section 4.1.2 (MSC)"),
    "v3": TTAConfig(_SIX, flip=True, source="DeepLab v3, section 4.1"),
    "v3_plus": TTAConfig(_SIX, flip=True, source="DeepLab v3+, section 4"),
    "cityscapes": TTAConfig((0.75, 1.0, 1.25), flip=True, source="TensorFlow DeepLab's model zoo, Cityscapes"),
    "refinenet": TTAConfig((0.4, 0.6, 0.8, 1.0, 1.2), merge="mean_logits", source="RefineNet, section 4"),
    "pspnet": TTAConfig(_SIX, flip=True, crop=473, long_side=512, source="PSPNet, released test code, VOC and ADE20K"),
    "pspnet_single": TTAConfig(flip=True, crop=473, long_side=512, source="PSPNet, released test code, one scale"),
    "pspnet_cityscapes": TTAConfig(
        flip=True, crop=713, long_side=2048, source="PSPNet, released test code, Cityscapes"
    ),
}


def tta_preset(tta: str | TTAConfig) -> TTAConfig:
    """Look up a test-time augmentation by the name of its preset; a `TTAConfig` is returned as it is.

    Raises: `AtrousError` for an unknown name.
    """
    if isinstance(tta, TTAConfig):
        return tta
    if tta not in PRESETS:
        raise AtrousError(
            f"There is no test-time augmentation '{tta}'.{did_you_mean(tta, PRESETS)} Known: {', '.join(PRESETS)}."
        )
    return PRESETS[tta]


def scaled_side(side: int, scale: float, *, align_corners: bool) -> int:
    """Compute the length of a side at a scale; with aligned corners `stride * k + 1` stays of that form.

    Source: TensorFlow DeepLab `scale_dimension`: 513 becomes 257, 385, 513, 641, 769, 897.
    """
    return int((side - 1) * scale + 1) if align_corners else max(1, round(side * scale))


def run_views(network: ScoreFunction, image: Tensor, config: TTAConfig, *, align_corners: bool) -> list[Tensor]:
    """Run the network on every view of an image; the scores of mirrored views are mirrored back.

    Where `config.merge` is `"max_logits"`, the list holds one map: the maximum over the views.

    Shape: (N, 3, H, W) -> each (N, K, h, w).
    """
    views = []
    for scale in config.scales:
        size = (
            scaled_side(image.shape[-2], scale, align_corners=align_corners),
            scaled_side(image.shape[-1], scale, align_corners=align_corners),
        )
        resized = image if scale == 1 else resize(image, size, align_corners=align_corners)
        views.append(network(resized))
        if config.flip:
            views.append(network(resized.flip(-1)).flip(-1))
    if config.merge != "max_logits":
        return views
    grid = views[0].shape[-2], views[0].shape[-1]
    return [torch.stack([resize(view, grid, align_corners=align_corners) for view in views]).amax(0)]


def run_views_fused(network: ScoreFunction, image: Tensor, config: TTAConfig, *, align_corners: bool) -> Tensor:
    """Run the network on every view and fuse the scores on the coarse grid of scale 1.

    The result is logits, or logarithms of averaged probabilities. The windows of a large image are fused like this, so
    that their scores stay coarse.

    Shape: (N, 3, H, W) -> (N, K, h, w).
    """
    views = run_views(network, image, config, align_corners=align_corners)
    if len(views) == 1:
        return views[0]
    base = config.scales.index(1.0) * (1 + config.flip) if 1.0 in config.scales else 0
    grid = views[base].shape[-2], views[base].shape[-1]
    resized = torch.stack([resize(view, grid, align_corners=align_corners) for view in views])
    if config.merge == "mean_logits":
        return resized.mean(0)
    return resized.softmax(2).mean(0).clamp_min(torch.finfo(resized.dtype).tiny).log()


def run_crops(
    network: ScoreFunction,
    image: Pixels,
    config: TTAConfig,
    preprocessing: Preprocessing,
    *,
    align_corners: bool,
    device: torch.device,
) -> list[Tensor]:
    """Compute the probabilities of PSPNet's protocol, one map for each scale, of the size of the image at that scale.

    Shape: (H, W, 3) uint8 -> each (K, h, w).
    Source: PSPNet's released `scale_process.m`, and its port in semseg, `tool/test.py`.
    """
    assert config.crop is not None
    assert config.long_side is not None
    crop, maps = config.crop, []
    for scale in config.scales:
        resized = rescale(image, round(config.long_side * scale) / max(image.shape[:2]))
        height, width = resized.shape[:2]
        tensor = normalize(resized, preprocessing, (max(height, crop), max(width, crop))).to(device)
        total: Tensor | None = None
        visits = tensor.new_zeros(tensor.shape[-2:])
        for top in window_starts(tensor.shape[-2], crop):
            for left in window_starts(tensor.shape[-1], crop):
                window = slice(top, top + crop), slice(left, left + crop)
                cropped = tensor[(None, slice(None), *window)]
                probabilities = _crop_probabilities(network, cropped, flip=config.flip, align_corners=align_corners)
                if total is None:
                    total = probabilities.new_zeros(probabilities.shape[0], *tensor.shape[-2:])
                total[(slice(None), *window)] += probabilities
                visits[window] += 1
        assert total is not None
        maps.append((total / visits)[:, :height, :width])
    return maps


def window_starts(length: int, crop: int) -> list[int]:
    """Place windows two thirds of their size apart along a side; the last one is moved back to end at the border."""
    stride = math.ceil(crop * 2 / 3)
    count = math.ceil(max(0, length - crop) / stride) + 1
    return [min(index * stride, length - crop) for index in range(count)]


def _crop_probabilities(network: ScoreFunction, crop: Tensor, *, flip: bool, align_corners: bool) -> Tensor:
    """The probabilities of one crop, or the mean of those of the crop and its mirror image.

    Shape: (1, 3, c, c) -> (K, c, c).
    """
    size = crop.shape[-2], crop.shape[-1]
    probabilities = resize(network(crop), size, align_corners=align_corners).softmax(1)
    if flip:
        mirrored = resize(network(crop.flip(-1)), size, align_corners=align_corners).softmax(1).flip(-1)
        probabilities = (probabilities + mirrored) / 2
    return probabilities[0]
