from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from atrous import create_model
from atrous.card import Card, Preprocessing
from atrous.data.datasets import voc
from atrous.models import SegmentationModel
from atrous.weights import save


@pytest.fixture
def card() -> Card:
    return Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=voc.CLASSES,
        colors=voc.COLORS,
        preprocessing=Preprocessing(resize="pad", size=(65, 65)),
        align_corners=True,
        license="Apache-2.0",
        trained_on="nothing",
    )


@pytest.fixture
def model(card: Card) -> SegmentationModel:
    model = create_model(card.model, align_corners=True, **card.arguments).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 2)
    nn.init.normal_(model.classifier.weight)
    model.card = card
    return model


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 3, 65, 65)


@pytest.fixture
def saved(model: SegmentationModel, tmp_path: Path) -> Path:
    return save(model, tmp_path / "a.safetensors")
