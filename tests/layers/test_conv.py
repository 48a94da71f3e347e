"""Convolutions: TensorFlow padding, bfloat16 gradients, separable convolutions, rounded channels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from atrous.layers.conv import CeilConv2d, Conv2dSame, ConvNormAct, SeparableConv, make_divisible
from atrous.layers.dilate import output_strides, set_output_stride


@given(
    size=st.integers(1, 40),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    dilation=st.integers(1, 3),
)
def test_same_padding_matches_tensorflow(size: int, kernel: int, stride: int, dilation: int) -> None:
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


@pytest.mark.parametrize("patch", [2, 4])
@torch.no_grad()
def test_patches_are_those_of_torch_and_remainders_are_padded(patch: int) -> None:
    """Equal to torch's unpadded convolution where the size divides by the stride, and rounded up elsewhere."""
    conv = CeilConv2d(3, 5, patch, stride=patch)
    x = torch.randn(2, 3, 4 * patch, 3 * patch)
    expected = nn.functional.conv2d(x, conv.weight, conv.bias, stride=patch)
    assert torch.equal(conv(x), expected)
    larger = nn.functional.pad(x, (0, 1, 0, patch - 1))
    assert conv(larger).shape == (2, 5, 5, 4)
    torch.testing.assert_close(conv(larger)[..., :4, :3], expected)


@given(size=st.integers(1, 40), kernel=st.integers(1, 4), strides=st.lists(st.sampled_from([2, 3, 4]), max_size=3))
@torch.no_grad()
def test_dilated_patches_contain_the_strided_ones_at_any_size(size: int, kernel: int, strides: list[int]) -> None:
    """Padding at the end commutes with sampling: no condition on the size, unlike symmetric padding."""
    chain = [CeilConv2d(1, 1, max(kernel, stride), stride=stride).double() for stride in [*strides, 1]]
    x = torch.randn(1, 1, size, 7, dtype=torch.double)
    strided = nn.Sequential(*chain)(x)
    for output_stride in output_strides(chain):
        set_output_stride(chain, output_stride)
        dense = nn.Sequential(*chain)(x)
        step = math.prod(strides) // output_stride
        assert dense.shape[2] == math.ceil(size / output_stride)
        torch.testing.assert_close(dense[..., ::step, ::step], strided)


def test_paddings_differ_only_for_strides_on_even_sizes() -> None:
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
    [(16, 8, 16), (24 * 0.5, 8, 16), (24 * 0.5, 1, 12), (96 * 0.35, 1, 34), (33, 8, 32), (1, 8, 8), (44, 8, 48)],
)
def test_rounding_of_channels(channels: float, divisor: int, expected: int) -> None:
    assert make_divisible(channels, divisor) == expected


def test_separable_convolution_is_depthwise_then_pointwise() -> None:
    conv = SeparableConv(6, 10, dilation=3, depthwise_act=None)
    shapes = [tuple(p.shape) for p in conv.parameters() if p.ndim == 4]
    assert shapes == [(6, 1, 3, 3), (10, 6, 1, 1)]
    assert conv(torch.randn(1, 6, 9, 7)).shape == (1, 10, 9, 7)
    assert [type(m).__name__ for m in conv.modules()].count("ReLU") == 1
