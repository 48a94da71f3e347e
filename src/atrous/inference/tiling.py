"""Images of any size, window by window, in memory that the image's height does not enter.

The network's scores of the windows are blended on the grid on which the network makes them, a small part of the
image's resolution; whole rows of that grid become labels as soon as no further window touches them. Nothing of
K x H x W is ever made: beside the image and its labels there are the scores of one row of windows, and the activations
of one window.

Windows start at multiples of 32 pixels and have 32 k (+ 1 with aligned corners) of them, so that strides fall on the
same pixels in all of them: where the network does not see the border of a window, its scores are those of the whole
image. What looks at all of its input, such as image pooling, sees the window and not the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.card import Preprocessing
from atrous.errors import AtrousError
from atrous.imaging.io import Pixels
from atrous.imaging.labels import label_dtype
from atrous.inference.preprocess import normalized
from atrous.inference.upsampled_argmax import Taps, argmax_between, bands, resized_rows
from atrous.layers.resize import resize

GRID = 32
"""The coarsest stride of any network here; windows are placed by it."""

Progress = Callable[[int, int], None]
"""Called with how many windows are done, and of how many."""


@dataclass(frozen=True)
class Axis:
    """Windows along one side of an image.

    `length` is the side, `padded` what it is padded to so that the last window ends there, `tile` the windows' size and
    `starts` where they begin.
    """

    length: int
    tile: int
    starts: tuple[int, ...]
    align_corners: bool

    @classmethod
    def cover(cls, length: int, tile: int, overlap: float, *, align_corners: bool) -> Axis:
        """Windows of at least `tile` pixels over `length`, sharing at least `overlap` of their size with the next.

        Raises: `AtrousError` for a window that is empty, or an overlap that is not in [0, 1).
        """
        if tile < 1 or not 0 <= overlap < 1:
            raise AtrousError(f"tile {tile} and overlap {overlap}: at least 1, and from 0 to below 1, are expected.")
        cells = max(1, math.ceil((tile - align_corners) / GRID))
        needed = math.ceil((length - align_corners) / GRID)
        step = max(1, math.floor(cells * (1 - overlap)))
        last = max(0, needed - cells)
        starts = [*range(0, last, step), last]
        return cls(length, cells * GRID + align_corners, tuple(GRID * start for start in starts), align_corners)

    @property
    def padded(self) -> int:
        """Where the last window ends."""
        return self.starts[-1] + self.tile

    def stride(self, samples: int) -> int | None:
        """How many pixels lie between the `samples` scores of a window, where that is a whole number."""
        if samples < 1 + self.align_corners:
            return None
        stride, rest = divmod(self.tile - self.align_corners, samples - self.align_corners)
        return None if rest or GRID % stride else stride

    def weights(self, stride: int) -> list[NDArray[np.float32]]:
        """Each window's share of the scores it covers: sloping where windows overlap, one in all at every place."""
        offset = int(self.align_corners)
        count = (self.tile - offset) // stride + offset
        total = np.zeros((self.padded - offset) // stride + offset)
        slopes = []
        for index, start in enumerate(self.starts):
            slope = np.ones(count)
            if index > 0:
                slope = np.minimum(slope, _ramp(count, (self.starts[index - 1] + self.tile - start) // stride))
            if index + 1 < len(self.starts):
                slope = np.minimum(slope, _ramp(count, (start + self.tile - self.starts[index + 1]) // stride)[::-1])
            total[start // stride : start // stride + count] += slope
            slopes.append(slope)
        return [
            (slope / total[start // stride : start // stride + count]).astype(np.float32)
            for slope, start in zip(slopes, self.starts, strict=True)
        ]


def _ramp(count: int, overlap: int) -> NDArray[np.float64]:
    """From nearly 0 to 1 over the first `overlap` places."""
    return np.minimum(1, (np.arange(count) + 0.5) / max(overlap, 0.5))


@dataclass
class TiledPrediction:
    """What a network says of an image, window by window; the network runs when labels or probabilities are asked for.

    `network` gives a window's scores, (N, 3, t, t) -> (N, K, u, v). `progress` is told of each window.
    """

    network: Callable[[Tensor], Tensor]
    pixels: Pixels
    how: Preprocessing
    align_corners: bool
    device: torch.device
    tile: int
    overlap: float = 0.25
    batch: int = 1
    progress: Progress | None = None
    rows: Axis = field(init=False)
    columns: Axis = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.pixels.shape[:2]
        self.rows = Axis.cover(height, self.tile, self.overlap, align_corners=self.align_corners)
        self.columns = Axis.cover(width, self.tile, self.overlap, align_corners=self.align_corners)

    def labels(self, out: NDArray[np.integer] | None = None) -> NDArray[np.integer]:
        """The best class of every pixel.

        Shape: -> (H, W) uint8, or uint16 above 256 classes; `out`, for example memory-mapped, is filled and returned.
        """
        for band, scores, rows, columns in self._strips():
            if out is None:
                out = np.empty(self.pixels.shape[:2], label_dtype(scores.shape[0], 0))
            argmax_between(scores, rows, columns, out[band])
        assert out is not None
        return out

    def probabilities(self) -> Tensor:
        """The soft-max over classes at every pixel: K x H x W floats, on the host.

        Shape: -> (K, H, W) float32.
        """
        return self._everywhere(lambda rows: rows.float().softmax(0))

    def logits(self) -> Tensor:
        """The blended scores, resized.

        Shape: -> (K, H, W) float32, on the host.
        """
        return self._everywhere(lambda rows: rows.float())

    def _everywhere(self, finish: Callable[[Tensor], Tensor]) -> Tensor:
        height, width = self.pixels.shape[:2]
        found: Tensor | None = None
        for band, scores, rows, columns in self._strips():
            if found is None:
                found = torch.empty(scores.shape[0], height, width)
            part = found[:, band]
            for some in bands(len(rows), 4 * scores.shape[0] * width * 4):
                part[:, some] = finish(resized_rows(scores, rows[some], columns)).cpu()
        assert found is not None
        return found

    def _strips(self) -> Iterator[tuple[slice, Tensor, Taps, Taps]]:
        """Rows of the image, and the scores and taps they are resized by, from the top, as they are finished."""
        rows = columns = None
        kept: Tensor | None = None
        done = top = 0
        for strip, total in self._finished_rows():
            if rows is None or columns is None:
                rows = Taps.between(total, self.rows.padded, align_corners=self.align_corners)[: self.rows.length]
                columns = Taps.between(strip.shape[-1], self.columns.padded, align_corners=self.align_corners)
                columns = columns[: self.columns.length]
            if kept is not None:
                strip = torch.cat([kept, strip], 1)
            ready = int(np.searchsorted(rows.second, top + strip.shape[1]))
            band = slice(done, ready)
            here = rows[band]
            yield band, strip, Taps(here.first - top, here.second - top, here.weight), columns
            top, done, kept = top + strip.shape[1] - 1, ready, strip[:, -1:]
            if done == self.rows.length:
                return

    def _finished_rows(self) -> Iterator[tuple[Tensor, int]]:
        """Blended scores of the whole width that no further window touches, and how many rows there will be."""
        offset = int(self.align_corners)
        sums: Tensor | None = None
        for index, start in enumerate(self.rows.starts):
            for left, scores in self._windows(start):
                if sums is None:
                    stride = self._stride(scores)
                    tall, wide = (weights.weights(stride) for weights in (self.rows, self.columns))
                    total, width = ((side.padded - offset) // stride + offset for side in (self.rows, self.columns))
                    sums = scores.new_zeros(scores.shape[0], len(tall[0]), width)
                if stride == 1 and scores.shape[-1] != self.columns.tile:
                    scores = resize(scores[None], (self.rows.tile, self.columns.tile), align_corners=bool(offset))[0]
                share = torch.from_numpy(tall[index][:, None] * wide[self.columns.starts.index(left)]).to(scores)
                sums[:, :, left // stride : left // stride + scores.shape[-1]] += scores * share
            assert sums is not None
            if index + 1 == len(self.rows.starts):
                yield sums, total
                return
            moved = (self.rows.starts[index + 1] - start) // stride
            yield sums[:, :moved].clone(), total
            following = torch.zeros_like(sums)
            following[:, : sums.shape[1] - moved] = sums[:, moved:]
            sums = following

    def _stride(self, scores: Tensor) -> int:
        """Of the grid that scores are blended on: the network's, or single pixels where it has no regular one."""
        down, across = self.rows.stride(scores.shape[-2]), self.columns.stride(scores.shape[-1])
        return down if down is not None and down == across else 1

    def _windows(self, top: int) -> Iterator[tuple[int, Tensor]]:
        """The left edges and scores of one row of windows."""
        lefts = self.columns.starts
        size = self.rows.tile, self.columns.tile
        before = self.rows.starts.index(top) * len(lefts)
        for first in range(0, len(lefts), self.batch):
            part = lefts[first : first + self.batch]
            windows = [
                normalized(self.pixels[top : top + size[0], left : left + size[1]], self.how, size) for left in part
            ]
            scores = self.network(torch.stack(windows).to(self.device))
            if self.progress is not None:
                self.progress(before + first + len(part), len(self.rows.starts) * len(lefts))
            yield from zip(part, scores.float(), strict=True)
