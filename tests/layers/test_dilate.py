"""Trading strides for dilations in a chain of convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError
from atrous.layers.dilate import output_strides, set_output_stride, set_output_stride_of_graph


class TestDilate:
    def chain(self) -> list[nn.Module]:
        return [nn.Conv2d(1, 1, 3, stride=s, padding=1) for s in (2, 1, 2, 1, 2, 1)]

    def test_a_layer_without_its_stride_keeps_its_rate_and_later_ones_double(self) -> None:
        chain = self.chain()
        assert output_strides(chain) == [1, 2, 4, 8]
        set_output_stride(chain, 2)
        assert [c.stride[0] for c in chain] == [2, 1, 1, 1, 1, 1]
        assert [c.dilation[0] for c in chain] == [1, 1, 1, 2, 2, 4]
        assert [c.padding[0] for c in chain] == [1, 1, 1, 2, 2, 4]
        set_output_stride(chain, 8)
        assert [(c.stride[0], c.dilation[0], c.padding[0]) for c in chain] == [(s, 1, 1) for s in (2, 1, 2, 1, 2, 1)]

    def test_whole_stage(self) -> None:
        chain = self.chain()
        set_output_stride(chain, 2, whole_stage=True)
        assert [c.dilation[0] for c in chain] == [1, 1, 2, 2, 4, 4]

    def test_an_impossible_stride(self) -> None:
        with pytest.raises(AtrousError, match="output_stride 3: this network runs at 1, 2, 4, 8"):
            set_output_stride(self.chain(), 3)

    @pytest.mark.parametrize(
        "layer",
        [nn.Conv2d(1, 1, 2, stride=2), nn.Conv2d(1, 1, 4, stride=2, padding=1), nn.Conv2d(1, 1, 3, stride=2)],
        ids=["2x2", "padded 4x4", "unpadded 3x3"],
    )
    def test_strides_that_would_shrink_the_map_are_refused_by_name(self, layer: nn.Conv2d) -> None:
        chain = [*self.chain(), layer]
        set_output_stride(chain, 16)  # nothing is removed
        with pytest.raises(AtrousError, match=r"Conv2d\(1, 1, kernel_size=.*cannot become a dilation.*CeilConv2d"):
            set_output_stride(chain, 8)
        with pytest.raises(AtrousError, match="cannot become a dilation"):
            set_output_stride(chain, 4)
        assert [c.stride[0] for c in self.chain()] == [c.stride[0] for c in chain[:-1]]  # a refusal changes nothing
        with pytest.raises(AtrousError, match="CeilMaxPool2d"):
            set_output_stride([nn.MaxPool2d(2)], 1)

    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            (nn.Conv2d(1, 1, (3, 5)), r"Conv2d\(.*kernel_size \(3, 5\).*Use"),
            (nn.Conv2d(1, 1, 3, padding="same"), r"Conv2d\(.*padding 'same'.*Use"),
        ],
    )
    def test_layers_that_differ_between_the_axes_are_named(self, layer: nn.Conv2d, message: str) -> None:
        with pytest.raises(AtrousError, match=message):
            output_strides([layer])


class Branches(nn.Module):
    """Two branches from stride 2 to 8, one with both strides and one with a stride of 4 at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.first = nn.Conv2d(4, 4, 3, 2, 1)
        self.second = nn.Conv2d(4, 4, 3, 2, 1)
        self.shortcut = nn.Conv2d(4, 4, 1, 4)
        self.last = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.last(self.second(self.first(x)) + self.shortcut(x))


@torch.no_grad()
def test_parallel_branches_are_dilated_by_the_strides_at_their_inputs() -> None:
    network = Branches()
    strides = {network.stem: 1, network.first: 2, network.second: 4, network.shortcut: 2, network.last: 8}
    image = torch.randn(1, 3, 65, 33)
    strided = network(image)
    for stride in (4, 2, 1):
        set_output_stride_of_graph(strides, stride)
        step = 8 // stride
        torch.testing.assert_close(network(image)[..., ::step, ::step], strided)
    set_output_stride_of_graph(strides, 8)
    assert torch.equal(network(image), strided)
    assert network.last.dilation == (1, 1)


def test_a_layer_of_a_graph_that_would_lose_pixels_is_refused_before_any_changes() -> None:
    network = Branches()
    network.second = nn.Conv2d(4, 4, 2, 2)
    strides = {network.stem: 1, network.first: 2, network.second: 4}
    with pytest.raises(AtrousError, match="this stride cannot become a dilation"):
        set_output_stride_of_graph(strides, 2)
    assert network.first.stride == (2, 2)
