"""Networks whose answers are known, their cards, and images for them."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from atrous.card import Card, Preprocessing
from atrous.models import SegmentationModel

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class ChannelNetwork(SegmentationModel):
    """A network of stride 1 that predicts the strongest channel of each pixel; it keeps its inputs."""

    num_classes = 3
    output_stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def possible_output_strides(self) -> list[int]:
        return [1]

    def scores(self, image: Tensor) -> Tensor:
        self.inputs.append(image)
        return image * 10


class SmallNetwork(SegmentationModel):
    """Two strided convolutions and a dilated one: a receptive field of 3 + 2 * 2 + 4 * 4 * 2 = 39 pixels."""

    num_classes = 5
    output_stride = 4

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 3, 1, 4, 4)
        )
        for layer in self.body[::2]:
            nn.init.normal_(layer.weight, std=0.3)

    def possible_output_strides(self) -> list[int]:
        return [4]

    def scores(self, image: Tensor) -> Tensor:
        return self.body(image)


def rgb_card(**preprocessing) -> Card:
    """A card of three classes whose preprocessing scales pixels to 0..1."""
    return Card(
        model="none",
        classes=("red", "green", "blue"),
        colors=(RED, GREEN, BLUE),
        preprocessing=Preprocessing(mean=(0, 0, 0), std=(255, 255, 255), **preprocessing),
    )


def letter_card(align_corners: bool, num_classes: int = 5, std: float = 60, **preprocessing) -> Card:
    """A card of classes a, b, c, ..."""
    return Card(
        model="none",
        classes=tuple("abcdefgh"[:num_classes]),
        colors=((0, 0, 0),) * num_classes,
        preprocessing=Preprocessing(mean=(127.5,) * 3, std=(std,) * 3, **preprocessing),
        align_corners=align_corners,
    )


def quadrants(height: int, width: int) -> np.ndarray:
    """An image whose left half is red, whose right half green above blue."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 250
    image[: height // 2, width // 2 :, 1] = 250
    image[height // 2 :, width // 2 :, 2] = 250
    return image


def waves(height: int, width: int) -> np.ndarray:
    """A smooth image in which all channels are somewhere the strongest."""
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 17 + phase) + np.cos(y / 23 + 2 * phase) for phase in (0, 2, 4)]
    return np.clip(128 + 60 * np.dstack(channels), 0, 255).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
