"""Frozen parts: no gradient, evaluation mode that lasts, and a hint for a wrong name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.freeze import FreezableModule
from atrous.layers.norm import BatchNorm2d, set_batch_norm, unfreeze_batch_norm


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


@pytest.mark.parametrize("name", ["fcn_8s.vgg16", "fcn_8s_at_once.vgg16"])
def test_what_was_never_trained_stays_so(name: str) -> None:
    model = create_model(name, width=0.125)
    before = trained(model)
    assert before < set(dict(model.named_parameters()))
    model.freeze("upscore").freeze("upscore", "score_skips").unfreeze("upscore")
    assert trained(model) == {key for key in before if not key.startswith("score_skips")}
    assert trained(model.unfreeze()) == before


@pytest.mark.parametrize("mode", ["train", "sync", "frozen", "frozen_affine"])
def test_modes_of_batch_norm_leave_frozen_parts_frozen(mode: str) -> None:
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125).freeze("backbone").train()
    other = create_model("deeplab_v3.mobilenet_v2", width=0.125).train()
    set_batch_norm(other, mode)
    set_batch_norm(model, mode)
    assert model.frozen_parts == ("backbone",)
    assert trained(model) == {name for name in trained(other) if not name.startswith("backbone")}
    assert not any(module.training for module in model.backbone.modules())
    model.unfreeze()
    assert trained(model) == trained(other)
    assert [module.training for module in model.modules()] == [module.training for module in other.modules()]
    assert trained(unfreeze_batch_norm(model)) == set(dict(model.named_parameters()))


def test_parts_frozen_within_a_module_stay_frozen() -> None:
    inside = Network()
    inside.norm = BatchNorm2d(1)
    unfreeze_batch_norm(nn.Sequential(inside.freeze("norm")))
    assert trained(inside) == {key for key, _ in Network().named_parameters()}
    assert not inside.norm.training


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
