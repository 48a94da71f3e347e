"""The part of `upsampled_argmax` in NumPy, for the first images of a process: numba takes a while to import."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atrous.inference.taps import Taps


def argmax_numpy(scores: NDArray[np.float32], rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """Fill `out` with the arg-max over classes for some rows and columns of the resized scores.

    A class is interpolated only in the cells between four neighboring scores where it can win.

    Shape: (K, h, w), taps of H rows and W columns; `out` (H, W) is filled.
    """
    cell_row, tops = _cells(rows)
    cell_column, lefts = _cells(columns)
    can_win = _can_win(scores, rows[tops], columns[lefts])
    out[...] = can_win.argmax(0).astype(out.dtype)[cell_row].take(cell_column, 1)
    contested = can_win.sum(0) > 1
    y, x = np.nonzero(contested[cell_row].take(cell_column, 1))
    cell = cell_row[y] * len(lefts) + cell_column[x]
    position = _Position(scores.shape[2], rows[y], columns[x])
    best = np.full(len(y), -np.inf, np.float32)
    labels = np.zeros(len(y), out.dtype)
    for label, (score, possible) in enumerate(zip(scores, can_win, strict=True)):
        pixels = np.flatnonzero(possible.ravel().take(cell))
        values = position.interpolate(score.ravel(), pixels)
        better = values > best.take(pixels)
        winners = pixels[better]
        best[winners] = values[better]
        labels[winners] = label
    out[y, x] = labels


def _cells(taps: Taps) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The index of each sample's cell along an axis, and the first sample of each cell."""
    begins = np.diff(taps.first, prepend=-1) != 0
    return np.cumsum(begins) - 1, np.flatnonzero(begins)


def _can_win(scores: NDArray[np.float32], rows: Taps, columns: Taps) -> NDArray[np.bool_]:
    """Tell which classes can win in each cell: their maximum is not below the minimum of another class.

    Shape: (K, h, w), the taps of one row and one column of each cell -> (K, rows, columns).
    """
    above, below = scores[:, rows.first], scores[:, rows.second]
    low, high = np.minimum(above, below), np.maximum(above, below)
    low = np.minimum(low[:, :, columns.first], low[:, :, columns.second])
    high = np.maximum(high[:, :, columns.first], high[:, :, columns.second])
    can_win: NDArray[np.bool_] = high >= low.max(0)
    return can_win


class _Position:
    """Where pixels lie between four scores of a flattened map whose rows have `width` scores."""

    def __init__(self, width: int, rows: Taps, columns: Taps) -> None:
        self._corner = rows.first * width + columns.first
        self._down = (rows.second - rows.first) * width
        self._right = columns.second - columns.first
        self._rows, self._columns = rows.weight, columns.weight

    def interpolate(self, score: NDArray[np.float32], pixels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Interpolate the scores of one class at some of the pixels, in the order of `F.interpolate`: rows first."""
        corner, down, weight = self._corner.take(pixels), self._down.take(pixels), self._rows.take(pixels)
        left = _blend(score.take(corner), score.take(corner + down), weight)
        corner += self._right.take(pixels)
        right = _blend(score.take(corner), score.take(corner + down), weight)
        return _blend(left, right, self._columns.take(pixels))


def _blend(first: NDArray[np.float32], second: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolate linearly, in place of `first` and `second`."""
    first *= 1 - weight
    second *= weight
    first += second
    return first
