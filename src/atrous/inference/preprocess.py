"""Preprocessing: resize, normalize and pad an image before the network, according to `atrous.card.Preprocessing`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atrous.card import Preprocessing
from atrous.imaging.io import Pixels, resize_image


@dataclass(frozen=True)
class NetworkInput:
    """The network's input for one image, its upper left `content_size` holding the image, the rest padding.

    Shape: `planes` (3, h, w) float32; sizes are height and width.
    """

    planes: NDArray[np.float32]
    content_size: tuple[int, int]
    image_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.planes.shape[-2], self.planes.shape[-1]


def preprocess(image: Pixels, preprocessing: Preprocessing) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Turn an image into the network's input.

    Also returns the height and width of the part of the input that holds the image; the rest is padding.

    Shape: (H, W, 3) uint8 -> (3, h, w) float32.
    """
    content_size, input_size = _content_and_input_size((image.shape[0], image.shape[1]), preprocessing)
    return normalize(resize_image(image, *content_size), preprocessing, input_size), content_size


def preprocessed_size(image_size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Compute height and width of the network's input for an image of a given size, without making the input."""
    return _content_and_input_size(image_size, preprocessing)[1]


def resized_size(image_size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Compute the height and width that an image of a given size is resized to, before it is padded."""
    return _content_and_input_size(image_size, preprocessing)[0]


def _content_and_input_size(
    image_size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Compute the size that an image is resized to, and the size that the resized image is padded to."""
    size, grid = preprocessing.size, preprocessing.grid
    if size is None:
        return image_size, _round_to_grid(image_size, grid, math.ceil)
    if preprocessing.resize == "squeeze":
        return size, size
    if preprocessing.resize == "pad":
        scale = min(size[0] / image_size[0], size[1] / image_size[1])
        return image_size if scale >= 1 else _scaled_size(image_size, scale), size
    resized = _round_to_grid(_scaled_size(image_size, min(size) / min(image_size)), grid, round)
    return resized, resized


def _round_to_grid(size: tuple[int, int], grid: int | None, rounding: Callable[[float], int]) -> tuple[int, int]:
    """Round both sides to a multiple of `grid`, plus one; without a grid they stay as they are."""
    if grid is None:
        return size
    return max(1, rounding((size[0] - 1) / grid)) * grid + 1, max(1, rounding((size[1] - 1) / grid)) * grid + 1


def normalize(image: Pixels, preprocessing: Preprocessing, input_size: tuple[int, int]) -> NDArray[np.float32]:
    """Reorder the channels, normalize by mean and std, and pad at the bottom and on the right to `input_size`.

    The padding is the mean, which is zero after normalization. An 8-bit channel has 256 values: the arithmetic is done
    once for each of them and looked up, which is faster on the CPU; training normalizes whole batches on their
    device, see `training.stage.normalize`.

    Shape: (h, w, 3) uint8 -> (3, *input_size) float32; `input_size` is at least (h, w).
    """
    height, width = image.shape[:2]
    lookup = (np.arange(256, dtype=np.float32)[:, None] - np.array(preprocessing.mean, np.float32)) / np.array(
        preprocessing.std, np.float32
    )
    padded = input_size != (height, width)
    planes = np.zeros((3, *input_size), np.float32) if padded else np.empty((3, *input_size), np.float32)
    for channel, plane in enumerate(planes):
        source = channel if preprocessing.channel_order == "RGB" else 2 - channel
        plane[:height, :width] = lookup[:, channel].take(image[..., source])
    return planes


def _scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
