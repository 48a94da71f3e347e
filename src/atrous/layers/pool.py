"""Max pooling with Caffe's rounding, and pooling over grids and windows that exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.layers.conv import same_padding
from atrous.layers.dilate import single_value

Pool: TypeAlias = Literal["average", "max"]


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


class MaxPool2dSame(nn.MaxPool2d):
    """Max pooling with TensorFlow's "SAME" padding: output ceil(n / stride), the odd pixel of padding at the end.

    It differs from symmetric padding only for a stride above 1 and an even size, as `layers.conv.Conv2dSame` does.

    Shape: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)) for odd kernels.
    """

    def forward(self, x: Tensor) -> Tensor:
        size, stride = single_value(self, "kernel_size"), single_value(self, "stride")
        if stride == 1:
            return super().forward(x)
        pads: list[int] = []
        for length in x.shape[-2:]:
            total = same_padding(length, size, stride, 1)
            pads = [total // 2, total - total // 2, *pads]  # F.pad counts dimensions from the last
        return F.max_pool2d(F.pad(x, pads, value=float("-inf")), size, stride)


class CeilAvgPool2d(nn.AvgPool2d):
    """Average pooling in ceil mode, over windows side by side, whose stride can be removed exactly.

    A window starts at its own pixel; beyond the edge it averages the pixels that are there. At stride 1 the size of the
    map is kept.

    Shape: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).
    """

    pads_end = True

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size, kernel_size, ceil_mode=True, count_include_pad=False)
        self.dilation = (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if single_value(self, "stride") > 1:
            return super().forward(x)
        total = self._sum_of_windows(x)
        return total / self._sum_of_windows(torch.ones_like(x[:1, :1]))

    def _sum_of_windows(self, x: Tensor) -> Tensor:
        size, dilation = single_value(self, "kernel_size"), self.dilation[0]
        height, width = x.shape[2:]
        x = F.pad(x, (0, dilation * (size - 1)) * 2)
        shifts = [(dilation * row, dilation * column) for row in range(size) for column in range(size)]
        return torch.stack([x[..., top : top + height, left : left + width] for top, left in shifts]).sum(0)


def is_traced() -> bool:
    """Whether the network is being compiled or exported, so that sizes are symbols."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def adaptive_pool2d(x: Tensor, bins: int, kind: Pool) -> Tensor:
    """Pool feature maps of any size over a grid of `bins` x `bins`.

    In compiled networks, and in those traced for ONNX, it is written as products with matrices, or as masked maxima,
    because torch's own decomposition is right for maps of the traced size only. `torch.export` keeps average pooling
    as torch's operation, which rounds as the network itself does; `DECOMPOSITIONS` replaces it on the way to ONNX.

    Shape: (N, C, H, W) -> (N, C, bins, bins).
    """
    if kind == "average":
        written_out = torch.compiler.is_dynamo_compiling() or torch.onnx.is_in_onnx_export()
        return _average_by_products(x, (bins, bins)) if written_out else F.adaptive_avg_pool2d(x, bins)
    if not is_traced():
        return F.adaptive_max_pool2d(x, bins)
    rows, columns = (_bin_members(size, bins, x.device) for size in x.shape[2:])
    x = torch.stack([x.masked_fill(~row[:, None], float("-inf")).amax(2) for row in rows.unbind()], 2)
    return torch.stack([x.masked_fill(~column, float("-inf")).amax(3) for column in columns.unbind()], 3)


def _average_by_products(x: Tensor, bins: Sequence[int]) -> Tensor:
    members = (_bin_members(size, count, x.device) for size, count in zip(x.shape[2:], bins, strict=True))
    row_weights, column_weights = (each.to(x.dtype) / each.sum(1, keepdim=True) for each in members)
    return row_weights @ x @ column_weights.t()


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {torch.ops.aten.adaptive_avg_pool2d.default: _average_by_products}
"""What replaces operations that ONNX lacks, for `ExportedProgram.run_decompositions`."""


def _bin_members(size: int, bins: int, device: torch.device) -> Tensor:
    """Mark the pixels of each bin: from floor(i size / bins) to ceil((i + 1) size / bins).

    Shape: -> (bins, size) bool.
    """
    scaled = torch.arange(size, device=device) * bins
    index = torch.arange(bins, device=device)[:, None]
    return (scaled > index * size - bins) & (scaled < (index + 1) * size)


def window_pool2d(x: Tensor, window: tuple[int, int], kind: Pool, *, stride: int | None = 1) -> Tensor:
    """Pool over windows without padding; a window larger than the map shrinks to the map.

    Without a `stride` the windows lie side by side, and the last ones may extend beyond the map. In traced networks,
    whose windows cannot depend on the size of the map, a smaller map is padded to the window instead.

    Shape: (N, C, H, W) -> (N, C, max(H - window[0], 0) / stride + 1, ...), rounded up without a `stride`.
    """
    height, width = x.shape[2:]
    pool = F.avg_pool2d if kind == "average" else F.max_pool2d
    if not is_traced():
        size = min(window[0], height), min(window[1], width)
        return pool(x, size, stride or size, ceil_mode=stride is None)
    below, right = _missing(height, window[0]), _missing(width, window[1])
    padded = F.pad(x, (0, right, 0, below), value=0.0 if kind == "average" else float("-inf"))
    pooled = pool(padded, window, stride or window, ceil_mode=stride is None)
    if kind == "max":
        return pooled
    return pooled * (window[0] * window[1] / ((window[0] - below) * (window[1] - right)))


def _missing(size: Any, window: int) -> Any:
    """By how many pixels a map is smaller than a window; sizes are tensors where TorchScript traces them."""
    return (window - size).clamp(min=0) if isinstance(size, Tensor) else torch.sym_max(window - size, 0)
