"""Segmentation heads that several papers share."""

from __future__ import annotations

from torch import nn

from atrous.layers.conv import ConvNormAct


class FCNHead(nn.Sequential):
    """FCN head: a 3x3 convolution to a quarter of the channels, dropout and a 1x1 classifier.

    It is the main head of `fcn.resnet50` and the auxiliary head of DeepLab v3 and PSPNet.

    Shape: (N, in_channels, h, w) -> (N, num_classes, h, w).
    Source: PSPNet section 3.2 (auxiliary loss); torchvision's `FCNHead`. Children are numbered as there, except that
    the first three form one `ConvNormAct` here.
    """

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.1) -> None:
        mid = in_channels // 4
        super().__init__(
            ConvNormAct(in_channels, mid, 3),
            nn.Dropout(dropout),
            nn.Conv2d(mid, num_classes, 1),
        )
