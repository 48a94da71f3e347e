"""Labels from coarse scores: the resize and the arg-max in one step, so that no class is ever resized as a whole.

Between four neighboring scores a bilinear surface stays between their smallest and their largest. A class whose
largest is below the smallest of some other wins nowhere in that cell, and inside objects that leaves one class: the
cell is filled with it. What remains is interpolated for the few classes that can win.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.imaging.labels import label_dtype

ROWS_PER_TASK = 32
"""How finely rows are dealt out to the threads."""

BAND_BYTES = 64 * 2**20
"""How much of a resized map exists at a time where it is made at all."""


@dataclass(frozen=True)
class Taps:
    """For each sample of a resized axis, the two samples it lies between and the weight of the second.

    The numbers are those of `F.interpolate`, rounded to float32 where it rounds, so that both agree to the last bits.

    Shape: each (n,).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def between(cls, source: int, target: int, *, align_corners: bool) -> Taps:
        """Taps of `source` samples resized to `target`."""
        index = np.arange(target, dtype=np.float32)
        if align_corners:
            position = index * np.float32((source - 1) / (target - 1) if target > 1 else 0)
        else:
            position = np.maximum((index + np.float32(0.5)) * np.float32(source / target) - np.float32(0.5), 0)
        first = np.minimum(position.astype(np.int64), source - 1)
        weight = np.clip(position - first.astype(np.float32), 0, 1).astype(np.float32)
        return cls(first, np.minimum(first + 1, source - 1), weight)

    def __getitem__(self, part: slice) -> Taps:
        return Taps(self.first[part], self.second[part], self.weight[part])

    def __len__(self) -> int:
        return len(self.first)


def upsampled_argmax(
    scores: Tensor,
    size: tuple[int, int],
    *,
    align_corners: bool,
    crop: tuple[int, int] | None = None,
    out: NDArray[np.integer] | None = None,
) -> NDArray[np.integer]:
    """`resize(scores, size)`, its upper left `crop`, and the arg-max over classes, without the resized scores.

    The label is the same at every pixel whose two best classes differ by more than the rounding of float32; the
    smaller label wins a tie. Scores must be finite.

    Shape: `scores` (K, h, w), `size` (H, W), `crop` (H', W') -> (H', W') uint8, or uint16 above 256 classes; `out`, an
    array of that shape, for example memory-mapped, is filled and returned.
    """
    rows, columns = resize_taps(scores, size, align_corners=align_corners, crop=crop)
    if out is None:
        out = np.empty((len(rows), len(columns)), label_dtype(scores.shape[0], 0))
    argmax_between(scores, rows, columns, out)
    return out


def argmax_between(scores: Tensor, rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """`upsampled_argmax` for any rows and columns of the resized map.

    Shape: (K, h, w), taps of H rows and W columns; `out` (H, W) is filled.
    """
    if scores.device.type == "cpu":
        _on_cpu(scores, rows, columns, out)
    else:
        _in_bands(scores, rows, columns, out)


def resize_taps(
    scores: Tensor, size: tuple[int, int], *, align_corners: bool, crop: tuple[int, int] | None = None
) -> tuple[Taps, Taps]:
    """The taps of rows and of columns by which (K, h, w) becomes the upper left `crop` of (K, *size)."""
    height, width = crop or size
    rows = Taps.between(scores.shape[-2], size[0], align_corners=align_corners)[:height]
    return rows, Taps.between(scores.shape[-1], size[1], align_corners=align_corners)[:width]


def resized_rows(scores: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Some rows of the resized map.

    Shape: (K, h, w), taps of n rows and W columns -> (K, n, W).
    """
    return _blend(_blend(scores, rows, -2), columns, -1)


def _blend(x: Tensor, taps: Taps, axis: int) -> Tensor:
    weight = torch.from_numpy(taps.weight).to(x)
    if axis == -2:
        weight = weight[:, None]
    first, second = (x.index_select(axis, torch.from_numpy(index).to(x.device)) for index in (taps.first, taps.second))
    return first.mul_(1 - weight).add_(second.mul_(weight))


def bands(rows: int, bytes_per_row: int) -> list[slice]:
    """Consecutive slices over `rows` whose maps take `BAND_BYTES` or, where one row takes more, one row."""
    step = max(1, BAND_BYTES // max(1, bytes_per_row))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _in_bands(scores: Tensor, rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """On other devices a band of rows at a time is resized and reduced there."""
    for band in bands(len(rows), 3 * scores.shape[0] * len(columns) * scores.element_size()):
        out[band] = resized_rows(scores, rows[band], columns).argmax(0).numpy(force=True)


_one_at_a_time = threading.Lock()  # numba's simplest pool of threads, on some systems its only one, serves one caller


def _on_cpu(scores: Tensor, rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    last = scores.detach().float().permute(1, 2, 0).contiguous().numpy()
    threads = torch.get_num_threads()
    with _one_at_a_time:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        _fill(last, rows.first, rows.second, rows.weight, columns.second, columns.weight, *_runs(rows, columns), out)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)  # numba's pool, where it is OpenMP's, is the one that torch counts


def _runs(rows: Taps, columns: Taps) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where rows change cells (or tasks grow large), where columns do, and in which cell each run of columns lies."""
    row_starts = np.flatnonzero(np.diff(rows.first, prepend=-1, append=-1))
    pieces = [np.arange(a, b, ROWS_PER_TASK) for a, b in pairwise(row_starts)]
    column_starts = np.flatnonzero(np.diff(columns.first, prepend=-1, append=-1))
    return np.append(np.concatenate(pieces), len(rows)), column_starts, columns.first[column_starts[:-1]]


@numba.njit(cache=True, nogil=True, parallel=True)
def _fill(scores, row_first, row_second, row_weight, column_second, column_weight, tops, lefts, cells, out):  # type: ignore[no-untyped-def]
    """Fill `out` (H, W); `scores` is (h, w, K). A cell is the area between four neighboring scores."""
    classes = scores.shape[2]
    for task in numba.prange(len(tops) - 1):
        top, bottom = tops[task], tops[task + 1]
        upper, lower = scores[row_first[top]], scores[row_second[top]]
        able = np.empty(classes, np.int64)  # the classes that can win in the cell
        rivals = np.empty(classes, np.int64)  # those that can win in one of its rows
        left_end = np.empty(classes, np.float32)
        right_end = np.empty(classes, np.float32)
        for run in range(len(cells)):
            left, right = lefts[run], lefts[run + 1]
            x0, x1 = cells[run], column_second[left]
            bar = np.float32(-np.inf)
            for k in range(classes):
                bar = max(bar, min(min(upper[x0, k], upper[x1, k]), min(lower[x0, k], lower[x1, k])))
            count = 0
            for k in range(classes):
                able[count] = k
                count += max(max(upper[x0, k], upper[x1, k]), max(lower[x0, k], lower[x1, k])) >= bar
            if count == 1:
                for y in range(top, bottom):
                    for x in range(left, right):
                        out[y, x] = able[0]
                continue
            for y in range(top, bottom):
                below = row_weight[y]
                above = np.float32(1) - below
                bar = np.float32(-np.inf)
                for n in range(count):
                    k = able[n]
                    left_end[n] = above * upper[x0, k] + below * lower[x0, k]
                    right_end[n] = above * upper[x1, k] + below * lower[x1, k]
                    bar = max(bar, min(left_end[n], right_end[n]))
                racing = 0
                for n in range(count):
                    rivals[racing] = n
                    racing += max(left_end[n], right_end[n]) >= bar
                if racing == 1:
                    for x in range(left, right):
                        out[y, x] = able[rivals[0]]
                    continue
                for x in range(left, right):
                    towards = column_weight[x]
                    back = np.float32(1) - towards
                    winner = rivals[0]
                    best = back * left_end[winner] + towards * right_end[winner]
                    for n in range(1, racing):
                        value = back * left_end[rivals[n]] + towards * right_end[rivals[n]]
                        if value > best:
                            best = value
                            winner = rivals[n]
                    out[y, x] = able[winner]
