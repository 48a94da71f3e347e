"""Run a network on the views of test-time augmentation: scales, mirror images and crops of an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from atrous.card import Preprocessing
from atrous.imaging.io import Pixels, resize_image
from atrous.inference.preprocess import normalize
from atrous.inference.tta import TTAConfig
from atrous.layers.resize import resize

ScoreFunction: TypeAlias = Callable[[Tensor], Tensor]
"""A network's coarse scores: (N, 3, H, W) -> (N, K, h, w)."""


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
    Source: PSPNet's released `eval_sub.m` and `scale_process.m`; their port in semseg, `tool/test.py`, has longer sides
    without the plus 1.
    """
    assert config.crop is not None
    assert config.long_side is not None
    crop, maps = config.crop, []
    for scale in config.scales:
        height, width = _size_at(image, scaled_side(config.long_side, scale, align_corners=True))
        planes = normalize(resize_image(image, height, width), preprocessing, (max(height, crop), max(width, crop)))
        tensor = torch.from_numpy(planes).to(device)
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


def _size_at(image: Pixels, longer_side: int) -> tuple[int, int]:
    """Compute the size of an image at a length of its longer side; halves are rounded up, as by MATLAB's `round`."""
    longest = max(image.shape[:2])
    height, width = (max(1, (2 * side * longer_side + longest) // (2 * longest)) for side in image.shape[:2])
    return height, width


def window_starts(length: int, crop: int) -> list[int]:
    """Place windows two thirds of their size apart along a side; the last one is moved back to end at the border."""
    stride = math.ceil(crop * 2 / 3)
    count = math.ceil(max(0, length - crop) / stride) + 1
    return [min(index * stride, length - crop) for index in range(count)]


def _crop_probabilities(network: ScoreFunction, crop: Tensor, *, flip: bool, align_corners: bool) -> Tensor:
    """Compute the probabilities of one crop; with `flip`, the softmax of the summed scores of it and its mirror image.

    Shape: (1, 3, c, c) -> (K, c, c).
    Source: PSPNet's released `caffe_process.m`; its port in semseg averages two softmaxes instead.
    """
    size = crop.shape[-2], crop.shape[-1]
    scores = network(crop)
    if flip:
        scores = scores + network(crop.flip(-1)).flip(-1)
    return resize(scores, size, align_corners=align_corners).softmax(1)[0]
