"""Parts that bring coarse maps back to fine ones: RefineNet's units and fusion, GCN's large kernels and boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.layers.resize import resize

Order = Literal["pool-conv", "conv-pool"]


def conv3x3(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


class ResidualConvUnit(nn.Module):
    """x + two 3x3 convolutions, a ReLU before each and no normalization; only the first has a bias.

    Shape: (N, channels, H, W) -> the same.
    Source: RefineNet figure 3b; the biases are those of the released networks.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, bias=True)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class MultiResolutionFusion(nn.Module):
    """Maps of several resolutions, each through a 3x3 convolution, brought to the size of the finest, and summed.

    Shape: [(N, in_channels[i], h_i, w_i), ...] -> (N, out_channels, max h_i, max w_i). The first is the finest.
    Source: RefineNet figure 3c.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, align_corners: bool = True) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(channels, out_channels) for channels in in_channels)
        self.align_corners = align_corners

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        finest, *coarser = (conv(x) for conv, x in zip(self.convs, maps, strict=True))
        height, width = finest.shape[-2:]
        for x in coarser:
            finest = finest + resize(x, (height, width), align_corners=self.align_corners)
        return finest


class ChainedResidualPooling(nn.Module):
    """A chain of 5x5 max pooling and 3x3 convolution, every link of which is added to the map it started from.

    `order` says which of the two comes first in a link: "pool-conv" in the paper, "conv-pool" in its later models.

    Shape: (N, channels, H, W) -> the same.
    Source: RefineNet figure 3d.
    Raises: `AtrousError` for an order that is neither.
    """

    def __init__(self, channels: int, *, stages: int = 4, order: Order = "pool-conv") -> None:
        super().__init__()
        if order not in ("pool-conv", "conv-pool"):
            raise AtrousError(f"pooling_order '{order}': it is 'pool-conv' or 'conv-pool'.")
        self.order = order
        self.convs = nn.ModuleList(conv3x3(channels, channels) for _ in range(stages))
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        total = link = F.relu(x)
        for conv in self.convs:
            link = conv(self.pool(link)) if self.order == "pool-conv" else self.pool(conv(link))
            total = total + link
        return total


class GlobalConvolution(nn.Module):
    """A k x k convolution's reach at the price of its edges: k x 1 then 1 x k, plus 1 x k then k x 1.

    Nothing inside is nonlinear, so the whole is a k x k convolution, of low rank.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W).
    Source: GCN figure 3B.
    Raises: `AtrousError` for an even kernel, which would shift the map.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        check_odd(kernel_size)

        def tall(inputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, out_channels, (kernel_size, 1), padding=(kernel_size // 2, 0))

        def wide(inputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, out_channels, (1, kernel_size), padding=(0, kernel_size // 2))

        self.left = nn.Sequential(tall(in_channels), wide(out_channels))
        self.right = nn.Sequential(wide(in_channels), tall(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class BoundaryRefinement(nn.Module):
    """x + (3x3 convolution, ReLU, 3x3 convolution): a residual that sharpens score maps at boundaries.

    Shape: (N, channels, H, W) -> the same.
    Source: GCN figure 2C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, bias=True)
        self.conv2 = conv3x3(channels, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


def check_odd(kernel_size: int) -> None:
    """Raises: `AtrousError` for a kernel size that is not odd."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise AtrousError(f"kernel_size {kernel_size}: it must be odd, such as {max(1, kernel_size + 1)}.")
