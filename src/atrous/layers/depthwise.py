"""Depthwise convolution with fast gradients on CPUs.

oneDNN has fast kernels for some gradients of depthwise convolutions only: those of the input at stride 1 without
dilation, and those of the weights without dilation for kernels of up to three columns. For the others it falls back to
one matrix product per image and channel, 5 to 100 times as slow (torch 2.13); for an atrous convolution in bfloat16
and channels-last order it even returns wrong values. This module computes the others from the fast ones:

- The gradient of the input is a convolution of the gradient of the output with the mirrored kernel. In bfloat16 the
  gradient of a strided output is first spread out over a grid of zeros; in float32 oneDNN has a fast kernel for it.
- The gradient of a wide kernel is computed in pieces of at most three columns.
- The gradient of an atrous kernel of rate r is that of a dense kernel on the r x r grids of every r-th pixel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAST_COLUMNS = 3
"""The widest kernel whose gradient oneDNN computes fast."""


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, ...], dilation: int
) -> Tensor:
    """Convolve each channel with its own kernel, as `torch.nn.functional.conv2d` does with one group per channel.

    The output is the same, the gradients are the same up to rounding. Under autocast it runs in autocast's type.

    Shape: (N, C, H, W), kernels (C, 1, K, L), biases (C) -> (N, C, H', W').
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    output: Tensor = _DepthwiseConv2d.apply(x, weight, stride, padding, dilation)
    return output if bias is None else output + bias[:, None, None]


def has_faster_gradients(conv: nn.Conv2d, x: Tensor, padding: tuple[int, ...]) -> bool:
    """Tell whether the gradients of a convolution of `x` are faster by `depthwise_conv2d`, and needed."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    stride, dilation = conv.stride[0], conv.dilation[0]
    strided = stride > 1 and dtype == torch.bfloat16
    return (
        1 < conv.groups == conv.in_channels == conv.out_channels
        and (dilation > 1 or strided or conv.kernel_size[1] > FAST_COLUMNS)
        and (dilation == 1 or stride == 1)
        and (dilation == 1 or dilation <= min(x.shape[2:]))  # beyond, grids are mostly padding
        and conv.stride == (stride, stride)
        and conv.dilation == (dilation, dilation)
        and all(p <= dilation * (k - 1) for p, k in zip(padding, conv.kernel_size, strict=True))
        and x.device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and torch.is_grad_enabled()
        and (x.requires_grad or conv.weight.requires_grad)
        and not torch.compiler.is_compiling()  # compilers and exporters see an ordinary convolution
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
    )


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: tuple[int, ...], dilation: int) -> Tensor:
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, *ctx.options = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_input, needs_weight = ctx.needs_input_grad[:2]
        grad_input = _grad_input(grad, x, weight, *ctx.options) if needs_input else None
        grad_weight = _grad_weight(grad, x, weight, *ctx.options) if needs_weight else None
        return grad_input, grad_weight, None, None, None


def _grad_input(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, ...], dilation: int
) -> Tensor:
    if stride > 1 and x.dtype == torch.float32:
        return _convolution_backward(grad, x, weight, stride, padding, of_input=True)
    reach = [dilation * (k - 1) for k in weight.shape[2:]]
    if stride > 1:
        dense = [n + 2 * p - r for n, p, r in zip(x.shape[2:], padding, reach, strict=True)]  # output size at stride 1
        shape = *grad.shape[:2], *dense
        spread = torch.empty(shape, dtype=grad.dtype, memory_format=_memory_format(x)).zero_()
        spread[:, :, ::stride, ::stride] = grad
        grad = spread
    mirrored_padding = [r - p for r, p in zip(reach, padding, strict=True)]
    return F.conv2d(grad, weight.flip(2, 3), None, 1, mirrored_padding, dilation, x.shape[1])


def _grad_weight(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, ...], dilation: int
) -> Tensor:
    rows, columns = weight.shape[2:]
    if dilation > 1:
        height, width = (-(-n // dilation) * dilation for n in grad.shape[2:])  # of the output, whole grids
        bottom = height + dilation * (rows - 1) - x.shape[2] - padding[0]
        right = width + dilation * (columns - 1) - x.shape[3] - padding[1]
        x = _split_grid(F.pad(x, (padding[1], right, padding[0], bottom)), dilation)
        grad = _split_grid(F.pad(grad, (0, width - grad.shape[3], 0, height - grad.shape[2])), dilation)
        padding = 0, 0
    last = (grad.shape[3] - 1) * stride - padding[1]  # the first column of the last window
    pieces = []
    for start in range(0, columns, FAST_COLUMNS):
        kernels = weight[..., start : start + FAST_COLUMNS]
        window, window_padding = x, padding
        if columns > FAST_COLUMNS:  # the columns that this piece of the kernel sees; negative numbers crop
            before, after = padding[1] - start, last + start + kernels.shape[3] - x.shape[3]
            if min(before, after) <= -x.shape[3]:  # it sees padding alone
                pieces.append(torch.zeros_like(kernels))
                continue
            window, window_padding = F.pad(x, (before, after)), (padding[0], 0)
        pieces.append(_convolution_backward(grad, window, kernels, stride, window_padding, of_input=False))
    return torch.cat(pieces, dim=3)


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, ...], *, of_input: bool
) -> Tensor:
    """Compute torch's own gradient of the input or of the weights of a depthwise convolution without dilation."""
    wanted = [of_input, not of_input, False]
    dense = [1, 1], False, [0, 0]  # not atrous, not transposed
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride, stride], padding, *dense, len(weight), wanted
    )
    return gradients[0 if of_input else 1]


def _split_grid(x: Tensor, rate: int) -> Tensor:
    """Split maps into the rate x rate maps of every `rate`-th pixel, along the batch."""
    n, channels, height, width = x.shape
    if x.is_contiguous(memory_format=torch.channels_last):
        grids = x.permute(0, 2, 3, 1).reshape(n, height // rate, rate, width // rate, rate, channels)
        grids = grids.permute(0, 2, 4, 1, 3, 5).reshape(-1, height // rate, width // rate, channels)
        return grids.permute(0, 3, 1, 2)
    grids = x.reshape(n, channels, height // rate, rate, width // rate, rate).permute(0, 3, 5, 1, 2, 4)
    return grids.reshape(-1, channels, height // rate, width // rate)


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
