"""Max-pooling as Caffe has it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.layers.dilate import square


class CeilMaxPool2d(nn.MaxPool2d):
    """Max-pooling whose last window may hang over the edge (Caffe's rounding), and which can lose its stride exactly.

    An even window begins at its own pixel. With its stride traded for density it keeps the size of the map, and what
    lies beyond the end of the map counts as nothing, as it did when the window hung over the edge. `ends_here=True`
    lets the window end at its own pixel instead: two such poolings, one of each kind, leave the map in its place.

    Shape: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)) for windows of 1 and 2 pixels, and for windows of
    3 at odd sizes; a window of 3 has one output more at even sizes: floor(H / stride) + 1.
    """

    def __init__(self, kernel_size: int, stride: int = 2, *, dilates: bool = True, ends_here: bool = False) -> None:
        super().__init__(kernel_size, stride, padding=(kernel_size - 1) // 2, ceil_mode=kernel_size > 1)
        self.dilates = dilates
        self.ends_here = ends_here

    def forward(self, x: Tensor) -> Tensor:
        size, stride, dilation = (square(v) for v in (self.kernel_size, self.stride, self.dilation))
        if stride > 1:
            return super().forward(x)
        beyond = dilation * (size - 1)  # torch takes no padding this wide for itself
        before = beyond // 2 if size % 2 else beyond if self.ends_here else 0
        x = F.pad(x, (before, beyond - before) * 2, value=float("-inf"))
        return F.max_pool2d(x, size, stride=1, dilation=dilation)
