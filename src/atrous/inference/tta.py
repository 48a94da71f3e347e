"""Looking more than once: several scales, mirror images and crops, fused as each paper fuses them."""

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
from atrous.inference.preprocess import normalized, scaled
from atrous.layers.resize import resize

Scores: TypeAlias = Callable[[Tensor], Tensor]
"""A network's coarse scores: (N, 3, H, W) -> (N, K, h, w)."""


@dataclass(frozen=True)
class TestTime:
    """What is done at test time.

    `merge`: `"probabilities"`, the mean of the soft-max of each look, resized to the network's input; `"scores"`, the
    mean of the resized scores; `"max"`, the largest score, taken on the grid of the first look, inside the network as
    it were. `scales` multiply the network's input.

    `crop` gives the protocol of PSPNet instead: the longer side of the image becomes `long_side` times each scale,
    windows of `crop` pixels are moved by two thirds of it, and their probabilities are summed and divided by how many
    windows saw each pixel.

    Raises: `AtrousError` for scales that are not positive, or a crop without a longer side.
    """

    __test__ = False  # no test of pytest's, whatever its name

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    merge: Literal["probabilities", "scores", "max"] = "probabilities"
    crop: int | None = None
    long_side: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise AtrousError(f"scales {self.scales}: one or more, all positive, are expected.")
        if (self.crop is None) != (self.long_side is None) or min(self.crop or 1, self.long_side or 1) < 1:
            raise AtrousError(f"crop {self.crop} and long_side {self.long_side}: give both, positive, or neither.")

    @property
    def looks(self) -> int:
        """How often the network sees the image, where it is not cropped."""
        return len(self.scales) * (1 + self.flip)


_SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

PRESETS = {
    "none": TestTime(source="one look at scale 1: FCN, SegNet, U-Net, Dilated, DeepLab v1"),
    "flip": TestTime(flip=True, source="one scale and its mirror image"),
    "v2": TestTime((1.0, 0.75, 0.5), merge="max", source="DeepLab v2, section 4.1.2 (MSC)"),
    "v3": TestTime(_SIX, flip=True, source="DeepLab v3, section 4.1"),
    "v3_plus": TestTime(_SIX, flip=True, source="DeepLab v3+, section 4"),
    "cityscapes": TestTime((0.75, 1.0, 1.25), flip=True, source="TensorFlow DeepLab's model zoo, Cityscapes"),
    "refinenet": TestTime((0.4, 0.6, 0.8, 1.0, 1.2), merge="scores", source="RefineNet, section 4"),
    "pspnet": TestTime(_SIX, flip=True, crop=473, long_side=512, source="PSPNet, released test code, VOC and ADE20K"),
    "pspnet_single": TestTime(flip=True, crop=473, long_side=512, source="PSPNet, released test code, one scale"),
    "pspnet_cityscapes": TestTime(flip=True, crop=713, long_side=2048, source="PSPNet, released test code, Cityscapes"),
}


def test_time(how: str | TestTime) -> TestTime:
    """A preset by name, or what is given.

    Raises: `AtrousError` for an unknown name.
    """
    if isinstance(how, TestTime):
        return how
    if how not in PRESETS:
        raise AtrousError(
            f"There is no test-time preset '{how}'.{did_you_mean(how, PRESETS)} Known: {', '.join(PRESETS)}."
        )
    return PRESETS[how]


test_time.__test__ = False  # type: ignore[attr-defined]


def scaled_side(side: int, scale: float, *, align_corners: bool) -> int:
    """The length of a side at a scale; with aligned corners `stride * k + 1` stays of that form.

    Source: TensorFlow DeepLab `scale_dimension`: 513 becomes 257, 385, 513, 641, 769, 897.
    """
    return int((side - 1) * scale + 1) if align_corners else max(1, round(side * scale))


def look(network: Scores, image: Tensor, how: TestTime, *, align_corners: bool) -> list[Tensor]:
    """The coarse scores of each look, mirrored ones turned back; one map where the merge is `"max"`.

    Shape: (N, 3, H, W) -> each (N, K, h, w).
    """
    views = []
    for scale in how.scales:
        size = (
            scaled_side(image.shape[-2], scale, align_corners=align_corners),
            scaled_side(image.shape[-1], scale, align_corners=align_corners),
        )
        sized = image if scale == 1 else resize(image, size, align_corners=align_corners)
        views.append(network(sized))
        if how.flip:
            views.append(network(sized.flip(-1)).flip(-1))
    if how.merge != "max":
        return views
    grid = views[0].shape[-2], views[0].shape[-1]
    return [torch.stack([resize(view, grid, align_corners=align_corners) for view in views]).amax(0)]


def run_views_fused(network: Scores, image: Tensor, how: TestTime, *, align_corners: bool) -> Tensor:
    """All looks fused on the grid of the network's scores at scale 1: logits, or logarithms of mean probabilities.

    Where a window of a large image is one input of many, this keeps it coarse.

    Shape: (N, 3, H, W) -> (N, K, h, w).
    """
    views = look(network, image, how, align_corners=align_corners)
    if len(views) == 1:
        return views[0]
    base = how.scales.index(1.0) * (1 + how.flip) if 1.0 in how.scales else 0
    grid = views[base].shape[-2], views[base].shape[-1]
    sized = torch.stack([resize(view, grid, align_corners=align_corners) for view in views])
    if how.merge == "scores":
        return sized.mean(0)
    return sized.softmax(2).mean(0).clamp_min(torch.finfo(sized.dtype).tiny).log()


def run_crops(
    network: Scores,
    pixels: Pixels,
    how: TestTime,
    preprocessing: Preprocessing,
    *,
    align_corners: bool,
    device: torch.device,
) -> list[Tensor]:
    """The probabilities of PSPNet's protocol, one map per scale, each of the size of the image at that scale.

    Shape: (H, W, 3) uint8 -> each (K, h, w).
    Source: PSPNet's released `scale_process.m`, and its port in semseg, `tool/test.py`.
    """
    assert how.crop is not None
    assert how.long_side is not None
    maps = []
    for scale in how.scales:
        sized = scaled(pixels, round(how.long_side * scale) / max(pixels.shape[:2]))
        height, width = sized.shape[:2]
        image = normalized(sized, preprocessing, (max(height, how.crop), max(width, how.crop))).to(device)
        summed: Tensor | None = None
        visits = image.new_zeros(image.shape[-2:])
        for top in window_starts(image.shape[-2], how.crop):
            for left in window_starts(image.shape[-1], how.crop):
                window = slice(top, top + how.crop), slice(left, left + how.crop)
                crop = image[(None, slice(None), *window)]
                seen = _probabilities(network, crop, flip=how.flip, align_corners=align_corners)
                if summed is None:
                    summed = seen.new_zeros(seen.shape[0], *image.shape[-2:])
                summed[(slice(None), *window)] += seen
                visits[window] += 1
        assert summed is not None
        maps.append((summed / visits)[:, :height, :width])
    return maps


def window_starts(length: int, crop: int) -> list[int]:
    """Where windows start that are moved by two thirds of their size, the last one moved back to end at the border."""
    stride = math.ceil(crop * 2 / 3)
    count = math.ceil(max(0, length - crop) / stride) + 1
    return [min(index * stride, length - crop) for index in range(count)]


def _probabilities(network: Scores, crop: Tensor, *, flip: bool, align_corners: bool) -> Tensor:
    """Of one crop, or the mean of it and its mirror image.

    Shape: (1, 3, c, c) -> (K, c, c).
    """
    size = crop.shape[-2], crop.shape[-1]
    found = resize(network(crop), size, align_corners=align_corners).softmax(1)
    if flip:
        mirrored = resize(network(crop.flip(-1)), size, align_corners=align_corners).softmax(1).flip(-1)
        found = (found + mirrored) / 2
    return found[0]
