"""ASPP and image pooling of DeepLab v3."""

from __future__ import annotations

import pytest
import torch

from atrous import AtrousError
from atrous.layers.aspp import ASPP, ImagePooling


class TestASPP:
    def test_rates_follow_the_stride(self) -> None:
        aspp = ASPP(8, 4, rates=(6, 12, 18))
        for stride, rates in ((16, [6, 12, 18]), (8, [12, 24, 36]), (32, [3, 6, 9])):
            aspp.set_output_stride(stride)
            assert [branch[0].dilation[0] for branch in list(aspp.branches)[1:]] == rates
            assert [branch[0].padding[0] for branch in list(aspp.branches)[1:]] == rates

    def test_rates_that_do_not_divide_raise_an_error(self) -> None:
        aspp = ASPP(8, 4, rates=(6, 13, 15))
        with pytest.raises(AtrousError, match=r"atrous_rates 13, 15 .* output stride 32: .* multiples of 2"):
            aspp.set_output_stride(32)
        assert [branch[0].dilation[0] for branch in list(aspp.branches)[1:]] == [6, 13, 15]
        with pytest.raises(AtrousError, match=r"atrous_rates 13 .* output stride 3: .* multiples of 3"):
            aspp.set_output_stride(3)
        with pytest.raises(AtrousError, match="1 or more"):
            ASPP(8, 4, rates=(0,))

    def test_the_pooling_window_is_the_crop_over_the_stride(self) -> None:
        aspp = ASPP(8, 4, rates=(), pooling_crop=(513, 257))
        for stride, window in ((16, (33, 17)), (8, (65, 33))):
            aspp.set_output_stride(stride)
            assert aspp.pooling.window == window

    def test_only_windows_smaller_than_the_map_differ_from_global_pooling(self) -> None:
        pooling = ImagePooling(3, 4).eval()
        x = torch.randn(1, 3, 9, 12)
        whole = pooling(x)
        assert whole.shape == (1, 4, 9, 12)
        pooling.window = (40, 40)
        torch.testing.assert_close(pooling(x), whole)
        pooling.window = (5, 5)
        assert not torch.allclose(pooling(x), whole)
