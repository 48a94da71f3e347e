"""Networks of timm, as far as timm itself is not needed; tests/parity/test_timm.py runs the real ones."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous import AtrousError, create_model
from atrous.backbones import BACKBONES, list_backbones, timm_library
from atrous.backbones.timm_graph import trace_strides
from atrous.backbones.timm_layers import NormAct, SampledGate, replace_layers
from atrous.layers.conv import CeilConv2d, Conv2d
from atrous.layers.meta import meta_device
from atrous.layers.norm import BatchNorm2d
from atrous.layers.pool import CeilAvgPool2d, CeilMaxPool2d


def test_a_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    timm_library.import_timm.cache_clear()
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(timm_library, "find_spec", lambda name: None)
    with pytest.raises(AtrousError, match=r"This needs timm: pip install"):
        create_model("deeplab_v3_plus", backbone="timm:resnet18")
    timm_library.import_timm.cache_clear()


def test_networks_of_timm_are_not_listed() -> None:
    assert not [name for name in list_backbones() if name.startswith("timm")]
    assert "timm:resnet18" in BACKBONES


class BatchNormAct2d(nn.BatchNorm2d):
    """As in timm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class SEModule(nn.Module):
    """As in timm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(2, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(x.mean((2, 3), keepdim=True))))))


class Network(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


class Conv2dSame(nn.Conv2d):
    """As in timm."""


def small_network() -> Network:
    return Network(
        nn.Conv2d(3, 8, 4, 4),
        BatchNormAct2d(8),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        SEModule(8),
        nn.AvgPool2d(2, 2),
        nn.MaxPool2d(2, 2),
        nn.MaxPool2d(5, 1, 2),
        nn.BatchNorm2d(8),
    )


@torch.no_grad()
def test_replaced_layers_have_the_same_keys_and_values() -> None:
    network = small_network().eval()
    image = torch.randn(2, 3, 128, 96)
    expected, keys = network(image)[0], list(network.state_dict())
    replace_layers(network)
    assert list(network.state_dict()) == keys
    torch.testing.assert_close(network(image)[0], expected)
    kinds = [type(layer) for layer in network.layers]
    pools = [CeilAvgPool2d, CeilMaxPool2d, CeilMaxPool2d]
    assert kinds == [CeilConv2d, NormAct, Conv2d, SampledGate, *pools, BatchNorm2d]
    assert isinstance(network.layers[3].bn, BatchNorm2d)
    assert network.train()(torch.randn(1, 3, 5, 7))[0].shape == (1, 8, 1, 1)


def test_tensorflow_padding_is_ours() -> None:
    network = Network(Conv2dSame(3, 4, 5, 2))
    replace_layers(network)
    assert type(network.layers[0]).__module__ == "atrous.layers.conv"
    assert network(torch.zeros(1, 3, 32, 31))[0].shape == (1, 4, 16, 16)


def test_the_strides_at_the_inputs_of_layers() -> None:
    with meta_device():
        network = small_network()
    replace_layers(network)
    graph = trace_strides(network, network, 3)
    assert graph.input_strides == {f"layers.{n}": s for n, s in ((0, 1), (2, 4), (3, 8), (4, 8), (5, 16), (6, 32))}
    assert graph.maps == [(8, 32)]
    assert not graph.is_parallel


class Operation(nn.Module):
    def __init__(self, compute) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)


@pytest.mark.parametrize(
    ("compute", "name"),
    [
        (lambda x: x.flatten(2).softmax(-1), "flatten"),
        (lambda x: x - x.mean((2, 3), keepdim=True), "mean"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "pad"),
        (lambda x: F.conv2d(x, x.new_ones(3, 3, 3, 3)), "new_ones"),
        (lambda x: torch.roll(x, 1, 2), "roll"),
        (lambda x: x[:, :, ::2], "__getitem__"),
        (lambda x: torch.cat([x, x], 2), "cat"),
        (lambda x: F.max_pool2d(x, 2), "max_pool2d"),
        (lambda x: F.group_norm(x, 1), "group_norm"),
        (lambda x: x.view(1, 3, 64, 4, 256), "view"),
    ],
)
def test_operations_that_mix_pixels_are_refused_with_their_layer(compute, name: str) -> None:
    network = Network(nn.Identity(), Operation(compute))
    with pytest.raises(AtrousError, match=rf"layer layers\.1 \(Operation\) computes '{name}', which no dilation"):
        trace_strides(network, network, 3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 3, 3, 2),
        nn.Conv2d(3, 3, 2, 1, 1),
        nn.Conv2d(3, 3, (1, 3), 1, (0, 1)),
        nn.AvgPool2d(3, 1, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ],
    ids=str,
)
def test_layers_without_a_dilation_are_refused(layer: nn.Module) -> None:
    network = Network(layer).to("meta")
    with pytest.raises(AtrousError, match=r"its layer layers\.0"):
        trace_strides(network, network, 3)


def test_resized_branches_are_found() -> None:
    network = Network(nn.Upsample(scale_factor=2))
    assert trace_strides(network, network, 3).is_parallel
