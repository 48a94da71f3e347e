"""From a picture to a network's input, as the card of its weights asks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from atrous.data.images import Pixels, resize_image
from atrous.weights.card import Preprocessing


def prepare(pixels: Pixels, how: Preprocessing) -> tuple[Tensor, tuple[int, int]]:
    """The network's input, and the height and width of it that hold the image; the rest is padding.

    Shape: (H, W, 3) uint8 -> (3, h, w) float32.
    """
    pixels = _RESIZERS[how.resize](pixels, how.size or (0, 0))
    content = pixels.shape[0], pixels.shape[1]
    return normalised(pixels, how, how.size if how.resize == "pad" and how.size is not None else content), content


def prepared_size(size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    """The height and width of the network's input for an image of `size`, without making it."""
    if how.size is None:
        return size
    if how.resize == "shorter_side":
        return _scaled_size(size, min(how.size) / min(size))
    return how.size


def normalised(pixels: Pixels, how: Preprocessing, frame: tuple[int, int]) -> Tensor:
    """Pixels reordered, normalised, and padded with the mean (which is zero then) at the bottom and on the right.

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


def _keep(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return pixels


def _squeeze(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return resize_image(pixels, *size)


def _fit(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    scale = min(size[0] / pixels.shape[0], size[1] / pixels.shape[1])
    return pixels if scale >= 1 else scaled(pixels, scale)


def _shorter_side(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return scaled(pixels, min(size) / min(pixels.shape[:2]))


def scaled(pixels: Pixels, scale: float) -> Pixels:
    """The picture at `scale` times its size, in its own shape."""
    return resize_image(pixels, *_scaled_size((pixels.shape[0], pixels.shape[1]), scale))


def _scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


_RESIZERS: dict[str, Callable[[Pixels, tuple[int, int]], Pixels]] = {
    "keep": _keep,
    "squeeze": _squeeze,
    "pad": _fit,
    "shorter_side": _shorter_side,
}
