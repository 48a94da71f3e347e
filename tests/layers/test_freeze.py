"""Frozen parts: no gradient, evaluation mode that lasts, and a hint for a wrong name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.freeze import FreezableModule


class Network(FreezableModule):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Dropout())
        self.firsts = nn.Linear(1, 1)


def trained(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def test_submodules_and_parameters_by_name() -> None:
    model = Network()
    assert model.freeze("first", "firsts.bias") is model
    assert trained(model) == {"firsts.weight"}
    assert not any(module.training for module in model.first.modules())
    assert model.firsts.training
    assert model.training


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    model = Network().freeze("first")
    model.eval()
    assert not model.firsts.training
    assert model.train() is model
    assert model.firsts.training
    assert not any(module.training for module in model.first.modules())
    before = model.first[1].running_mean.clone()
    model.first(torch.ones(4, 1))
    assert torch.equal(model.first[1].running_mean, before)


def test_parts_are_trained_again() -> None:
    model = Network().freeze("first", "first.0", "firsts.bias")
    model.unfreeze("first")
    assert trained(model) == {"first.1.weight", "first.1.bias", "firsts.weight"}
    assert model.first[1].training
    assert not model.first[0].training
    model.unfreeze()
    assert len(trained(model)) == 6
    assert all(module.training for module in model.modules())
    with pytest.raises(AtrousError, match=r"unfreeze: 'first' is not frozen\. Frozen: nothing"):
        model.unfreeze("first")


def test_a_wrong_name_changes_nothing() -> None:
    model = Network()
    with pytest.raises(
        AtrousError,
        match=r"no submodule 'frist'\. Did you mean 'first'.*It has first, firsts, .*such as first\.0\.weight",
    ):
        model.freeze("firsts", "frist")
    assert len(trained(model)) == 6
    assert model.frozen_parts == ()


def test_a_frozen_backbone_is_left_out_of_training() -> None:
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125, num_classes=3).freeze("backbone").train()
    assert trained(model)
    assert not [name for name in trained(model) if name.startswith("backbone")]
    optimizer = torch.optim.SGD(model.parameter_groups(0.1), lr=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(2, 3, 65, 65)).square().mean().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith("backbone")]
