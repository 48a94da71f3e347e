"""Max pooling with Caffe's rounding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.layers.dilate import single_value


class CeilMaxPool2d(nn.MaxPool2d):
    """Max pooling in ceil mode (Caffe's rounding) whose stride can be removed exactly: same values, sampled densely.

    An even window starts at its own pixel. At stride 1 the size of the map is kept: the map is padded at the end with
    -inf, which has the same effect as the windows beyond the edge in ceil mode. With `pad_before=True` the padding of
    an even window lies before the map instead, so that the window ends at its own pixel: one pooling of each kind in
    sequence leaves the map unshifted. `dilates=False` keeps the dilation at 1 when the stride is removed.

    Shape: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)) for windows of 1 and 2 pixels, and for windows of
    3 at odd sizes; a window of 3 has one output more at even sizes: floor(H / stride) + 1.
    """

    pads_end = True

    def __init__(self, kernel_size: int, stride: int = 2, *, dilates: bool = True, pad_before: bool = False) -> None:
        super().__init__(kernel_size, stride, padding=(kernel_size - 1) // 2, ceil_mode=kernel_size > 1)
        self.dilates = dilates
        self.pad_before = pad_before

    def forward(self, x: Tensor) -> Tensor:
        size = single_value(self, "kernel_size")
        stride, dilation = single_value(self, "stride"), single_value(self, "dilation")
        if stride > 1:
            return super().forward(x)
        beyond = dilation * (size - 1)  # wider than max_pool2d allows as its own padding
        before = beyond // 2 if size % 2 else beyond if self.pad_before else 0
        x = F.pad(x, (before, beyond - before) * 2, value=float("-inf"))
        return F.max_pool2d(x, size, stride=1, dilation=dilation)
