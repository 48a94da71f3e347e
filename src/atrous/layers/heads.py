"""Segmentation heads that several papers share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atrous.layers.conv import ConvNormAct, init_classifier, init_convs


class ConvsAndInput(nn.Module):
    """Run 3x3 convolutions, and fuse their result with their input by one more.

    Shape: (N, in_channels, h, w) -> (N, channels, h, w).
    Source: mmsegmentation's `FCNHead` with `concat_input=True`.
    """

    def __init__(self, in_channels: int, channels: int, convs: int) -> None:
        super().__init__()
        inputs = [in_channels] + [channels] * (convs - 1)
        self.convs = nn.Sequential(*(ConvNormAct(n, channels, 3) for n in inputs))
        self.fuse = ConvNormAct(in_channels + channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([x, self.convs(x)], 1))


class FCNHead(nn.Sequential):
    """FCN head: a 3x3 convolution to a quarter of the channels, dropout and a 1x1 classifier.

    It is the main head of `fcn.resnet50` and the auxiliary head of DeepLab v3 and PSPNet. `channels` replaces the
    quarter; with `convs` above 1 there are as many convolutions, and one more that fuses their result with their input.

    Shape: (N, in_channels, h, w) -> (N, num_classes, h, w).
    Source: PSPNet section 3.2 (auxiliary loss); torchvision's `FCNHead`. Children are numbered as there, except that
    the first three form one `ConvNormAct` here.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, dropout: float = 0.1, channels: int | None = None, convs: int = 1
    ) -> None:
        mid = channels or in_channels // 4
        super().__init__(
            ConvNormAct(in_channels, mid, 3) if convs == 1 else ConvsAndInput(in_channels, mid, convs),
            nn.Dropout(dropout),
            nn.Conv2d(mid, num_classes, 1),
        )
        init_head(self)


def init_head(head: nn.Sequential) -> None:
    """Initialize a head, whose last layer is the classifier."""
    init_convs(head)
    classifier = head[-1]
    assert isinstance(classifier, nn.Conv2d)
    init_classifier(classifier)
