"""Padding images by reflection or with zeros, and cropping feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mirror_pad(image: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Pad an image by reflection about its outermost pixels, with any amount of padding.

    `before` and `after` are (top, left) and (bottom, right) in pixels. Up to the size of the image the result is that
    of `F.pad(mode="reflect")`, which allows no more; a wider border repeats the reflection.

    Shape: (N, C, H, W) -> (N, C, top + H + bottom, left + W + right).
    Source: U-Net section 2 (overlap-tile); Dilated's released `predict.py` (`BORDER_REFLECT_101`).
    """
    for axis, first, last in zip((2, 3), before, after, strict=True):
        size = image.shape[axis]
        index = torch.arange(-first, size + last, device=image.device)
        # A reflected image repeats after this many pixels; a tensor, because ONNX has no remainder by a symbolic size.
        period = index.new_full((), max(2 * size - 2, 1))
        index = index % period
        image = image.index_select(axis, torch.minimum(index, 2 * size - 2 - index))
    return image


def pad_to_grid(image: Tensor, stride: int) -> Tensor:
    """Pad an image with zeros, at the bottom and on the right, to sides of `stride * k + 1` pixels.

    At such sizes the corner samples of image and feature map coincide, and Caffe's rounding of pooled sizes agrees with
    that of other libraries.

    Shape: (N, C, H, W) -> (N, C, stride * ceil((H - 1) / stride) + 1, ...).
    Source: DeepLab v2's released scripts, which pad images to 513 with the mean.
    """
    height, width = image.shape[-2:]
    return F.pad(image, (0, -(width - 1) % stride, 0, -(height - 1) % stride))


def crop(x: Tensor, size: Sequence[int], *, top: int, left: int) -> Tensor:
    """Crop a feature map to `size` (height, width), starting at row `top` and column `left`.

    Shape: (N, C, H, W) -> (N, C, *size).
    """
    # Index tensors instead of slices: a slice that covers everything traces differently, and export would fix the case.
    rows, columns = (torch.arange(n, device=x.device) for n in size)
    return x.index_select(2, rows + top).index_select(3, columns + left)


def crop_center(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop the center of a feature map to `size` (height, width), rounding its position down to whole pixels.

    Shape: (N, C, H, W) -> (N, C, *size).
    """
    return crop(x, size, top=(x.shape[2] - size[0]) // 2, left=(x.shape[3] - size[1]) // 2)
