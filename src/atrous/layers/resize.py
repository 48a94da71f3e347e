"""Bilinear resizing with an explicit `align_corners`, and transposed convolutions initialized to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Resize feature maps bilinearly to a given size (height, width).

    `align_corners` must match the training of the weights: True for weights trained on sizes of `stride * k + 1`, where
    the corner samples coincide, as in TensorFlow, Caffe and the recipes of DeepLab v3 and v3+ here; False for
    torchvision's weights and for sizes that are multiples of the stride.

    Shape: `x` (N, C, h, w) -> (N, C, *size).
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


class BilinearDeconv(nn.ConvTranspose2d):
    """Transposed convolution of stride s and kernel 2s, initialized to bilinear interpolation of each channel.

    By default the weights stay fixed (the released networks give them a learning rate of 0); `learned=True` trains
    them. There is a kernel for every pair of channels, as in the released FCN, zero between different channels;
    `depthwise=True` has one kernel per channel instead. Without padding, the map begins at output pixel s/2; the pixels
    before it fade to zero.

    Shape: (N, C, h, w) -> (N, C, s (h + 1), s (w + 1)), less 2 `padding`.
    Source: FCN section 3.3; `surgery.py` of its release.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        *,
        padding: int = 0,
        learned: bool = False,
        depthwise: bool = False,
        bias: bool = False,
    ) -> None:
        groups = channels if depthwise else 1
        super().__init__(channels, channels, 2 * stride, stride, padding, groups=groups, bias=bias)
        self.weight.requires_grad_(learned)

    def reset_parameters(self) -> None:
        if self.weight.is_meta:  # no values to set, see `layers.meta`
            return
        size = self.kernel_size[0]
        ramp = 1 - ((torch.arange(size) + 0.5) / (size / 2) - 1).abs()
        own = torch.eye(self.in_channels) if self.groups == 1 else torch.ones(self.in_channels, 1)
        with torch.no_grad():
            self.weight.copy_(own[:, :, None, None] * ramp[:, None] * ramp)
            if self.bias is not None:
                self.bias.zero_()
