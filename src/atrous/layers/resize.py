"""Bilinear resizing: the one place that decides what `align_corners` means here."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Resize feature maps bilinearly to the size of their partner, never by a factor, so that any size fits.

    `align_corners` is a property of weights, not a taste: True for what was trained in TensorFlow or Caffe, where maps
    have sizes `stride * k + 1` and the corner samples coincide; False for what is trained here and in torchvision.

    Shape: `x` (N, C, h, w) -> (N, C, *size).
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
