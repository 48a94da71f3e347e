"""Receptive fields along one axis, for each pixel of a feature map, and how each kind of layer changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

EMPTY = np.iinfo(np.int64).max
"""First pixel of an empty span (nothing but padding). Its last pixel is -1, so that unions need no special case."""


@dataclass(frozen=True)
class Span:
    """First and last image pixel in the receptive field of each pixel of a map, along one axis.

    `stride` is the nominal stride of the map. `is_global` is set once a pixel depends on bins that grow with the image
    (global or adaptive pooling): the receptive field is then the whole image, whatever its size.
    """

    first: np.ndarray
    last: np.ndarray
    image_size: int
    stride: float = 1.0
    is_global: bool = False

    def __len__(self) -> int:
        return len(self.first)

    def select(self, index: np.ndarray) -> Span:
        """Take the spans at the given pixels of the map; pixels outside the map are padding and have empty spans."""
        inside = (index >= 0) & (index < len(self))
        safe = np.clip(index, 0, len(self) - 1)
        first = np.where(inside, self.first[safe], EMPTY)
        return replace(self, first=first, last=np.where(inside, self.last[safe], -1))

    def with_stride(self, stride: float) -> Span:
        """Copy the spans with another nominal stride."""
        return replace(self, stride=stride)

    def size(self) -> int | None:
        """Compute the size of the receptive field: the widest span inside the image, or None without such a span."""
        inside = (self.first > 0) & (self.last < self.image_size - 1) & (self.last >= 0)
        return int((self.last - self.first + 1)[inside].max()) if inside.any() and not self.is_global else None


ReceptiveField = tuple[Span, Span]
"""Spans along the rows and along the columns of a map."""


def image_field(height: int, width: int) -> ReceptiveField:
    """Build the receptive field of the image itself: every pixel depends on itself only."""
    rows, columns = (Span(np.arange(side), np.arange(side), image_size=side) for side in (height, width))
    return rows, columns


def empty_span(template: Span, length: int) -> Span:
    """Build empty spans for a map of `length` pixels over the image of `template`."""
    return replace(template, first=np.full(length, EMPTY), last=np.full(length, -1), stride=template.stride / length)


def union(spans: Sequence[Span]) -> Span:
    """Merge the spans of several maps pixel by pixel into their hulls; maps of a single pixel are broadcast."""
    length = max(map(len, spans))
    spans = [s if len(s) == length else s.select(np.zeros(length, int)).with_stride(s.stride / length) for s in spans]
    first, last = spans[0].first, spans[0].last
    for span in spans[1:]:
        first, last = np.minimum(first, span.first), np.maximum(last, span.last)
    stride = min(span.stride for span in spans)
    return replace(spans[0], first=first, last=last, stride=stride, is_global=any(span.is_global for span in spans))


def sliding_window(span: Span, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Compute the receptive fields after a convolution or pooling with `out` output pixels."""
    starts = np.arange(out) * stride - padding
    return union([span.select(starts + tap * dilation) for tap in range(kernel)]).with_stride(span.stride * stride)


def transposed_conv(span: Span, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Compute the receptive fields after a transposed convolution.

    An output pixel depends on the input pixels whose kernels cover it.
    """
    pixels = np.arange(out) + padding
    taps = []
    for tap in range(kernel):
        source, rest = np.divmod(pixels - tap * dilation, stride)
        taps.append(span.select(np.where(rest == 0, source, -1)))
    return union(taps).with_stride(span.stride / stride)


def adaptive_pool(span: Span, bins: int) -> Span:
    """Compute the receptive fields after adaptive pooling with `bins` bins."""
    edges = [(i * len(span) // bins, -(-(i + 1) * len(span) // bins)) for i in range(bins)]
    first = np.array([span.first[a:b].min() for a, b in edges])
    last = np.array([span.last[a:b].max() for a, b in edges])
    return replace(span, first=first, last=last, stride=span.stride * len(span) / bins, is_global=True)


def bilinear_resize(span: Span, out: int, align_corners: bool) -> Span:
    """Compute the receptive fields after bilinear resizing to `out` pixels.

    Each pixel depends on two neighbors, or on one where its position is exactly that of a pixel.
    """
    size, pixels = len(span), np.arange(out)
    if align_corners:
        position, unit = pixels * (size - 1), max(out - 1, 1)
    else:
        position, unit = np.clip((2 * pixels + 1) * size - out, 0, (size - 1) * 2 * out), 2 * out
    left, rest = np.divmod(position, unit)
    stride = max(1, round(span.stride * size / out))
    return union([span.select(left), span.select(np.where(rest > 0, left + 1, left))]).with_stride(stride)
