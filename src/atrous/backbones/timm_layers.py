"""Replace layers of timm's networks by ours, which compute the same and whose strides can become dilations.

Keys stay the same. What is replaced: convolutions that TensorFlow pads ("SAME") or that nobody pads (patches), pooling
over windows side by side, batch normalization (ours can be frozen, synchronized and trained at batch 1), and layers
that average a whole map, which then average the pixels that the strided network has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from atrous.layers.conv import CeilConv2d, Conv2d, Conv2dSame
from atrous.layers.dilate import single_value
from atrous.layers.norm import BatchNorm2d
from atrous.layers.pool import CeilAvgPool2d, CeilMaxPool2d


class NormAct(BatchNorm2d):
    """Batch normalization and activation in one layer, as timm has them.

    Shape: (N, channels, H, W) -> the same.
    """

    def __init__(self, channels: int, *, eps: float, momentum: float | None, drop: nn.Module, act: nn.Module) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.drop = drop
        self.act = act

    def without_normalization(self) -> nn.Module:
        return nn.Sequential(self.drop, self.act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class SampledGate(nn.Module):
    """Squeeze-and-excite over every `step`-th pixel: scale each channel by a factor computed from their averages.

    `layers` are those of a gate of timm, by name and in order of execution; with `along_channels` they are convolutions
    of one dimension, that of the channels.

    Shape: (N, channels, H, W) -> the same.
    Source: Squeeze-and-Excitation Networks (Hu, Shen, Sun; CVPR 2018), equations 2 to 4; ECA-Net (Wang et al.; CVPR
    2020), equation 8.
    """

    def __init__(self, layers: dict[str, nn.Module], *, along_channels: bool = False) -> None:
        super().__init__()
        self.along_channels = along_channels
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.step = 1

    def forward(self, x: Tensor) -> Tensor:
        factor = _sample(x, self.step, 2).mean((2, 3), keepdim=True)
        if self.along_channels:
            factor = factor.flatten(2).transpose(1, 2)
        for layer in self.children():
            factor = layer(factor)
        return x * (factor.transpose(1, 2).unsqueeze(3) if self.along_channels else factor)


class SampledResponseNorm(nn.Module):
    """Global response normalization, with norms over every `step`-th pixel.

    Shape: (N, channels, H, W), or (N, H, W, channels) with `channels_last` -> the same.
    Source: ConvNeXt V2 (Woo et al.; CVPR 2023), algorithm 1.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, eps: float, *, channels_last: bool) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.eps = eps
        self.channels_last = channels_last
        self.step = 1

    def forward(self, x: Tensor) -> Tensor:
        first, channel, shape = (1, -1, (1, 1, 1, -1)) if self.channels_last else (2, 1, (1, -1, 1, 1))
        norms = _sample(x, self.step, first).norm(p=2, dim=(first, first + 1), keepdim=True)
        normalized = x * (norms / (norms.mean(dim=channel, keepdim=True) + self.eps))
        return x + torch.addcmul(self.bias.view(shape), self.weight.view(shape), normalized)


def _sample(x: Tensor, step: int, first: int) -> Tensor:
    """Take every `step`-th pixel of the two dimensions from `first`."""
    index = (slice(None),) * first + (slice(None, None, step),) * 2
    return x[index] if step > 1 else x


SAMPLED = (SampledGate, SampledResponseNorm)
"""Layers with a `step`, which depends on the output stride."""

GATES = {
    "SEModule": ("fc1", "bn", "act", "fc2", "gate"),
    "SqueezeExcite": ("conv_reduce", "act1", "conv_expand", "gate"),
    "EffectiveSEModule": ("fc", "gate"),
    "EcaModule": ("conv", "gate"),
}
"""Classes of timm's gates, and their layers in order of execution."""


def replace_layers(network: nn.Module) -> None:
    """Replace the layers of a network of timm's that have an equivalent here."""
    for name, child in list(network.named_children()):
        replace_layers(child)
        if (replacement := _replacement(child)) is not None:
            replacement.train(child.training)
            setattr(network, name, replacement)


def _replacement(layer: Any) -> nn.Module | None:
    kind = type(layer).__name__
    if isinstance(layer, nn.Conv2d):
        return _replace_conv(layer)
    if isinstance(layer, nn.BatchNorm2d) and kind in ("BatchNorm2d", "BatchNormAct2d"):
        return _replace_norm(layer)
    if isinstance(layer, (nn.AvgPool2d, nn.MaxPool2d)):
        return _replace_pool(layer)
    if kind in GATES and not getattr(layer, "add_maxpool", False) and getattr(layer, "conv2", None) is None:
        gate = {name: layer.get_submodule(name) for name in GATES[kind]}
        return SampledGate(gate, along_channels=kind == "EcaModule")
    if kind == "GlobalResponseNorm":
        channels_last = layer.channel_dim == -1
        return SampledResponseNorm(layer.weight, layer.bias, layer.eps, channels_last=channels_last)
    return None


def _replace_conv(conv: nn.Conv2d) -> nn.Conv2d | None:
    """Return the convolution of ours with the parameters of timm's; None if it has to stay."""
    kernel, padding = conv.kernel_size, conv.padding
    build: Callable[..., nn.Conv2d]
    if type(conv).__name__ == "Conv2dSame":
        build, padding = Conv2dSame, tuple(d * (k - 1) // 2 for d, k in zip(conv.dilation, kernel, strict=True))
    elif type(conv) is not nn.Conv2d:
        return None
    elif kernel == conv.stride and not any(padding) and max(kernel) > 1:
        build = CeilConv2d
    elif conv.groups > 1:
        build = Conv2d
    else:
        return None
    geometry: dict[str, Any] = {"stride": conv.stride, "padding": padding, "dilation": conv.dilation}
    with torch.device("meta"):
        copy = build(
            conv.in_channels,
            conv.out_channels,
            kernel,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            **geometry,
        )
    copy.weight, copy.bias = conv.weight, conv.bias
    return copy


def _replace_norm(norm: Any) -> BatchNorm2d:
    with torch.device("meta"):
        copy = (
            NormAct(norm.num_features, eps=norm.eps, momentum=norm.momentum, drop=norm.drop, act=norm.act)
            if hasattr(norm, "act")
            else BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        )
    copy.weight, copy.bias = norm.weight, norm.bias
    for name, value in norm.named_buffers():
        setattr(copy, name, value)
    return copy


def _replace_pool(pool: nn.AvgPool2d | nn.MaxPool2d) -> nn.Module | None:
    """Return our pooling over windows side by side, or around every pixel; None for other windows."""
    size, stride, padding = (single_value(pool, name) for name in ("kernel_size", "stride", "padding"))
    if isinstance(pool, nn.AvgPool2d):
        return CeilAvgPool2d(size) if size > 1 and (stride, padding) == (size, 0) else None
    around_every_pixel = size % 2 == 1 and (stride, padding) == (1, size // 2)
    return CeilMaxPool2d(size, stride) if around_every_pixel or (size, stride, padding) == (2, 2, 0) else None
