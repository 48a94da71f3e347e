"""Which pixels of an image a map sees, row by row and column by column, and how layers move these spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

NOTHING = np.iinfo(np.int64).max
"""As a first pixel: sees nothing but padding. The last pixel is then -1, so that unions need no special case."""


@dataclass(frozen=True)
class Span:
    """Along one axis, the first and last image pixel that each pixel of a map sees.

    `stride` is the map's nominal one. `whole`: the map has been averaged (or the like) over bins that grow with the
    image, so there is no receptive field short of the image.
    """

    first: np.ndarray
    last: np.ndarray
    image: int
    stride: float = 1.0
    whole: bool = False

    def __len__(self) -> int:
        return len(self.first)

    def at(self, index: np.ndarray) -> Span:
        """The spans of these pixels of the map; those outside it are padding and see nothing."""
        inside = (index >= 0) & (index < len(self))
        safe = np.clip(index, 0, len(self) - 1)
        first = np.where(inside, self.first[safe], NOTHING)
        return replace(self, first=first, last=np.where(inside, self.last[safe], -1))

    def strided(self, stride: float) -> Span:
        return replace(self, stride=stride)

    def size(self) -> int | None:
        """The receptive field: the widest span that lies within the image; none where there is no such span."""
        inside = (self.first > 0) & (self.last < self.image - 1) & (self.last >= 0)
        return int((self.last - self.first + 1)[inside].max()) if inside.any() and not self.whole else None


Field = tuple[Span, Span]


def field_of_image(height: int, width: int) -> Field:
    """Each pixel sees itself."""
    rows, columns = (Span(np.arange(side), np.arange(side), image=side) for side in (height, width))
    return rows, columns


def blank(like: Span, length: int) -> Span:
    """Spans of a map of this length that sees nothing yet."""
    return replace(like, first=np.full(length, NOTHING), last=np.full(length, -1), stride=like.stride / length)


def union(spans: Sequence[Span]) -> Span:
    """The hull of several maps' spans, a single pixel standing for all."""
    length = max(map(len, spans))
    spans = [s if len(s) == length else s.at(np.zeros(length, int)).strided(s.stride / length) for s in spans]
    first, last = spans[0].first, spans[0].last
    for span in spans[1:]:
        first, last = np.minimum(first, span.first), np.maximum(last, span.last)
    stride = min(span.stride for span in spans)
    return replace(spans[0], first=first, last=last, stride=stride, whole=any(span.whole for span in spans))


def windows(span: Span, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Of a convolution or pooling."""
    starts = np.arange(out) * stride - padding
    return union([span.at(starts + tap * dilation) for tap in range(kernel)]).strided(span.stride * stride)


def scattered(span: Span, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Of a transposed convolution: a pixel sees those that write to it."""
    pixels = np.arange(out) + padding
    seen = []
    for tap in range(kernel):
        source, rest = np.divmod(pixels - tap * dilation, stride)
        seen.append(span.at(np.where(rest == 0, source, -1)))
    return union(seen).strided(span.stride / stride)


def binned(span: Span, bins: int) -> Span:
    """Of adaptive pooling."""
    edges = [(i * len(span) // bins, -(-(i + 1) * len(span) // bins)) for i in range(bins)]
    first = np.array([span.first[a:b].min() for a, b in edges])
    last = np.array([span.last[a:b].max() for a, b in edges])
    return replace(span, first=first, last=last, stride=span.stride * len(span) / bins, whole=True)


def interpolated(span: Span, out: int, align_corners: bool) -> Span:
    """Of bilinear resizing: two neighbors, or the one that is hit exactly."""
    size, pixels = len(span), np.arange(out)
    if align_corners:
        place, unit = pixels * (size - 1), max(out - 1, 1)
    else:
        place, unit = np.clip((2 * pixels + 1) * size - out, 0, (size - 1) * 2 * out), 2 * out
    left, rest = np.divmod(place, unit)
    stride = max(1, round(span.stride * size / out))
    return union([span.at(left), span.at(np.where(rest > 0, left + 1, left))]).strided(stride)
