"""Trading strides for dilations in a chain of convolutions."""

from __future__ import annotations

import pytest
from torch import nn

from atrous import AtrousError
from atrous.layers.dilate import output_strides, set_output_stride


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
