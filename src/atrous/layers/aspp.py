"""Pyramids: the same features looked at with several fields of view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, SeparableConv
from atrous.layers.dilate import set_dilation
from atrous.layers.resize import resize

DECLARED_AT = 16
"""The output stride for which atrous rates are written down, in the papers and here."""

Pool = Literal["average", "max"]


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


class PyramidPooling(nn.Module):
    """The map beside its averages (or maxima) over grids of a few bins, from the whole image to its sixths.

    Each grid goes through a 1x1 convolution that reduces its channels to 1 / len(bins), unless `reduce` is off, and
    is brought back to the size of the map. The bins cover a map of any size, as adaptive pooling does. With a `crop`
    (height, width in image pixels) the windows are those of the released networks instead, fixed in size: at
    473 x 473 and stride 8 they are 60, 30, 20 and 10 pixels of the map wide, wherever the image ends.

    Shape: (N, in_channels, h, w) -> (N, out_channels, h, w); `out_channels` is an attribute.
    Source: PSPNet section 3.1 and figure 3; the ablation of table 1.
    Raises: `AtrousError` for bins or a way of pooling that cannot be.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        pool: Pool = "average",
        reduce: bool = True,
        crop: tuple[int, int] | None = None,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if not bins or any(count < 1 for count in bins):
            raise AtrousError(f"bins {tuple(bins)}: at least one is needed, each 1 or more.")
        if pool not in ("average", "max"):
            raise AtrousError(f"pool '{pool}': it is 'average' or 'max'.")
        self.bins = tuple(bins)
        self.pool = pool
        self.crop = crop
        self.map_of_crop: tuple[int, int] | None = None
        self.align_corners = align_corners
        channels = max(1, in_channels // len(self.bins)) if reduce else in_channels
        self.convs = nn.ModuleList(ConvNormAct(in_channels, channels) if reduce else nn.Identity() for _ in self.bins)
        self.out_channels = in_channels + channels * len(self.bins)

    def set_output_stride(self, output_stride: int) -> None:
        """Fixed windows keep their size in the image; bins need no change."""
        if self.crop is not None:
            height, width = ((side - 1) // output_stride + 1 for side in self.crop)
            self.map_of_crop = height, width

    def windows(self) -> list[tuple[int, int]]:
        """Height and width of each fixed window, in pixels of the map; none where the bins follow the map."""
        if self.map_of_crop is None:
            return []
        height, width = self.map_of_crop
        return [(-(-height // count), -(-width // count)) for count in self.bins]

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.map_of_crop is None:
            adaptive = F.adaptive_avg_pool2d if self.pool == "average" else F.adaptive_max_pool2d
            pooled = [adaptive(x, count) for count in self.bins]
        else:
            pooled = [self._fixed(x, window) for window in self.windows()]
        maps = [
            resize(conv(grid), (height, width), align_corners=self.align_corners)
            for conv, grid in zip(self.convs, pooled, strict=True)
        ]
        return torch.cat([x, *maps], 1)

    def _fixed(self, x: Tensor, window: tuple[int, int]) -> Tensor:
        size = min(window[0], x.shape[2]), min(window[1], x.shape[3])
        pool = F.avg_pool2d if self.pool == "average" else F.max_pool2d
        return pool(x, size, size, ceil_mode=True)


class SumASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v2: whole classifiers side by side, their scores added.

    `branch` builds one for an atrous rate, its dilated convolution first: a 3x3 convolution to the classes (ResNet), or
    fc6, fc7 and fc8 (VGG-16). `rates` hold at output stride 8 and follow `set_output_stride`.

    Shape: (N, in_channels, h, w) -> (N, num_classes, h, w).
    Source: DeepLab v2 section 3.2 and figure 7.
    Raises: `AtrousError` for no rates, or rates below 1.
    """

    DECLARED_AT = 8

    def __init__(self, branch: Callable[[int], nn.Module], rates: Sequence[int]) -> None:
        super().__init__()
        if not rates or any(rate < 1 for rate in rates):
            raise AtrousError(f"atrous_rates {tuple(rates)}: one or more are needed, each of 1 or more.")
        self.rates = tuple(rates)
        self.branches = nn.ModuleList(branch(rate) for rate in rates)

    def takes_output_stride(self, output_stride: int) -> bool:
        """Whether all rates are whole numbers there."""
        return not any(rate * self.DECLARED_AT % output_stride for rate in self.rates)

    def set_output_stride(self, output_stride: int) -> None:
        """Scale the rates, so that each branch keeps its field of view in the image."""
        for rate, branch in zip(self.rates, self.branches, strict=True):
            conv = next(layer for layer in branch.modules() if isinstance(layer, nn.Conv2d))
            set_dilation(conv, rate * self.DECLARED_AT // output_stride)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        scores = first(x)
        for branch in others:
            scores = scores + branch(x)
        return scores
