"""The contract's default methods: parameter groups."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from atrous import create_model, list_models
from atrous.errors import AtrousError
from atrous.layers.norm import BatchNorm2d, LayerNorm2d
from atrous.models import SegmentationModel


class OneLayer(SegmentationModel):
    """A network whose head is a convolution and a normalization layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = norm

    def scores(self, image: Tensor) -> Tensor:
        return self.norm(self.conv(image))


@pytest.mark.parametrize(
    "norm",
    [BatchNorm2d(4), nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4), nn.LayerNorm(4), LayerNorm2d(4)],
    ids=lambda norm: type(norm).__name__,
)
def test_every_kind_of_normalization_counts_as_normalization(norm: nn.Module) -> None:
    """Its scale and shift are spared from decay by `decay_norm`, and its shift is no bias of a convolution."""
    model = OneLayer(norm)
    groups = model.parameter_groups(0.1, weight_decay=0.5, lr_mult={"head": 10, "bias": 2}, decay_norm=False)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in model.conv.parameters()}
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert [rates[id(p)] for p in (model.conv.weight, model.conv.bias, norm.weight, norm.bias)] == [1, 2, 1, 1]


def test_rates_and_decay_of_head_and_biases() -> None:
    model = OneLayer(BatchNorm2d(4))
    groups = model.parameter_groups(0.1, weight_decay=0.5, lr_mult={"head": 10}, decay_bias=False)
    assert {(group["name"], group["lr"], group["weight_decay"], len(group["params"])) for group in groups} == {
        ("head", 1.0, 0.5, 3),
        ("head", 1.0, 0.0, 1),
    }
    assert torch.optim.SGD(groups, lr=0.1)


def test_the_rate_of_any_part_by_name_is_multiplied() -> None:
    model = OneLayer(BatchNorm2d(4))
    groups = model.parameter_groups(0.1, lr_mult={"conv": 10, "norm.bias": 5, "bias": 2})
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    parameters = (model.conv.weight, model.conv.bias, model.norm.weight, model.norm.bias)
    assert [rates[id(p)] for p in parameters] == pytest.approx([1, 2, 0.1, 0.5])
    assert [group["name"] for group in groups] == ["conv", "conv bias", "", "norm.bias"]


@pytest.mark.parametrize(
    ("part", "suggestion"),
    [("conf", "'conv'"), ("heads", "'head'"), ("norm.bais", "'norm.bias'"), ("con", "'conv'")],
)
def test_unknown_parts_get_the_nearest_names(part: str, suggestion: str) -> None:
    with pytest.raises(
        AtrousError, match=rf"no part '{part}'\. Did you mean {suggestion}.*Parts are head, bias, and"
    ) as e:
        OneLayer(BatchNorm2d(4)).parameter_groups(0.1, lr_mult={part: 10})
    assert "such as conv, norm." in str(e.value)


@pytest.mark.parametrize(
    "architecture",
    [
        *("fcn", "fcn_32s", "fcn_16s", "fcn_8s", "fcn_8s_at_once", "deeplab_v1", "deeplab_v2", "deeplab_v2_msc"),
        *("deeplab_v3", "deeplab_v3_plus", "pspnet", "gcn", "refinenet", "unet", "lraspp"),
    ],
)
def test_an_architecture_on_any_backbone(architecture: str) -> None:
    model = create_model(architecture, backbone="convnext_tiny", num_classes=5, width=0.125).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 65, 33))
    assert logits.shape == (1, 5, 65, 33)
    loss = nn.functional.cross_entropy(logits, torch.randint(0, 5, (1, 65, 33)))
    assert float(loss) < math.log(5) + 1.5  # that of guessing
    assert architecture not in list_models()
    with pytest.raises(AtrousError, match=f"{architecture} needs the argument backbone"):
        create_model(architecture)
    with pytest.raises(AtrousError, match=r"There is no backbone 'convnext_tny'\. Did you mean 'convnext_tiny'"):
        create_model(architecture, backbone="convnext_tny")


def test_an_architecture_on_one_of_its_own_backbones_is_the_id() -> None:
    model = create_model("pspnet", backbone="resnet50", width=0.125)
    assert len(model.backbone.conv1) > 1  # the deep stem of pspnet.resnet50
    model = create_model("deeplab_v3", backbone="mobilenet_v2", width=0.125)
    assert len(model.aspp.branches) == 1  # without atrous rates, as deeplab_v3.mobilenet_v2
