"""Convolutions with normalization and activation, separable convolutions, TensorFlow's "SAME" padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.layers.depthwise import depthwise_conv2d, has_faster_gradients
from atrous.layers.norm import BatchNorm2d

ImagePadding = Literal["symmetric", "tensorflow"]
"""Zeros on both sides, or TensorFlow's "SAME" padding."""
Padding = Literal[ImagePadding, "before_expansion"]
"""Those, or none: the input of the inverted residual was padded before."""
Activation = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]
"""Builds a normalization layer for a number of channels."""


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with fast and correct gradients for depthwise convolutions on a CPU.

    Those of strided, atrous and wide kernels are computed by `atrous.layers.depthwise`. For atrous depthwise
    convolutions in bfloat16 oneDNN (as of torch 2.13) returns wrong gradients or NaN, or crashes, for tensors in
    channels-last order. Where torch computes these (in a compiled network), they run in float32; such a convolution is
    bound by memory, not by arithmetic.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros" and isinstance(self.padding, tuple):
            return self._convolve(input, weight, bias, self.padding)
        return super()._conv_forward(input, weight, bias)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
        options = self.stride, padding, self.dilation, self.groups
        if has_faster_gradients(self, x, padding):
            return depthwise_conv2d(x, weight, bias, self.stride[0], padding, self.dilation[0])
        if not (self.groups > 1 and max(self.dilation) > 1 and x.device.type == "cpu" and _is_half(x)):
            return F.conv2d(x, weight, bias, *options)
        with torch.autocast("cpu", enabled=False):
            output = F.conv2d(x.float(), weight.float(), None if bias is None else bias.float(), *options)
        return output.to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype)


def _is_half(x: Tensor) -> bool:
    return x.dtype.itemsize == 2 or torch.is_autocast_enabled("cpu")


class Conv2dSame(Conv2d):
    """A convolution with TensorFlow's "SAME" padding: output ceil(n / stride), the odd pixel of padding at the end.

    It differs from symmetric padding only for a stride above 1 and an even size. Imported weights need it to process
    such sizes as in training.
    """

    def forward(self, x: Tensor) -> Tensor:
        if max(self.stride) == 1:
            return super().forward(x)
        pads: list[int] = []
        for size, k, s, d in zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True):
            total = same_padding(size, k, s, d)
            pads = [total // 2, total - total // 2, *pads]  # F.pad counts dimensions from the last
        return self._convolve(F.pad(x, pads), self.weight, self.bias, (0, 0))


class PrepaddedConv2d(Conv2d):
    """A convolution that does not pad its input; `padding` is what it would need to keep the size at stride 1.

    Shape: (N, in_channels, H + 2 padding, W + 2 padding) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight, self.bias, (0, 0))


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Compute the padding along one axis, before and after, of TensorFlow's "SAME"."""
    # ((size - 1) // stride) * stride is where the last window starts; never negative for kernels >= strides.
    return (size - 1) // stride * stride + (kernel - 1) * dilation + 1 - size if kernel > 1 else 0


class CeilConv2d(Conv2d):
    """A convolution with ceil-mode output size: it pads only at the bottom and on the right, with zeros.

    Without a remainder (a kernel equal to the stride and a size that it divides) nothing is padded: then it equals
    `torch.nn.Conv2d` without padding, such as ConvNeXt's 2x2 convolutions of stride 2. Other sizes are rounded up,
    where torch drops the last pixels. At stride 1 the size is kept, so that the stride can be traded for a dilation
    exactly, for every size: a pixel beyond the edge of the strided map lies beyond the edge of the dense one.

    Shape: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    pads_end = True

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, k, s, d in zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True):
            pads = [0, same_padding(size, k, s, d), *pads]  # F.pad counts dimensions from the last
        return super().forward(F.pad(x, pads))


class ConvNormAct(nn.Sequential):
    """Convolution, normalization and activation; children `0`, `1`, `2`, as torchvision names them.

    The padding keeps the size (divided by the stride). By default the convolution has a bias only without
    normalization; `bias=True` adds one next to normalization, as in Caffe's networks.

    Shape: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)) for odd kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: Norm | None = BatchNorm2d,
        act: Activation | None = nn.ReLU,
        padding: Padding = "symmetric",
    ) -> None:
        conv = {"symmetric": Conv2d, "tensorflow": Conv2dSame, "before_expansion": PrepaddedConv2d}[padding]
        layers: list[nn.Module] = [
            conv(
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=dilation * (kernel_size - 1) // 2,
                dilation=dilation,
                groups=groups,
                bias=norm is None if bias is None else bias,
            )
        ]
        if norm is not None:
            layers.append(norm(out_channels))
        if act is not None:
            layers.append(act())
        super().__init__(*layers)


class SeparableConv(nn.Sequential):
    """Depthwise separable convolution: depthwise 3x3, then pointwise 1x1, each with its own batch normalization.

    `depthwise_act` and `pointwise_act` are the activations after the two convolutions: ASPP and decoder have both,
    Xception's entry and middle flow have neither. `depthwise_norm=False` leaves out the first normalization, and with
    it the first activation, as in other libraries.

    Shape: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    Source: DeepLab v3+ (Chen et al. 2018), section 3.1 and figure 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm = BatchNorm2d,
        depthwise_norm: bool = True,
        depthwise_act: Activation | None = nn.ReLU,
        pointwise_act: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__(
            ConvNormAct(
                in_channels,
                in_channels,
                3,
                stride=stride,
                dilation=dilation,
                groups=in_channels,
                bias=False,
                norm=norm if depthwise_norm else None,
                act=depthwise_act if depthwise_norm else None,
            ),
            ConvNormAct(in_channels, out_channels, norm=norm, act=pointwise_act),
        )


def conv3x3(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.Conv2d:
    """Build a 3x3 convolution that keeps the size.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round a number of channels to the nearest multiple of `divisor`, but not down by more than a tenth.

    The result is at least `divisor`. `divisor=1` only rounds to integers, as TensorFlow DeepLab does for widths other
    than 1.

    Source: MobileNet's released code.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def init_convs(module: nn.Module, *, mode: Literal["fan_out", "fan_in"] = "fan_out") -> None:
    """Initialize every convolution by He's method, with zero biases; classifiers are initialized separately.

    "fan_out" is torchvision's mode. "fan_in", the mode of the paper and of Caffe, is for networks without batch
    normalization: it preserves the variance of activations in the forward pass.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_classifier(layer: nn.Conv2d) -> None:
    """Initialize a classifier of features by small weights, so that training begins at the loss of guessing.

    Source: TensorFlow DeepLab (a truncated normal distribution of 0.01).
    """
    nn.init.trunc_normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
