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
