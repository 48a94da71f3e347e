"""Numba kernels that filter on a built lattice, eight classes at a time: splat, blur, slice.

Values lie in panels, `(sources, panels, pixels, 8)`, and vertices in one `(rows, 8)` array that every panel uses in
turn: it is small enough to stay in the cache through all the axes of the blur, which rows of all classes are not.
`counters`, `stage` and `parts` are those of `team`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.simd import LANES, fma, load, splat, store
from atrous.crf.numba_backend.threads import first_part, next_part, next_stage

_ZERO, _HALF = np.float32(0), np.float32(0.5)


@njit(cache=True, nogil=True)
def splat_band(
    panels: Any, panel: Any, source_of: Any, send: Any, offsets: Any, weights: Any,
    columns: Any, bounds: Any, rows: Any, band: Any,
) -> None:  # fmt: skip
    """rows[corner] += weight * send[kernel, panel] * value of each pixel of a band; no two bands share a row."""
    count, pixels = panels.shape[1], panels.shape[2]
    for pixel in range(bounds[band], bounds[band + 1]):
        for kernel in range(source_of.size):
            value = load(panels, ((source_of[kernel] * count + panel) * pixels + pixel) * LANES)
            scaled = value * load(send, (kernel * count + panel) * LANES)
            for e in range(columns[kernel], columns[kernel + 1]):
                row = np.int64(offsets[pixel, e]) * LANES
                store(rows, row, fma(splat(weights[pixel, e]), scaled, load(rows, row)))


@njit(cache=True, nogil=True)
def _gather_copies(copies: Any, owners: Any, rows: Any) -> None:
    """Add what later bands have splatted to the vertices it belongs to."""
    for i in range(copies.size):
        row = np.int64(owners[i]) * LANES
        store(rows, row, load(rows, row) + load(rows, np.int64(copies[i]) * LANES))


@njit(cache=True, nogil=True)
def _spread_copies(copies: Any, owners: Any, rows: Any) -> None:
    """Give later bands their copies of the blurred vertices."""
    for i in range(copies.size):
        store(rows, np.int64(copies[i]) * LANES, load(rows, np.int64(owners[i]) * LANES))


@njit(cache=True, nogil=True)
def blur_part(chain: Any, rows: Any, part: Any, parts: Any) -> None:
    """v += (previous + next) / 2 along the runs of `chain`, in place: a run is walked once, old values in registers.

    *Source:* Adams et al. section 3; weights 1/2, 1, 1/2 as in Krähenbühl's code.
    """
    size, half = chain.size, splat(_HALF)
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


@njit(cache=True, nogil=True)
def filtered_rows(
    counters: Any, stage: Any, parts: Any, lattice: Any, weights: Any, send: Any, source_of: Any,
    panels: Any, panel: Any, reverse: Any, rows: Any,
) -> Any:  # fmt: skip
    """Splat one panel and blur it into `rows`: 4 stages and one for each axis; the number of the next stage.

    `lattice` holds the arrays of `Lattice.arrays`. `reverse` takes the axes backwards: the transpose.
    """
    offsets, columns, bounds, copies, owners, chain, starts = lattice
    part = first_part(counters, stage)
    while part < parts:
        rows[rows.shape[0] * part // parts : rows.shape[0] * (part + 1) // parts] = 0
        part = next_part(counters, stage)
    stage = next_stage(counters, stage, parts)

    band = first_part(counters, stage)
    while band < bounds.size - 1:
        splat_band(panels, panel, source_of, send, offsets, weights, columns, bounds, rows, band)
        band = next_part(counters, stage)
    stage = next_stage(counters, stage, bounds.size - 1)

    if first_part(counters, stage) == 0:
        _gather_copies(copies, owners, rows)
        next_part(counters, stage)
    stage = next_stage(counters, stage, 1)

    axes = starts.size - 1
    for i in range(axes):
        axis = axes - 1 - i if reverse else i
        part = first_part(counters, stage)
        while part < parts:
            blur_part(chain[starts[axis] : starts[axis + 1]], rows, part, parts)
            part = next_part(counters, stage)
        stage = next_stage(counters, stage, parts)

    if first_part(counters, stage) == 0:
        _spread_copies(copies, owners, rows)
        next_part(counters, stage)
    return next_stage(counters, stage, 1)


@njit(cache=True, nogil=True)
def filter_panel(
    counters: Any, parts: Any, lattice: Any, weights: Any, send: Any, source_of: Any,
    panels: Any, panel: Any, reverse: Any, rows: Any, out: Any,
) -> None:  # fmt: skip
    """out (pixels, 8) = K v of one panel, all kernels added up."""
    stage = filtered_rows(counters, 0, parts, lattice, weights, send, source_of, panels, panel, reverse, rows)
    offsets = lattice[0]
    part = first_part(counters, stage)
    while part < parts:
        for pixel in range(out.shape[0] * part // parts, out.shape[0] * (part + 1) // parts):
            total = splat(_ZERO)
            for e in range(offsets.shape[1]):
                total = fma(splat(weights[pixel, e]), load(rows, np.int64(offsets[pixel, e]) * LANES), total)
            store(out, pixel * LANES, total)
        part = next_part(counters, stage)
    next_stage(counters, stage, parts)


@njit(cache=True, nogil=True)
def row_sums(
    counters: Any, parts: Any, lattice: Any, weights: Any, send: Any, source_of: Any, ones: Any, rows: Any, out: Any
) -> None:
    """out[kernel, pixel] = (K 1) of each kernel by itself."""
    stage = filtered_rows(counters, 0, parts, lattice, weights, send, source_of, ones, 0, False, rows)
    offsets, columns = lattice[0], lattice[1]
    part = first_part(counters, stage)
    while part < parts:
        for pixel in range(out.shape[1] * part // parts, out.shape[1] * (part + 1) // parts):
            for kernel in range(out.shape[0]):
                total = _ZERO
                for e in range(columns[kernel], columns[kernel + 1]):
                    total += weights[pixel, e] * rows[offsets[pixel, e], 0]
                out[kernel, pixel] = total
        part = next_part(counters, stage)
    next_stage(counters, stage, parts)


@njit(cache=True, nogil=True)
def scaled_weights(counters: Any, parts: Any, weights: Any, columns: Any, norms: Any, out: Any) -> None:
    """out = weights * the pixel's norm for the kernel that each column belongs to; `out` may be `weights`."""
    part = first_part(counters, 0)
    while part < parts:
        for pixel in range(weights.shape[0] * part // parts, weights.shape[0] * (part + 1) // parts):
            for kernel in range(columns.size - 1):
                for e in range(columns[kernel], columns[kernel + 1]):
                    out[pixel, e] = weights[pixel, e] * norms[kernel, pixel]
        part = next_part(counters, 0)
    next_stage(counters, 0, parts)
