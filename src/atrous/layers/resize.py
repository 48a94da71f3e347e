"""Bilinear resizing: the one place that decides what `align_corners` means here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Resize feature maps bilinearly to the size of their partner, never by a factor, so that any size fits.

    `align_corners` is a property of weights, not a taste: True for what was trained on sizes of `stride * k + 1`, where
    the corner samples coincide, as in TensorFlow and Caffe and by the recipes of DeepLab v3 and v3+ here; False for
    torchvision's, and for multiples of the stride.

    Shape: `x` (N, C, h, w) -> (N, C, *size).
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


class BilinearDeconv(nn.ConvTranspose2d):
    """A transposed convolution of stride s and kernel 2s that begins as bilinear interpolation, each class by itself.

    By default it stays so (the released networks give it a learning rate of 0); `learned=True` trains it. `full` has a
    kernel for every pair of classes, as released FCN has, all zero but for equal ones; else there is one per class.
    Without padding, output pixel s/2 is the first that belongs to the map; what lies before fades to zero.

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
        full: bool = True,
        bias: bool = False,
    ) -> None:
        groups = 1 if full else channels
        super().__init__(channels, channels, 2 * stride, stride, padding, groups=groups, bias=bias)
        self.weight.requires_grad_(learned)

    def reset_parameters(self) -> None:
        size = self.kernel_size[0]
        ramp = 1 - ((torch.arange(size) + 0.5) / (size / 2) - 1).abs()
        own = torch.eye(self.in_channels) if self.groups == 1 else torch.ones(self.in_channels, 1)
        with torch.no_grad():
            self.weight.copy_(own[:, :, None, None] * ramp[:, None] * ramp)
            if self.bias is not None:
                self.bias.zero_()
