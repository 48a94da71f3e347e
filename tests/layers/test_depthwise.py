"""Depthwise convolutions on CPUs: the gradients computed by other steps are those of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

from atrous.layers.conv import Conv2d, Conv2dSame, PrepaddedConv2d

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@given(
    size=st.tuples(st.integers(1, 21), st.integers(1, 21)),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 7),
    channels=st.sampled_from([2, 16, 24, 37]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    channels_last=st.booleans(),
    same=st.booleans(),
    biased=st.booleans(),
)
@example((1, 1), 7, 1, 1, 2, torch.float32, False, True, False)  # columns of the kernel that see padding alone
def test_gradients_are_those_of_double_precision(
    size: tuple[int, int],
    kernel: int,
    stride: int,
    dilation: int,
    channels: int,
    dtype: torch.dtype,
    channels_last: bool,
    same: bool,
    biased: bool,
) -> None:
    """Output and gradients of every kernel, stride, rate and size against torch in double precision."""
    padding = dilation * (kernel - 1) // 2 if same else 0
    if any(n + 2 * padding < dilation * (kernel - 1) + 1 for n in size) or (stride > 1 and dilation > 1):
        return
    torch.manual_seed(0)
    conv = Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=biased).to(dtype)
    x = torch.randn(2, channels, *size).to(dtype)
    if channels_last:
        conv, x = conv.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    x.requires_grad_()
    output = conv(x)
    grad = torch.randn_like(output)
    output.backward(grad)

    inputs = [t.detach().double().contiguous().requires_grad_() for t in (x, *conv.parameters())]
    weight, bias = inputs[1], inputs[2] if biased else None
    reference = F.conv2d(inputs[0], weight, bias, stride, padding, dilation, channels)
    reference.backward(grad.double().contiguous())
    pairs = [(output, reference), *((t.grad, u.grad) for t, u in zip((x, *conv.parameters()), inputs, strict=True))]
    for ours, expected in pairs:
        assert ours is not None
        assert expected is not None
        assert ours.dtype == dtype
        scale = max(1.0, float(expected.detach().abs().max()))
        assert float((ours.double() - expected).detach().abs().max()) <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("conv_class", [Conv2dSame, PrepaddedConv2d])
@pytest.mark.parametrize("stride", [1, 2])
def test_other_paddings_have_the_same_gradients(conv_class: type[Conv2d], stride: int) -> None:
    conv = conv_class(8, 8, 5, stride, 2, groups=8)
    x = torch.randn(2, 8, 14, 17, requires_grad=True)
    double = conv_class(8, 8, 5, stride, 2, groups=8).double()
    double.load_state_dict(conv.state_dict())
    y = x.detach().double().requires_grad_()
    for module, image in ((conv, x), (double, y)):
        output = module(image)
        (output * torch.arange(output.numel()).reshape(output.shape).sin()).sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    torch.testing.assert_close(x.grad.double(), y.grad, atol=1e-5, rtol=1e-4)
    for ours, expected in zip(conv.parameters(), double.parameters(), strict=True):
        assert ours.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(ours.grad.double(), expected.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 2), (5, 1, 1), (5, 2, 1), (3, 2, 1)])
def test_autocast_keeps_types(kernel: int, stride: int, dilation: int) -> None:
    """Under autocast the output is bfloat16, gradients of float32 parameters and inputs are float32."""
    conv = Conv2d(8, 8, kernel, stride, dilation * (kernel // 2), dilation, groups=8)
    x = torch.randn(2, 8, 20, 20, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(x)
    output.float().square().mean().backward()
    assert output.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in conv.parameters())


def test_frozen_parts_get_no_gradient() -> None:
    conv = Conv2d(8, 8, 5, padding=2, groups=8).requires_grad_(False)
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
    conv.requires_grad_(True)
    conv(x.detach()).sum().backward()
    assert conv.weight.grad is not None


def test_exported_networks_contain_the_convolution_itself() -> None:
    """Tracing, export and functional gradients see the operator or its gradient, not a step of ours."""
    conv = Conv2d(4, 4, 5, padding=2, groups=4)
    x = torch.randn(1, 4, 9, 9)
    exported: Any = torch.export.export(conv, (x,))
    assert [node.target for node in exported.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.conv2d.default
    ]
    torch.testing.assert_close(torch.jit.trace(conv, x)(x), conv(x))  # type: ignore[no-untyped-call]
    parameters = dict(conv.named_parameters())
    gradients = torch.func.grad(lambda p: torch.func.functional_call(conv, p, x).sum())(parameters)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    torch.testing.assert_close(gradients["weight"], conv.weight.grad)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(5, 1, 1), (3, 1, 2), (5, 2, 1)])
def test_gradients_have_gradients(kernel: int, stride: int, dilation: int) -> None:
    """Penalties on gradients differentiate twice."""
    conv = Conv2d(4, 4, kernel, stride, dilation * (kernel // 2), dilation, groups=4)
    found = []
    for dtype in (torch.float32, torch.float64):
        x = torch.arange(4 * 11 * 12, dtype=dtype).sin().reshape(1, 4, 11, 12).requires_grad_()
        conv = conv.to(dtype)
        (first,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (x, conv.weight)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=1e-3)
