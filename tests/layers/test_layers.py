from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.aspp import ASPP, ImagePooling
from atrous.layers.conv import Conv2dSame, ConvNormAct, SeparableConv, make_divisible
from atrous.layers.dilate import output_strides, set_output_stride
from atrous.layers.norm import BatchNorm2d, freeze_batch_norm, unfreeze_batch_norm
from atrous.layers.resize import resize


@given(
    size=st.integers(1, 40),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    dilation=st.integers(1, 3),
)
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int, dilation: int) -> None:
    """Output ceil(n / s), the odd pixel of padding at the end: checked against every window by hand."""
    if stride > 1 and dilation > 1:
        return  # TensorFlow has no such convolution
    conv = Conv2dSame(1, 1, kernel, stride=stride, dilation=dilation, padding=dilation * (kernel // 2), bias=False)
    nn.init.normal_(conv.weight)
    conv.requires_grad_(False)
    x = torch.randn(1, 1, size, 1)
    out = math.ceil(size / stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    ours = conv(x)
    assert ours.shape[2] == out
    column = conv.weight[0, 0, :, kernel // 2]
    for row in range(out):
        positions = [row * stride - total // 2 + tap * dilation for tap in range(kernel)]
        value = sum(column[tap] * x[0, 0, p, 0] for tap, p in enumerate(positions) if 0 <= p < size)
        assert abs(float(ours[0, 0, row, 0]) - float(value)) < 1e-4


def test_the_two_paddings_differ_where_a_stride_meets_an_even_size() -> None:
    x = torch.randn(1, 3, 32, 33)
    ours, tensorflows = ConvNormAct(3, 4, 3, stride=2), ConvNormAct(3, 4, 3, stride=2, padding="tensorflow")
    tensorflows.load_state_dict(ours.state_dict())
    a, b = ours(x), tensorflows(x)
    assert a.shape == b.shape
    assert not torch.allclose(a, b)
    torch.testing.assert_close(ours(x[..., :31, :]), tensorflows(x[..., :31, :]))


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("dilation", [1, 2, 6])
def test_gradients_of_atrous_depthwise_convolutions_in_bfloat16(dilation: int, autocast: bool) -> None:
    """Channels last, as networks are trained: oneDNN's own gradients are not even finite there."""
    conv = ConvNormAct(64, 64, 3, dilation=dilation, groups=64, norm=None, act=None)
    x, wanted = torch.randn(2, 64, 23, 30), torch.randn(2, 64, 23, 30)
    conv(x).backward(wanted)
    exact = conv[0].weight.grad.clone()
    conv.zero_grad()
    conv, x = conv.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            out = conv(x)
    else:
        out = conv.bfloat16()(x.bfloat16())
    out.backward(wanted.to(out.dtype, memory_format=torch.channels_last))
    torch.testing.assert_close(conv[0].weight.grad.float(), exact, rtol=0.03, atol=0.03 * float(exact.abs().max()))


@pytest.mark.parametrize(
    ("channels", "divisor", "expected"),
    [(16, 8, 16), (24 * 0.5, 8, 16), (24 * 0.5, 1, 12), (33, 8, 32), (1, 8, 8), (44, 8, 48)],
)
def test_rounding_of_channels(channels: float, divisor: int, expected: int) -> None:
    assert make_divisible(channels, divisor) == expected


def test_separable_convolution_is_depthwise_then_pointwise() -> None:
    conv = SeparableConv(6, 10, dilation=3, between=None)
    shapes = [tuple(p.shape) for p in conv.parameters() if p.ndim == 4]
    assert shapes == [(6, 1, 3, 3), (10, 6, 1, 1)]
    assert conv(torch.randn(1, 6, 9, 7)).shape == (1, 10, 9, 7)
    assert [type(m).__name__ for m in conv.modules()].count("ReLU") == 1


class TestBatchNorm:
    def test_one_value_per_channel_trains_on_the_running_statistics(self) -> None:
        norm = BatchNorm2d(4).train()
        nn.init.normal_(norm.running_mean)
        before = norm.running_mean.clone()
        x = torch.randn(1, 4, 1, 1, requires_grad=True)
        y = norm(x)
        y.sum().backward()
        torch.testing.assert_close(y[0, :, 0, 0], (x[0, :, 0, 0] - before) / math.sqrt(1 + norm.eps))
        assert torch.equal(norm.running_mean, before)
        assert x.grad is not None
        assert norm.weight.grad is not None

    def test_otherwise_it_is_torchs(self) -> None:
        ours, theirs = BatchNorm2d(4), nn.BatchNorm2d(4)
        x = torch.randn(2, 4, 3, 3)
        for mode in (True, False):
            torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x))
        assert ours.state_dict().keys() == theirs.state_dict().keys()

    def test_frozen_statistics_survive_train(self) -> None:
        model = create_model("deeplab_v3.mobilenet_v2", width=0.125)
        freeze_batch_norm(model, affine=True).train()
        norms = [layer for layer in model.modules() if isinstance(layer, BatchNorm2d)]
        before = [norm.running_mean.clone() for norm in norms]
        model(torch.randn(2, 3, 33, 33))
        assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
        assert not any(norm.weight.requires_grad for norm in norms)
        unfreeze_batch_norm(model)
        model(torch.randn(2, 3, 33, 33))
        assert not all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
        assert all(norm.weight.requires_grad for norm in norms)


class TestDilate:
    def chain(self) -> list[nn.Module]:
        return [nn.Conv2d(1, 1, 3, stride=s, padding=1) for s in (2, 1, 2, 1, 2, 1)]

    def test_who_lost_its_stride_keeps_its_rate_and_the_later_ones_double(self) -> None:
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


class TestASPP:
    def test_rates_follow_the_stride(self) -> None:
        aspp = ASPP(8, 4, rates=(6, 12, 18))
        for stride, rates in ((16, [6, 12, 18]), (8, [12, 24, 36]), (32, [3, 6, 9])):
            aspp.set_output_stride(stride)
            assert [branch[0].dilation[0] for branch in list(aspp.branches)[1:]] == rates
            assert [branch[0].padding[0] for branch in list(aspp.branches)[1:]] == rates

    def test_rates_that_do_not_divide_are_named(self) -> None:
        with pytest.raises(AtrousError, match="choose multiples of 2"):
            ASPP(8, 4, rates=(6, 13)).set_output_stride(32)
        with pytest.raises(AtrousError, match="1 or more"):
            ASPP(8, 4, rates=(0,))

    def test_the_pooling_window_is_the_crop_over_the_stride(self) -> None:
        aspp = ASPP(8, 4, rates=(), pooling_crop=(513, 257))
        for stride, window in ((16, (33, 17)), (8, (65, 33))):
            aspp.set_output_stride(stride)
            assert aspp.pooling.window == window

    def test_a_window_as_large_as_the_map_is_global_and_a_smaller_one_is_not(self) -> None:
        pooling = ImagePooling(3, 4).eval()
        x = torch.randn(1, 3, 9, 12)
        whole = pooling(x)
        assert whole.shape == (1, 4, 9, 12)
        pooling.window = (40, 40)
        torch.testing.assert_close(pooling(x), whole)
        pooling.window = (5, 5)
        assert not torch.allclose(pooling(x), whole)


def test_resize_hits_the_corners_only_when_they_are_aligned() -> None:
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(x, (1, 3), align_corners=True).flatten().tolist() == [0.0, 0.5, 1.0]
    assert resize(x, (1, 4), align_corners=False).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
