"""Small networks of the registry with weights as after training, and images for them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from atrous import create_model
from atrous.models import SegmentationModel
from tests.contract.trained import imitate_training
from tests.inference.networks import letter_card

SIX = (
    "deeplab_v1.vgg16",
    "deeplab_v3.mobilenet_v2",
    "deeplab_v3_plus.xception65",
    "pspnet.resnet50",
    "segnet.basic",
    "unet.valid",
)
"""Networks that differ most in their operations."""

SIZES = ((1, 65, 65), (2, 120, 91), (1, 161, 200))
"""Batch size, height and width."""


def small_network(name: str = "deeplab_v3.mobilenet_v2", **arguments: object) -> SegmentationModel:
    """A network of an eighth of the width and five classes, with its card."""
    torch.manual_seed(0)
    model = create_model(name, width=0.125, num_classes=5, **arguments)
    imitate_training(model)
    card = letter_card(model.align_corners)
    model.card = card.model_copy(update={"model": name, "arguments": {"width": 0.125, **arguments}})
    return model.eval()


def images(batch: int, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(batch, 3, height, width)).astype(np.float32)


def two_strides(model: SegmentationModel) -> list[int]:
    return [stride for stride in (16, 8, 32) if stride in model.possible_output_strides()][:2]


@torch.no_grad()
def eager_scores(model: SegmentationModel, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    image = torch.from_numpy(batch)
    return (model.scores(image) if model.output_is_resized_scores else model(image)).numpy()


def relative_difference(scores: object, expected: NDArray[np.float32]) -> float:
    """The largest difference between two maps of scores, relative to the largest score."""
    scores = np.asarray(scores)
    assert scores.shape == expected.shape
    assert scores.dtype == expected.dtype
    return float(np.abs(scores - expected).max() / np.abs(expected).max())
