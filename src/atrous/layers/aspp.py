"""Atrous spatial pyramid pooling (ASPP) of DeepLab v3 and v3+: parallel branches with different fields of view."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, SeparableConv
from atrous.layers.dilate import set_dilation
from atrous.layers.pool import window_pool2d
from atrous.layers.resize import resize

NOMINAL_OUTPUT_STRIDE = 16
"""The output stride at which the rates apply as given, in the papers and here; at stride 8 they double."""


class ImagePooling(nn.Module):
    """Image-level features: global average pooling, a 1x1 convolution, and bilinear upsampling to the input's size.

    With a `window` (height, width in pixels of the feature map) the average is taken over windows of that size at
    stride 1 instead, so that images larger than the training crop are pooled over the same extent as in training.

    Shape: (N, in_channels, h, w) -> (N, out_channels, h, w).
    Source: DeepLab v3 section 3.3 (after ParseNet); the window is that of TensorFlow DeepLab's released graphs.
    """

    def __init__(self, in_channels: int, out_channels: int, *, align_corners: bool = False) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, out_channels)
        self.align_corners = align_corners
        self.window: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.window is None:
            return self.conv(x.mean((2, 3), keepdim=True)).expand(-1, -1, height, width)
        pooled = self.conv(window_pool2d(x, self.window, "average"))
        return resize(pooled, (height, width), align_corners=self.align_corners)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLab v3 and v3+).

    One 1x1 convolution, one 3x3 convolution per atrous rate and the image-level features, each with batch normalization
    and ReLU, are concatenated (in this order) and projected by a 1x1 convolution. `rates` apply at output stride 16;
    `set_output_stride` scales them. Empty `rates` give the head of the MobileNetV2 release.

    `pooling_crop` (height, width of the training crop in image pixels) sets the window of the image pooling.
    `project_kernel_size` is 3 in mmsegmentation; `depthwise_norm` is that of `SeparableConv`.

    Shape: (N, in_channels, h, w) -> (N, channels, h, w).
    Source: DeepLab v3 section 3.3 and figure 5; separable convolutions: DeepLab v3+ section 3.1.
    Raises: `AtrousError` for rates below 1.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        *,
        rates: Sequence[int] = (6, 12, 18),
        image_pooling: bool = True,
        pooling_crop: tuple[int, int] | None = None,
        separable: bool = False,
        depthwise_norm: bool = True,
        project_kernel_size: int = 1,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if any(rate < 1 for rate in rates):
            raise AtrousError(f"atrous_rates {tuple(rates)}: every rate must be 1 or more.")
        self.rates = tuple(rates)
        self.pooling_crop = pooling_crop
        self.branches = nn.ModuleList([ConvNormAct(in_channels, channels)])
        for rate in rates:
            self.branches.append(
                SeparableConv(in_channels, channels, dilation=rate, depthwise_norm=depthwise_norm)
                if separable
                else ConvNormAct(in_channels, channels, 3, dilation=rate)
            )
        self.pooling = ImagePooling(in_channels, channels, align_corners=align_corners) if image_pooling else None
        self.project = ConvNormAct((len(self.branches) + image_pooling) * channels, channels, project_kernel_size)
        self.dropout = nn.Dropout(dropout)

    def supports_output_stride(self, output_stride: int) -> bool:
        """Check whether all scaled rates are integers."""
        return not self._fractional_rates(output_stride)

    def check_output_stride(self, output_stride: int) -> None:
        """Check that all scaled rates are integers.

        Raises: `AtrousError` with the rates that are not.
        """
        if rates := self._fractional_rates(output_stride):
            divisor = output_stride // math.gcd(output_stride, NOMINAL_OUTPUT_STRIDE)
            raise AtrousError(
                f"atrous_rates {', '.join(map(str, rates))} (at output stride {NOMINAL_OUTPUT_STRIDE}) are not "
                f"integers at output stride {output_stride}: use multiples of {divisor}, or another output stride."
            )

    def set_output_stride(self, output_stride: int) -> None:
        """Scale the atrous rates to an output stride: doubled at 8, halved at 32; fields of view in the image stay.

        Raises: `AtrousError` if a scaled rate is not an integer; then nothing has changed.
        """
        self.check_output_stride(output_stride)
        for rate, branch in zip(self.rates, list(self.branches)[1:], strict=True):
            for conv in branch.modules():
                if isinstance(conv, nn.Conv2d) and max(conv.kernel_size) > 1:
                    set_dilation(conv, rate * NOMINAL_OUTPUT_STRIDE // output_stride)
        if self.pooling is not None and self.pooling_crop is not None:
            height, width = ((side - 1) // output_stride + 1 for side in self.pooling_crop)
            self.pooling.window = height, width

    def _fractional_rates(self, output_stride: int) -> list[int]:
        return [rate for rate in self.rates if rate * NOMINAL_OUTPUT_STRIDE % output_stride]

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        if self.pooling is not None:
            maps.append(self.pooling(x))
        return self.dropout(self.project(torch.cat(maps, 1)))
