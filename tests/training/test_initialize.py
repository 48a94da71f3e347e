"""Initialization of a stage: the previous stage goes before trained weights, those before a backbone."""

from __future__ import annotations

from pathlib import Path

import torch

from atrous.data import open_dataset
from atrous.training.initialize import initialize_stage
from atrous.training.stage import build_model
from atrous.weights import save
from tests.training.conftest import small


def test_sources_in_order(street: str, tmp_path: Path) -> None:
    data = open_dataset(f"{street}?split=train")
    plain = small(street)
    trained = build_model(plain, plain.stages[0], data)
    assert trained.card is not None
    torch.nn.init.ones_(trained.classifier.weight)
    file = save(trained, tmp_path / "trained.safetensors")
    torch.save(trained.backbone.state_dict(), tmp_path / "imagenet_backbone.pth")
    stages = [{"name": "one"}, {"name": "two"}]
    recipe = small(street, f"weights={file}", f"backbone_weights={tmp_path / 'imagenet_backbone.pth'}", stages=stages)

    first = build_model(recipe, recipe.stages[0], data)
    (message,) = initialize_stage(first, recipe, 0, None)
    assert message.endswith(f"tensors from {file}.")
    assert torch.equal(first.classifier.weight, trained.classifier.weight)

    second = build_model(recipe, recipe.stages[1], data)
    tensors = {name: torch.zeros_like(value) for name, value in trained.state_dict().items()}
    (message,) = initialize_stage(second, recipe, 1, (trained.card, tensors))
    assert message.endswith("tensors from stage one.")
    assert second.classifier.weight.eq(0).all()

    backbone = small(street, f"backbone_weights={tmp_path / 'imagenet_backbone.pth'}")
    third = build_model(backbone, backbone.stages[0], data)
    (message,) = initialize_stage(third, backbone, 0, None)
    assert "newly initialized: " in message
    assert third.card is not None
    assert third.card.source.endswith(f"{tmp_path / 'imagenet_backbone.pth'} weights")
    assert initialize_stage(trained, plain, 0, None) == []
