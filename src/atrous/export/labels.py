"""A network with everything around it inside: from 8-bit images to labels, as `Segmenter` computes them.

All sizes that depend on the image are tensors or symbolic sizes, without a branch, so that one traced graph holds for
images of every size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.card import Preprocessing
from atrous.inference.engines.convert import ScoreModule
from atrous.inference.preprocess import preprocessed_size
from atrous.layers.pad import crop
from atrous.layers.resize import resize
from atrous.models import SegmentationModel

MAX_UINT8_CLASSES = 256


class LabelModule(nn.Module):
    """Segment 8-bit RGB images: preprocessing, network, resizing and arg-max.

    `image_size` fixes the size of the images; "shorter_side" preprocessing needs it, because the size of the network's
    input would otherwise depend on the image in a way that graphs cannot express.

    Shape: (N, H, W, 3) uint8 -> (N, H, W) uint8, or int32 above 256 classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: SegmentationModel, preprocessing: Preprocessing, image_size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.network = ScoreModule(model)
        self.align_corners = model.align_corners
        self.is_resized = model.output_is_resized_scores
        self.pads = preprocessing.resize == "pad"
        self.grid = preprocessing.grid
        self.input_size = preprocessing.size
        if preprocessing.resize == "shorter_side":
            assert image_size is not None, "shorter_side needs a fixed size of the images"
            self.input_size = preprocessed_size(image_size, preprocessing)
        self.channels = [0, 1, 2] if preprocessing.channel_order == "RGB" else [2, 1, 0]
        self.label_dtype = torch.uint8 if model.num_classes <= MAX_UINT8_CLASSES else torch.int32
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(image).argmax(1).to(self.label_dtype)

    def scores(self, image: Tensor) -> Tensor:
        """Compute the scores whose arg-max the labels are.

        Shape: (N, H, W, 3) uint8 -> (N, K, H, W).
        """
        pixels = image.permute(0, 3, 1, 2).float()
        if self.input_size is None:
            return self._keep(pixels)
        return self._resize(pixels, self.input_size)

    def _normalize(self, pixels: Tensor) -> Tensor:
        return (pixels[:, self.channels] - self.mean) / self.std

    def _keep(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        x = self._normalize(pixels)
        if self.grid is not None:
            x = F.pad(x, (0, -(width - 1) % self.grid, 0, -(height - 1) % self.grid))
        scores = self.network(x)
        if self.is_resized:
            scores = resize(scores, (x.shape[2], x.shape[3]), align_corners=self.align_corners)
        return scores if self.grid is None else crop(scores, (height, width), top=0, left=0)

    def _resize(self, pixels: Tensor, input_size: tuple[int, int]) -> Tensor:
        size = (pixels.shape[2], pixels.shape[3])
        sides = torch.stack([_scalar(side, pixels) for side in size])
        limits = torch.tensor(input_size, dtype=torch.float64)
        content = limits
        if self.pads:
            ratios = limits / sides
            scale = torch.minimum(ratios[0], ratios[1]).clamp(max=1.0)  # images are shrunk, never enlarged
            content = (sides * scale).round().clamp(min=1.0)
        x = self._normalize(resize_by_weights(pixels, sides, input_size, content))
        if self.pads:
            inside = [torch.arange(n, dtype=torch.float64) < side for n, side in zip(input_size, content, strict=True)]
            x = x * (inside[0][:, None] & inside[1]).to(x.dtype)
        scores = self.network(x)
        if self.is_resized:
            scores = resize(scores, input_size, align_corners=self.align_corners)
        for axis, side in enumerate(size):
            scores = _enlarge(scores, axis + 2, content[axis], side, align_corners=self.align_corners)
        return scores


def resize_by_weights(pixels: Tensor, sides: Tensor, size: tuple[int, int], content: Tensor) -> Tensor:
    """Resize images as `resize_image` does, to the upper left `content` of `size`; beyond it the values are arbitrary.

    Each axis is a product with a matrix of weights. Images that shrink are averaged over areas; where only their number
    of pixels shrinks and one side grows, OpenCV interpolates between pixels by their share of the area. Unlike there,
    the result is not rounded to whole numbers: near a half, runtimes would round to either side.

    Shape: `pixels` (N, C, H, W) in 0..255, `sides` and `content` (2,) float64 -> (N, C, *size).
    """
    shrinks = content.prod() < sides.prod()
    shrinks_both = (sides >= content).all()
    for axis, target in enumerate(size):
        weights = _weights(pixels, axis, sides[axis], target, content[axis], shrinks, shrinks & shrinks_both)
        pixels = weights @ pixels if axis == 0 else pixels @ weights.T
    return pixels


def _weights(
    pixels: Tensor, axis: int, side: Tensor, target: int, content: Tensor, shrinks: Tensor, is_area: Tensor
) -> Tensor:
    """The weight of each pixel of an axis in each resized one.

    Shape: -> (target, side).
    Source: `cv2.resize`, INTER_AREA and INTER_LINEAR.
    """
    ratio = side / content
    row = torch.arange(target, dtype=torch.float64)[:, None]
    column = torch.arange(pixels.shape[axis + 2], dtype=torch.float64)
    area = (torch.minimum(column + 1, (row + 1) * ratio) - torch.maximum(column, row * ratio)).clamp(min=0) / ratio
    first = (row * ratio).floor()
    share = (row + 1) - (first + 1) / ratio
    by_share = first + torch.where(share > 0, share - share.floor(), 0.0)
    centered = ((row + 0.5) * ratio - 0.5).clamp(min=0)
    position = torch.minimum(torch.where(shrinks, by_share, centered), side - 1)
    linear = (1 - (position - column).abs()).clamp(min=0)
    return torch.where(is_area, area, linear).to(pixels.dtype)


def _enlarge(scores: Tensor, axis: int, content: Tensor, target: int, *, align_corners: bool) -> Tensor:
    """Resize the first `content` samples of an axis linearly to `target` samples.

    Shape: (N, K, h, w) -> the same with `target` samples on `axis`.
    """
    index = torch.arange(target, dtype=torch.float64)
    if align_corners:
        position = index * ((content - 1) / (_scalar(target, scores) - 1).clamp(min=1))
    else:
        position = ((index + 0.5) * (content / _scalar(target, scores)) - 0.5).clamp(min=0)
    last = content - 1
    first = torch.minimum(position.floor(), last)
    weight = (position - first).clamp(0, 1).to(scores.dtype)
    if axis == 2:
        weight = weight[:, None]
    second = torch.minimum(first + 1, last)
    lower, upper = (scores.index_select(axis, each.long()) for each in (first, second))
    return lower * (1 - weight) + upper * weight


def _scalar(value: int, like: Tensor) -> Tensor:
    """Make a scalar of a size that may be symbolic."""
    return torch.full((), value, dtype=torch.float64, device=like.device)
