"""Atrous spatial pyramid pooling: the same features at several fields of view, as DeepLab v3 and v3+ share it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, SeparableConv
from atrous.layers.dilate import set_dilation
from atrous.layers.resize import resize

DECLARED_AT = 16
"""The output stride for which atrous rates are written down, in the papers and here."""


class ImagePooling(nn.Module):
    """Image-level features: the average of the map, a 1x1 convolution, and back to the size of the map.

    With a `window` (height, width in pixels of the map) the average is over windows of that size, moved by one pixel:
    the image-level feature of an image larger than the training crop then still sees what it saw in training.

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
        window = min(self.window[0], height), min(self.window[1], width)
        pooled = self.conv(F.avg_pool2d(x, window, stride=1))
        return resize(pooled, (height, width), align_corners=self.align_corners)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v3 and v3+.

    One 1x1 convolution, one 3x3 per atrous rate and the image-level features, each with batch normalization and ReLU,
    concatenated (in this order) and projected by a 1x1 convolution. `rates` hold at output stride 16 and follow
    `set_output_stride`. Without any rates it is the head of the MobileNetV2 release.

    `pooling_crop` (height, width of the training crop in image pixels) fixes the window of the image pooling.

    Shape: (N, in_channels, h, w) -> (N, channels, h, w).
    Source: DeepLab v3 section 3.3 and figure 5; separable convolutions: DeepLab v3+ section 3.1.
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
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if any(rate < 1 for rate in rates):
            raise AtrousError(f"atrous_rates {tuple(rates)}: each must be 1 or more.")
        self.rates = tuple(rates)
        self.pooling_crop = pooling_crop
        self.branches = nn.ModuleList([ConvNormAct(in_channels, channels)])
        for rate in rates:
            self.branches.append(
                SeparableConv(in_channels, channels, dilation=rate)
                if separable
                else ConvNormAct(in_channels, channels, 3, dilation=rate)
            )
        self.pooling = ImagePooling(in_channels, channels, align_corners=align_corners) if image_pooling else None
        self.project = ConvNormAct((len(self.branches) + image_pooling) * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def set_output_stride(self, output_stride: int) -> None:
        """Scale the rates, so that each branch keeps its field of view in the image.

        Raises: `AtrousError` where a rate would not be a whole number.
        """
        if any(rate * DECLARED_AT % output_stride for rate in self.rates):
            raise AtrousError(
                f"atrous_rates {self.rates} (declared at output stride {DECLARED_AT}) are no whole numbers at output "
                f"stride {output_stride}: choose multiples of {output_stride // DECLARED_AT}."
            )
        for rate, branch in zip(self.rates, list(self.branches)[1:], strict=True):
            for conv in branch.modules():
                if isinstance(conv, nn.Conv2d) and max(conv.kernel_size) > 1:
                    set_dilation(conv, rate * DECLARED_AT // output_stride)
        if self.pooling is not None and self.pooling_crop is not None:
            height, width = ((side - 1) // output_stride + 1 for side in self.pooling_crop)
            self.pooling.window = height, width

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        if self.pooling is not None:
            maps.append(self.pooling(x))
        return self.dropout(self.project(torch.cat(maps, 1)))
