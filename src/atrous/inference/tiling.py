"""Segment images of any size window by window, in memory that does not grow with the image's height.

The scores of the windows are blended on the coarse grid of the network, at a small part of the image's resolution. Rows
of that grid become labels as soon as no further window covers them. No map of K x H x W is made for labels: besides the
image and its labels, memory holds the scores of one row of windows and the activations of one batch of windows.

Windows start at multiples of 32 pixels and have 32 k pixels (32 k + 1 with aligned corners), so that strides fall on
the same pixels in all of them: wherever the receptive field does not reach the border of a window, the scores are those
of the whole image. Global operations, such as image pooling, cover the window and not the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.card import Preprocessing
from atrous.errors import AtrousError
from atrous.imaging.io import Pixels
from atrous.imaging.labels import label_dtype
from atrous.inference.memory import is_out_of_memory
from atrous.inference.preprocess import normalize
from atrous.inference.taps import Taps
from atrous.inference.upsampled_argmax import interpolate_rows, interpolated_argmax, row_chunks
from atrous.inference.views import ScoreFunction
from atrous.layers.resize import resize
from atrous.progress import OnProgress

GRID = 32
"""The coarsest stride of any network in the package; windows start at its multiples."""


@dataclass(frozen=True)
class TiledAxis:
    """The windows along one side of an image.

    `length` is the side in pixels, `tile` the size of the windows, and `starts` are their first pixels.
    """

    length: int
    tile: int
    starts: tuple[int, ...]
    align_corners: bool

    @classmethod
    def cover(cls, length: int, tile: int, overlap: float, *, align_corners: bool) -> TiledAxis:
        """Place windows of at least `tile` pixels over `length`, overlapping by at least the fraction `overlap`.

        Raises: `AtrousError` for a window that is empty, or an overlap that is not in [0, 1).
        """
        if tile < 1 or not 0 <= overlap < 1:
            raise AtrousError(f"tile {tile} and overlap {overlap}: tile >= 1 and 0 <= overlap < 1 are expected.")
        cells = max(1, math.ceil((tile - align_corners) / GRID))
        needed = math.ceil((length - align_corners) / GRID)
        step = max(1, math.floor(cells * (1 - overlap)))
        last = max(0, needed - cells)
        starts = [*range(0, last, step), last]
        return cls(length, cells * GRID + align_corners, tuple(GRID * start for start in starts), align_corners)

    @property
    def padded_length(self) -> int:
        """The length that the side is padded to, where the last window ends."""
        return self.starts[-1] + self.tile

    def score_stride(self, num_scores: int) -> int | None:
        """Compute the stride of a window's scores in pixels; None if it is not a whole number that divides `GRID`."""
        if num_scores < 1 + self.align_corners:
            return None
        stride, rest = divmod(self.tile - self.align_corners, num_scores - self.align_corners)
        return None if rest or GRID % stride else stride

    def taps(self, num_scores: int, length: int) -> Taps:
        """Compute the taps from the scores of the padded side to `length` samples of the side itself."""
        if length == self.length:
            return Taps.linear(num_scores, self.padded_length, align_corners=self.align_corners)[:length]
        index = np.arange(length, dtype=np.float32)
        offset = int(self.align_corners)
        step = (self.length - offset) / max(1, length - offset) * (num_scores - offset) / (self.padded_length - offset)
        half = 0 if offset else 0.5
        return Taps.at(np.maximum((index + np.float32(half)) * np.float32(step) - np.float32(half), 0), num_scores)

    def blend_weights(self, stride: int) -> list[NDArray[np.float32]]:
        """Compute each window's weights on the grid of scores: ramps where windows overlap, with a sum of 1.

        Shape: -> each (scores of a window,).
        """
        offset = int(self.align_corners)
        count = (self.tile - offset) // stride + offset
        total = np.zeros((self.padded_length - offset) // stride + offset)
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


class PixelSource(Protocol):
    """An image whose windows are read when they are needed."""

    shape: tuple[int, int, int]

    def __getitem__(self, window: tuple[slice, slice]) -> Pixels:
        """Read rows and columns, without those beyond the image.

        Shape: -> (h, w, 3) uint8.
        """


def _ramp(count: int, overlap: int) -> NDArray[np.float64]:
    """Rise linearly from nearly 0 to 1 over the first `overlap` samples."""
    return np.minimum(1, (np.arange(count) + 0.5) / max(overlap, 0.5))


@dataclass
class TiledPrediction:
    """The class scores of an image, window by window; the network runs when labels or probabilities are requested.

    `network` computes the scores of windows, (N, 3, t, t) -> (N, K, u, v), in batches of `batch`. `on_progress` is
    called after each batch with the number of finished windows and their total. `image_size` is the height and width of
    the result, where `image` was resized for the network.
    """

    network: ScoreFunction
    image: Pixels | PixelSource
    preprocessing: Preprocessing
    align_corners: bool
    device: torch.device
    tile: int
    overlap: float = 0.25
    batch: int = 1
    on_progress: OnProgress | None = None
    image_size: tuple[int, int] | None = None
    rows: TiledAxis = field(init=False)
    columns: TiledAxis = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.image.shape[:2]
        self.rows = TiledAxis.cover(height, self.tile, self.overlap, align_corners=self.align_corners)
        self.columns = TiledAxis.cover(width, self.tile, self.overlap, align_corners=self.align_corners)

    @property
    def _size(self) -> tuple[int, int]:
        return self.image_size or (self.image.shape[0], self.image.shape[1])

    def labels(self, out: NDArray[np.integer] | None = None) -> NDArray[np.integer]:
        """Compute the label of every pixel.

        Shape: -> (H, W) uint8, or uint16 above 256 classes; `out`, for example memory-mapped, is filled and returned.
        """
        for strip, scores, rows, columns in self._strips():
            if out is None:
                out = np.empty(self._size, label_dtype(scores.shape[0], 0))
            interpolated_argmax(scores, rows, columns, out[strip])
        assert out is not None
        return out

    def label_strips(self) -> Iterator[tuple[int, NDArray[np.integer]]]:
        """Compute the labels strip by strip from top to bottom, each with its first row.

        Shape: -> each (h, W), as `labels`.
        """
        for strip, scores, rows, columns in self._strips():
            labels = np.empty((len(rows), self._size[1]), label_dtype(scores.shape[0], 0))
            interpolated_argmax(scores, rows, columns, labels)
            yield strip.start, labels

    def probabilities(self) -> Tensor:
        """Compute the softmax over classes at every pixel, in main memory.

        Shape: -> (K, H, W) float32.
        """
        return self._interpolate(lambda rows: rows.float().softmax(0))

    def logits(self) -> Tensor:
        """Compute the blended scores at every pixel, in main memory.

        Shape: -> (K, H, W) float32.
        """
        return self._interpolate(lambda rows: rows.float())

    def _interpolate(self, activation: Callable[[Tensor], Tensor]) -> Tensor:
        height, width = self._size
        result: Tensor | None = None
        for strip, scores, rows, columns in self._strips():
            if result is None:
                result = torch.empty(scores.shape[0], height, width)
            part = result[:, strip]
            for chunk in row_chunks(scores, len(rows), 4 * scores.shape[0] * width * 4):
                part[:, chunk] = activation(interpolate_rows(scores, rows[chunk], columns)).cpu()
        assert result is not None
        return result

    def _strips(self) -> Iterator[tuple[slice, Tensor, Taps, Taps]]:
        """Strips of image rows from top to bottom, each with the scores and taps that it is interpolated from."""
        rows = columns = None
        last_row: Tensor | None = None
        done = top = 0
        for strip, total in self._blended_rows():
            if rows is None or columns is None:
                rows = self.rows.taps(total, self._size[0])
                columns = self.columns.taps(strip.shape[-1], self._size[1])
            if last_row is not None:
                strip = torch.cat([last_row, strip], 1)
            ready = int(np.searchsorted(rows.second, top + strip.shape[1]))
            if ready > done:
                taps = rows[done:ready]
                yield slice(done, ready), strip, Taps(taps.first - top, taps.second - top, taps.weight), columns
            top, done, last_row = top + strip.shape[1] - 1, ready, strip[:, -1:]
            if done == len(rows):
                return

    def _blended_rows(self) -> Iterator[tuple[Tensor, int]]:
        """Blended rows of scores that no further window covers, and the total number of rows."""
        offset = int(self.align_corners)
        blended: Tensor | None = None
        for index, start in enumerate(self.rows.starts):
            for left, scores in self._window_scores(start):
                if blended is None:
                    stride = self._score_stride(scores)
                    row_weights, column_weights = (axis.blend_weights(stride) for axis in (self.rows, self.columns))
                    total, width = (
                        (axis.padded_length - offset) // stride + offset for axis in (self.rows, self.columns)
                    )
                    blended = scores.new_zeros(scores.shape[0], len(row_weights[0]), width)
                if stride == 1 and scores.shape[-1] != self.columns.tile:
                    scores = resize(scores[None], (self.rows.tile, self.columns.tile), align_corners=bool(offset))[0]
                weights = row_weights[index][:, None] * column_weights[self.columns.starts.index(left)]
                scores = scores * torch.from_numpy(weights).to(scores)
                blended[:, :, left // stride : left // stride + scores.shape[-1]] += scores
            assert blended is not None
            if index + 1 == len(self.rows.starts):
                yield blended, total
                return
            finished = (self.rows.starts[index + 1] - start) // stride
            yield blended[:, :finished].clone(), total
            following = torch.zeros_like(blended)
            following[:, : blended.shape[1] - finished] = blended[:, finished:]
            blended = following

    def _score_stride(self, scores: Tensor) -> int:
        """The stride of the grid for blending: the network's, or 1 if its scores lie on no regular grid."""
        down, across = self.rows.score_stride(scores.shape[-2]), self.columns.score_stride(scores.shape[-1])
        return down if down is not None and down == across else 1

    def _window_scores(self, top: int) -> Iterator[tuple[int, Tensor]]:
        """The left edge and the scores of each window in one row of windows."""
        lefts = self.columns.starts
        size = self.rows.tile, self.columns.tile
        before = self.rows.starts.index(top) * len(lefts)
        for first in range(0, len(lefts), self.batch):
            batch = lefts[first : first + self.batch]
            windows = [
                normalize(self.image[top : top + size[0], left : left + size[1]], self.preprocessing, size)
                for left in batch
            ]
            try:
                scores = self.network(torch.from_numpy(np.stack(windows)).to(self.device))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise AtrousError(
                    f"Memory ran out for a window of {size[1]} x {size[0]} pixels: choose a smaller tile, such as 513."
                ) from error
            if self.on_progress is not None:
                self.on_progress(before + first + len(batch), len(self.rows.starts) * len(lefts))
            yield from zip(batch, scores.float(), strict=True)
