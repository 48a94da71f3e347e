"""Bilinear upsampling and arg-max in one step: labels from coarse scores, without the upsampled scores.

Between four neighboring scores a bilinear surface stays between their minimum and their maximum. A class whose maximum
is below the minimum of another class wins nowhere in that cell; inside objects one class is left, and the cell is
filled with it. Elsewhere the few classes that can win are interpolated.
"""

from __future__ import annotations

import sys
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from atrous.imaging.labels import label_dtype
from atrous.inference.argmax_numpy import argmax_numpy
from atrous.inference.engines.engine import num_threads
from atrous.inference.taps import Taps

if TYPE_CHECKING:
    from torch import Tensor

Scores: TypeAlias = "NDArray[np.float32] | Tensor"
"""Class scores (K, h, w): a NumPy array, for which torch is not imported, or a tensor on any device."""

AnyScores = TypeVar("AnyScores", "NDArray[np.float32]", "Tensor")

ROWS_PER_TASK = 32
"""The largest number of rows of one task of a thread."""

PIXELS_PER_THREAD = 2**18
"""With fewer pixels, a thread costs more than it saves."""

CHUNK_BYTES = 64 * 2**20
"""The size of the chunks of rows in which resized maps of tensors are made."""

CACHED_CHUNK_BYTES = 2**20
"""The size of these chunks for arrays, which NumPy processes several times as fast within the processor's cache."""

INTERPRETED_SECONDS = 0.5
"""The time in a process after which NumPy leaves the rest to numba, whose import and start take about as long.

So neither one image nor a thousand take more than twice the time of the better choice.
"""

INTERPRETED_PIXELS = 2**17
"""The number of pixels that NumPy labels in one step, whose arrays then stay small."""


def upsampled_argmax(
    scores: Scores,
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


def interpolated_argmax(scores: Scores, rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """Fill `out` with the arg-max over classes for some rows and columns of the resized map.

    Shape: (K, h, w), taps of H rows and W columns; `out` (H, W) is filled.
    """
    if isinstance(scores, np.ndarray):
        _argmax_on_cpu(scores, rows, columns, out)
    elif scores.device.type == "cpu":
        _argmax_on_cpu(scores.detach().float().numpy(), rows, columns, out)
    else:
        _argmax_in_chunks(scores, rows, columns, out)


def resize_taps(
    scores: Scores, size: tuple[int, int], *, align_corners: bool, crop: tuple[int, int] | None = None
) -> tuple[Taps, Taps]:
    """Compute the taps of rows and columns that resize scores (K, h, w) to the upper left `crop` of (K, *size)."""
    height, width = crop or size
    rows = Taps.linear(scores.shape[-2], size[0], align_corners=align_corners)[:height]
    return rows, Taps.linear(scores.shape[-1], size[1], align_corners=align_corners)[:width]


def interpolate_rows(scores: AnyScores, rows: Taps, columns: Taps) -> AnyScores:
    """Interpolate some rows of the resized map.

    Shape: (K, h, w), taps of n rows and W columns -> (K, n, W).
    """
    return _interpolate(_interpolate(scores, rows, -2), columns, -1)


def _interpolate(x: AnyScores, taps: Taps, axis: int) -> AnyScores:
    weight: Any = taps.weight
    if isinstance(x, np.ndarray):
        first, second = x.take(taps.first, axis), x.take(taps.second, axis)
    else:
        import torch

        weight = torch.from_numpy(weight).to(x)
        first, second = (
            x.index_select(axis, torch.from_numpy(index).to(x.device)) for index in (taps.first, taps.second)
        )
    if axis == -2:
        weight = weight[:, None]
    first *= 1 - weight
    second *= weight
    first += second
    return first


def row_chunks(scores: Scores, num_rows: int, bytes_per_row: int) -> list[slice]:
    """Split rows of resized scores into consecutive slices of a suitable size, and of at least one row."""
    chunk_bytes = CACHED_CHUNK_BYTES if isinstance(scores, np.ndarray) else CHUNK_BYTES
    step = max(1, chunk_bytes // max(1, bytes_per_row))
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def _argmax_in_chunks(scores: Tensor, rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """Resize and reduce a chunk of rows at a time on the tensor's device."""
    for chunk in row_chunks(scores, len(rows), 3 * scores.shape[0] * len(columns) * scores.itemsize):
        out[chunk] = interpolate_rows(scores, rows[chunk], columns).argmax(0).numpy(force=True)


_interpreted_seconds = 0.0


def _argmax_on_cpu(scores: NDArray[np.float32], rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """Use NumPy for the first pixels of a process, and the compiled kernel when it is worth its import."""
    global _interpreted_seconds
    done = 0
    step = max(1, INTERPRETED_PIXELS // len(columns))
    while done < len(rows):
        if "atrous.inference.argmax_kernel" in sys.modules or _interpreted_seconds > INTERPRETED_SECONDS:
            _compiled_argmax(scores, rows[done:], columns, out[done:])
            return
        start = time.thread_time()
        band = slice(done, done + step)
        argmax_numpy(scores, rows[band], columns, out[band])
        _interpreted_seconds += time.thread_time() - start
        done += step


def _compiled_argmax(scores: NDArray[np.float32], rows: Taps, columns: Taps, out: NDArray[np.integer]) -> None:
    """Run the compiled kernel on bands of rows, in threads."""
    from atrous.inference.argmax_kernel import argmax_kernel

    classes, height, width = scores.shape
    channels_last = cv2.transpose(scores.reshape(classes, -1)).reshape(height, width, classes)
    tops, lefts, cells = _cell_bounds(rows, columns)

    def fill(tops: NDArray[np.int64]) -> None:
        argmax_kernel(
            channels_last, rows.first, rows.second, rows.weight, columns.second, columns.weight, tops, lefts, cells, out
        )

    threads = max(1, min(num_threads(), len(tops) - 1, out.size // PIXELS_PER_THREAD))
    ends = np.linspace(0, len(tops) - 1, threads + 1).astype(int)
    bands = [threading.Thread(target=fill, args=(tops[start : end + 1],)) for start, end in pairwise(ends[1:])]
    for band in bands:
        band.start()
    fill(tops[: ends[1] + 1])
    for band in bands:
        band.join()


def _cell_bounds(rows: Taps, columns: Taps) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The rows where cells (or tasks) begin, the columns where cells begin, and the index of each column's cell."""
    row_starts = np.flatnonzero(np.diff(rows.first, prepend=-1, append=-1))
    pieces = [np.arange(a, b, ROWS_PER_TASK) for a, b in pairwise(row_starts)]
    column_starts = np.flatnonzero(np.diff(columns.first, prepend=-1, append=-1))
    return np.append(np.concatenate(pieces), len(rows)), column_starts, columns.first[column_starts[:-1]]
