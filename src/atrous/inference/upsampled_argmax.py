"""Bilinear upsampling and arg-max in one step: labels from coarse scores, without the upsampled scores.

Between four neighboring scores a bilinear surface stays between their minimum and their maximum. A class whose maximum
is below the minimum of another class wins nowhere in that cell; inside objects one class is left, and the cell is
filled with it. Elsewhere the few classes that can win are interpolated.
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
"""The largest number of rows that a thread works on at a time."""

CHUNK_BYTES = 64 * 2**20
"""The size of the chunks of rows in which resized maps are made."""


@dataclass(frozen=True)
class Taps:
    """Linear interpolation along one axis: for each output sample two input samples, and the weight of the second.

    The weights are those of `F.interpolate`, rounded to float32 where it rounds, so that both agree to the last bits.

    Shape: each (n,).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def linear(cls, source: int, target: int, *, align_corners: bool) -> Taps:
        """Compute the taps that resize `source` samples to `target` samples."""
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
    """Resize scores bilinearly to `size`, crop the upper left, and take the arg-max over classes, in one step.

    The labels equal those of resizing and arg-max wherever the two best classes differ by more than the rounding of
    float32; the smaller label wins a tie. Scores must be finite.

    Shape: `scores` (K, h, w), `size` (H, W), `crop` (H', W') -> (H', W') uint8, or uint16 above 256 classes; `out`, an
    array of that shape, for example memory-mapped, is filled and returned.
    """
    rows, columns = resize_taps(scores, size, align_corners=align_corners, crop=crop)
    if out is None:
        out = np.empty((len(rows), len(columns)), label_dtype(scores.shape[0], 0))
    interpolated_argmax(scores, rows, columns, out)
    return out


def interpolated_argmax(scores: Tensor, rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """Fill `out` with the arg-max over classes for some rows and columns of the resized map.

    Shape: (K, h, w), taps of H rows and W columns; `out` (H, W) is filled.
    """
    if scores.device.type == "cpu":
        _argmax_on_cpu(scores, rows, columns, out)
    else:
        _argmax_in_chunks(scores, rows, columns, out)


def resize_taps(
    scores: Tensor, size: tuple[int, int], *, align_corners: bool, crop: tuple[int, int] | None = None
) -> tuple[Taps, Taps]:
    """Compute the taps of rows and columns that resize scores (K, h, w) to the upper left `crop` of (K, *size)."""
    height, width = crop or size
    rows = Taps.linear(scores.shape[-2], size[0], align_corners=align_corners)[:height]
    return rows, Taps.linear(scores.shape[-1], size[1], align_corners=align_corners)[:width]


def interpolate_rows(scores: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Interpolate some rows of the resized map.

    Shape: (K, h, w), taps of n rows and W columns -> (K, n, W).
    """
    return _interpolate(_interpolate(scores, rows, -2), columns, -1)


def _interpolate(x: Tensor, taps: Taps, axis: int) -> Tensor:
    weight = torch.from_numpy(taps.weight).to(x)
    if axis == -2:
        weight = weight[:, None]
    first, second = (x.index_select(axis, torch.from_numpy(index).to(x.device)) for index in (taps.first, taps.second))
    return first.mul_(1 - weight).add_(second.mul_(weight))


def row_chunks(num_rows: int, bytes_per_row: int) -> list[slice]:
    """Split rows into consecutive slices of at most `CHUNK_BYTES`, and of at least one row."""
    step = max(1, CHUNK_BYTES // max(1, bytes_per_row))
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def _argmax_in_chunks(scores: Tensor, rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """Resize and reduce a chunk of rows at a time on the scores' device."""
    for chunk in row_chunks(len(rows), 3 * scores.shape[0] * len(columns) * scores.element_size()):
        out[chunk] = interpolate_rows(scores, rows[chunk], columns).argmax(0).numpy(force=True)


_numba_lock = threading.Lock()  # numba's simplest thread pool, on some systems the only one, is not thread-safe


def _argmax_on_cpu(scores: Tensor, rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    channels_last = scores.detach().float().permute(1, 2, 0).contiguous().numpy()
    threads = torch.get_num_threads()
    with _numba_lock:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        _argmax_kernel(
            channels_last, rows.first, rows.second, rows.weight, columns.second, columns.weight,
            *_cell_bounds(rows, columns), out,
        )  # fmt: skip
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)  # numba's OpenMP pool changes the number that torch reports


def _cell_bounds(rows: Taps, columns: Taps) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The rows where cells (or tasks) begin, the columns where cells begin, and the index of each column's cell."""
    row_starts = np.flatnonzero(np.diff(rows.first, prepend=-1, append=-1))
    pieces = [np.arange(a, b, ROWS_PER_TASK) for a, b in pairwise(row_starts)]
    column_starts = np.flatnonzero(np.diff(columns.first, prepend=-1, append=-1))
    return np.append(np.concatenate(pieces), len(rows)), column_starts, columns.first[column_starts[:-1]]


@numba.njit(cache=True, nogil=True, parallel=True)
def _argmax_kernel(scores, row_first, row_second, row_weight, column_second, column_weight, tops, lefts, cells, out):  # type: ignore[no-untyped-def]
    """Fill `out` (H, W) from `scores` (h, w, K). A cell is the area between four neighboring scores."""
    classes = scores.shape[2]
    for task in numba.prange(len(tops) - 1):
        top, bottom = tops[task], tops[task + 1]
        upper, lower = scores[row_first[top]], scores[row_second[top]]
        candidates = np.empty(classes, np.int64)  # classes that can win in the cell
        row_candidates = np.empty(classes, np.int64)  # indices of candidates that can win in a row
        left_score = np.empty(classes, np.float32)
        right_score = np.empty(classes, np.float32)
        for cell in range(len(cells)):
            left, right = lefts[cell], lefts[cell + 1]
            x0, x1 = cells[cell], column_second[left]
            threshold = np.float32(-np.inf)
            for k in range(classes):
                threshold = max(threshold, min(min(upper[x0, k], upper[x1, k]), min(lower[x0, k], lower[x1, k])))
            count = 0
            for k in range(classes):
                candidates[count] = k
                count += max(max(upper[x0, k], upper[x1, k]), max(lower[x0, k], lower[x1, k])) >= threshold
            if count == 1:
                for y in range(top, bottom):
                    for x in range(left, right):
                        out[y, x] = candidates[0]
                continue
            for y in range(top, bottom):
                lower_weight = row_weight[y]
                upper_weight = np.float32(1) - lower_weight
                threshold = np.float32(-np.inf)
                for n in range(count):
                    k = candidates[n]
                    left_score[n] = upper_weight * upper[x0, k] + lower_weight * lower[x0, k]
                    right_score[n] = upper_weight * upper[x1, k] + lower_weight * lower[x1, k]
                    threshold = max(threshold, min(left_score[n], right_score[n]))
                row_count = 0
                for n in range(count):
                    row_candidates[row_count] = n
                    row_count += max(left_score[n], right_score[n]) >= threshold
                if row_count == 1:
                    for x in range(left, right):
                        out[y, x] = candidates[row_candidates[0]]
                    continue
                for x in range(left, right):
                    right_weight = column_weight[x]
                    left_weight = np.float32(1) - right_weight
                    winner = row_candidates[0]
                    best = left_weight * left_score[winner] + right_weight * right_score[winner]
                    for n in range(1, row_count):
                        rival = row_candidates[n]
                        value = left_weight * left_score[rival] + right_weight * right_score[rival]
                        if value > best:
                            best = value
                            winner = rival
                    out[y, x] = candidates[winner]
