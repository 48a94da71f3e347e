"""Numba kernels that filter on a built lattice, eight classes at a time: splat, blur, slice.

Values lie in panels, `(panels, pixels, 8)`, and vertices in one `(rows, 8)` array that every panel uses in turn: it is
small enough to stay in the cache through all the axes of the blur, which a row of all classes is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from atrous.crf.simd import LANES, fma, load, splat, store

_ZERO, _HALF = np.float32(0), np.float32(0.5)


@njit(cache=True, parallel=True, nogil=True)
def clear(rows: Any, parts: Any) -> None:
    """Set all rows to zero."""
    for part in prange(parts):
        rows[rows.shape[0] * part // parts : rows.shape[0] * (part + 1) // parts] = 0


@njit(cache=True, parallel=True, nogil=True)
def splat_panel(values: Any, send: Any, offsets: Any, weights: Any, columns: Any, bounds: Any, rows: Any) -> None:
    """rows[corner] += weight * send[kernel] * values[pixel]; bands run at once, since they share no row.

    `columns` holds where the corners of each kernel begin in `offsets`, and where the last end.
    """
    for band in prange(bounds.size - 1):
        for pixel in range(bounds[band], bounds[band + 1]):
            value = load(values, pixel * LANES)
            for kernel in range(columns.size - 1):
                scaled = value * load(send, kernel * LANES)
                for e in range(columns[kernel], columns[kernel + 1]):
                    row = np.int64(offsets[pixel, e]) * LANES
                    store(rows, row, fma(splat(weights[pixel, e]), scaled, load(rows, row)))


@njit(cache=True, nogil=True)
def gather_copies(copies: Any, owners: Any, rows: Any) -> None:
    """Add what later bands have splatted to the vertices it belongs to."""
    for i in range(copies.size):
        row = np.int64(owners[i]) * LANES
        store(rows, row, load(rows, row) + load(rows, np.int64(copies[i]) * LANES))


@njit(cache=True, nogil=True)
def spread_copies(copies: Any, owners: Any, rows: Any) -> None:
    """Give later bands their copies of the blurred vertices."""
    for i in range(copies.size):
        store(rows, np.int64(copies[i]) * LANES, load(rows, np.int64(owners[i]) * LANES))


@njit(cache=True, parallel=True, nogil=True)
def blur_axis(chain: Any, rows: Any, parts: Any) -> None:
    """v += (previous + next) / 2 along the runs of `chain`, in place: a run is walked once, old values in registers.

    *Source:* Adams et al. section 3; weights 1/2, 1, 1/2 as in Krähenbühl's code.
    """
    size, half = chain.size, splat(_HALF)
    for part in prange(parts):
        low, high = size * part // parts, size * (part + 1) // parts
        while 0 < low < size and chain[low - 1] >= 0:  # a run belongs to the part in which it begins
            low += 1
        while low < high:
            last = low
            while chain[last] >= 0:
                last += 1
            here = np.int64(chain[low]) * LANES
            previous, current = splat(_ZERO), load(rows, here)
            for i in range(low + 1, last + 1):
                following = np.int64(chain[i] ^ (chain[i] >> 31)) * LANES  # ~chain[i] where negative
                after = load(rows, following)
                store(rows, here, fma(half, previous + after, current))
                previous, current, here = current, after, following
            store(rows, here, fma(half, previous, current))
            low = last + 1


@njit(cache=True, parallel=True, nogil=True)
def slice_panel(offsets: Any, weights: Any, begin: Any, end: Any, rows: Any, out: Any) -> None:
    """out[pixel] = sum of weight * rows[corner] over the corners in columns begin..end."""
    for pixel in prange(out.shape[0]):
        total = splat(_ZERO)
        for e in range(begin, end):
            total = fma(splat(weights[pixel, e]), load(rows, np.int64(offsets[pixel, e]) * LANES), total)
        store(out, pixel * LANES, total)


@njit(cache=True, parallel=True, nogil=True)
def scaled_weights(weights: Any, columns: Any, norms: Any, out: Any) -> None:
    """out = weights * the pixel's norm for the kernel that each column belongs to; `out` may be `weights`."""
    for pixel in prange(weights.shape[0]):
        for kernel in range(columns.size - 1):
            for e in range(columns[kernel], columns[kernel + 1]):
                out[pixel, e] = weights[pixel, e] * norms[kernel, pixel]
