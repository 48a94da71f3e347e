"""Heads that several papers share."""

from __future__ import annotations

from torch import nn

from atrous.layers.conv import ConvNormAct


class FCNHead(nn.Sequential):
    """A 3x3 convolution to a quarter of the channels, dropout, and the 1x1 classifier: an auxiliary or a whole head.

    Shape: (N, in_channels, h, w) -> (N, num_classes, h, w).
    Source: PSPNet section 3.2 (auxiliary loss); torchvision's `FCNHead`, whose numbering of children it keeps but for
    the first three, which are one `ConvNormAct` here.
    """

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.1) -> None:
        mid = in_channels // 4
        super().__init__(
            ConvNormAct(in_channels, mid, 3),
            nn.Dropout(dropout),
            nn.Conv2d(mid, num_classes, 1),
        )
