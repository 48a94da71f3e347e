"""Borders: images mirrored beyond their edge or filled up to a size that fits, and maps cropped back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mirror_pad(image: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Continue an image beyond its edges by reflection about its outermost pixels, again and again where it must.

    `before` and `after` are (top, left) and (bottom, right) in pixels. A border narrower than the image is that of
    `F.pad(mode="reflect")`, which knows no wider one.

    Shape: (N, C, H, W) -> (N, C, top + H + bottom, left + W + right).
    Source: U-Net section 2 (overlap-tile); Dilated's released `predict.py` (`BORDER_REFLECT_101`).
    """
    for axis, first, last in zip((2, 3), before, after, strict=True):
        size = image.shape[axis]
        period = max(2 * size - 2, 1)  # there and back
        index = torch.arange(-first, size + last, device=image.device) % period
        image = image.index_select(axis, torch.minimum(index, 2 * size - 2 - index))
    return image


def fill_to_grid(image: Tensor, stride: int) -> Tensor:
    """Fill an image up with zeros, at the bottom and on the right, to sides of `stride * k + 1`.

    Then the corner samples of image and feature map coincide, and Caffe's rounding and everybody else's agree.

    Shape: (N, C, H, W) -> (N, C, stride * ceil((H - 1) / stride) + 1, ...).
    Source: DeepLab v2's released scripts, which fill images up to 513 with the mean.
    """
    height, width = image.shape[-2:]
    return F.pad(image, (0, -(width - 1) % stride, 0, -(height - 1) % stride))


def crop(x: Tensor, size: Sequence[int], *, top: int, left: int) -> Tensor:
    """A part of the map, of `size` (height, width).

    Shape: (N, C, H, W) -> (N, C, *size).
    """
    # A slice of everything is another operation than a slice of a part; export would fix which of them it is.
    rows, columns = (torch.arange(n, device=x.device) for n in size)
    return x.index_select(2, rows + top).index_select(3, columns + left)


def crop_center(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of the map, of `size` (height, width); where it cannot be, half a pixel before.

    Shape: (N, C, H, W) -> (N, C, *size).
    """
    return crop(x, size, top=(x.shape[2] - size[0]) // 2, left=(x.shape[3] - size[1]) // 2)
