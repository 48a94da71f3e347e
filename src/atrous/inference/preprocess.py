"""From a picture to a network's input, as the card of its weights asks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from atrous.card import Preprocessing
from atrous.imaging.io import Pixels, resize_image


def preprocess(pixels: Pixels, how: Preprocessing) -> tuple[Tensor, tuple[int, int]]:
    """The network's input, and the height and width of it that hold the image; the rest is padding.

    Shape: (H, W, 3) uint8 -> (3, h, w) float32.
    """
    content, frame = _sizes((pixels.shape[0], pixels.shape[1]), how)
    return normalized(resize_image(pixels, *content), how, frame), content


def preprocessed_size(size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    """The height and width of the network's input for an image of `size`, without making it."""
    return _sizes(size, how)[1]


def _sizes(size: tuple[int, int], how: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """What an image of `size` is resized to, and what that is padded to."""
    if how.size is None:
        return size, _on_grid(size, how.grid, math.ceil)
    if how.resize == "squeeze":
        return how.size, how.size
    if how.resize == "pad":
        scale = min(how.size[0] / size[0], how.size[1] / size[1])
        return size if scale >= 1 else _scaled_size(size, scale), how.size
    sized = _on_grid(_scaled_size(size, min(how.size) / min(size)), how.grid, round)
    return sized, sized


def _on_grid(size: tuple[int, int], grid: int | None, rounded: Callable[[float], int]) -> tuple[int, int]:
    """The sides as a multiple of `grid`, plus one; as they are without one."""
    if grid is None:
        return size
    return max(1, rounded((size[0] - 1) / grid)) * grid + 1, max(1, rounded((size[1] - 1) / grid)) * grid + 1


def normalized(pixels: Pixels, how: Preprocessing, frame: tuple[int, int]) -> Tensor:
    """Pixels reordered, normalized, and padded with the mean (which is zero then) at the bottom and on the right.

    There are 256 values a channel can have, so the arithmetic is done once for each and looked up.

    Shape: (h, w, 3) uint8, `frame` at least as large -> (3, *frame) float32.
    """
    height, width = pixels.shape[:2]
    tables = (np.arange(256, dtype=np.float32)[:, None] - np.array(how.mean, np.float32)) / np.array(
        how.std, np.float32
    )
    prepared = torch.zeros(3, *frame) if frame != (height, width) else torch.empty(3, *frame)
    for channel, plane in enumerate(prepared.numpy()):
        source = channel if how.channel_order == "RGB" else 2 - channel
        plane[:height, :width] = tables[:, channel].take(pixels[..., source])
    return prepared


def scaled(pixels: Pixels, scale: float) -> Pixels:
    """The picture at `scale` times its size, in its own shape."""
    return resize_image(pixels, *_scaled_size((pixels.shape[0], pixels.shape[1]), scale))


def _scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
