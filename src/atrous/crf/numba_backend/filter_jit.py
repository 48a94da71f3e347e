"""Compiled filtering on a built lattice, eight classes at a time: splat, blur, slice.

Values lie in panels of eight classes, `(sources, panels, pixels, 8)`, and the values of the vertices in one
`(rows, 8)` array that every panel uses in turn: it is small enough to stay in the cache through all the axes of the
blur, which rows of all classes are not. `lattice` stands for the arrays of `Lattice.arrays`; `counters`, `stage` and
`chunks` are those of `threads`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.simd import LANES, broadcast, fma, load, store
from atrous.crf.numba_backend.threads import chunk_range, first_chunk, next_chunk, stage_barrier

_ZERO, _HALF = np.float32(0), np.float32(0.5)


@njit(cache=True, nogil=True)
def splat_band(
    panels: Any, panel: Any, source_index: Any, class_weights: Any, corner_rows: Any, barycentric: Any,
    columns: Any, bounds: Any, vertex_values: Any, band: Any,
) -> None:  # fmt: skip
    """Splat one band of pixels: vertex_values[corner] += barycentric * class_weights[kernel, panel] * value.

    No two bands share a row of `vertex_values`.
    """
    count, pixels = panels.shape[1], panels.shape[2]
    for pixel in range(bounds[band], bounds[band + 1]):
        for kernel in range(source_index.size):
            value = load(panels, ((source_index[kernel] * count + panel) * pixels + pixel) * LANES)
            scaled = value * load(class_weights, (kernel * count + panel) * LANES)
            for e in range(columns[kernel], columns[kernel + 1]):
                row = np.int64(corner_rows[pixel, e]) * LANES
                total = fma(broadcast(barycentric[pixel, e]), scaled, load(vertex_values, row))
                store(vertex_values, row, total)


@njit(cache=True, nogil=True)
def _add_copies(copies: Any, owners: Any, vertex_values: Any) -> None:
    """Add the copies that later bands splatted into to the vertices that own them."""
    for i in range(copies.size):
        row = np.int64(owners[i]) * LANES
        store(vertex_values, row, load(vertex_values, row) + load(vertex_values, np.int64(copies[i]) * LANES))


@njit(cache=True, nogil=True)
def _update_copies(copies: Any, owners: Any, vertex_values: Any) -> None:
    """Overwrite the copies of later bands with the blurred values of the vertices that own them."""
    for i in range(copies.size):
        store(vertex_values, np.int64(copies[i]) * LANES, load(vertex_values, np.int64(owners[i]) * LANES))


@njit(cache=True, nogil=True)
def blur_chunk(runs: Any, vertex_values: Any, chunk: Any, chunks: Any) -> None:
    """Blur along one axis, in place: v += (previous + next) / 2 for the vertices of a chunk of `runs`.

    A run of neighbors is walked once, with the old values in registers.

    Source: Adams et al. section 3; weights 1/2, 1, 1/2 as in Krähenbühl's code.
    """
    size, half = runs.size, broadcast(_HALF)
    low, high = chunk_range(size, chunk, chunks)
    while 0 < low < size and runs[low - 1] >= 0:  # a run belongs to the chunk in which it begins
        low += 1
    while low < high:
        last = low
        while runs[last] >= 0:
            last += 1
        here = np.int64(runs[low]) * LANES
        previous, current = broadcast(_ZERO), load(vertex_values, here)
        for i in range(low + 1, last + 1):
            following = np.int64(runs[i] ^ (runs[i] >> 31)) * LANES  # ~runs[i] where negative
            after = load(vertex_values, following)
            store(vertex_values, here, fma(half, previous + after, current))
            previous, current, here = current, after, following
        store(vertex_values, here, fma(half, previous, current))
        low = last + 1


@njit(cache=True, nogil=True)
def splat_and_blur(
    counters: Any, stage: Any, chunks: Any, lattice: Any, barycentric: Any, class_weights: Any, source_index: Any,
    panels: Any, panel: Any, reverse: Any, vertex_values: Any,
) -> Any:  # fmt: skip
    """Splat one panel and blur it into `vertex_values`: 4 stages and one for each axis; returns the next stage.

    `reverse` takes the axes backwards, which gives the transpose of the filter.
    """
    corner_rows, columns, bounds, copies, owners, runs, axis_starts = lattice
    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        low, high = chunk_range(vertex_values.shape[0], chunk, chunks)
        vertex_values[low:high] = 0
        chunk = next_chunk(counters, stage)
    stage = stage_barrier(counters, stage, chunks)

    band = first_chunk(counters, stage)
    while band < bounds.size - 1:
        splat_band(
            panels, panel, source_index, class_weights, corner_rows, barycentric, columns, bounds, vertex_values, band
        )
        band = next_chunk(counters, stage)
    stage = stage_barrier(counters, stage, bounds.size - 1)

    if first_chunk(counters, stage) == 0:
        _add_copies(copies, owners, vertex_values)
        next_chunk(counters, stage)
    stage = stage_barrier(counters, stage, 1)

    axes = axis_starts.size - 1
    for i in range(axes):
        axis = axes - 1 - i if reverse else i
        chunk = first_chunk(counters, stage)
        while chunk < chunks:
            blur_chunk(runs[axis_starts[axis] : axis_starts[axis + 1]], vertex_values, chunk, chunks)
            chunk = next_chunk(counters, stage)
        stage = stage_barrier(counters, stage, chunks)

    if first_chunk(counters, stage) == 0:
        _update_copies(copies, owners, vertex_values)
        next_chunk(counters, stage)
    return stage_barrier(counters, stage, 1)


@njit(cache=True, nogil=True)
def filter_panel(
    counters: Any, chunks: Any, lattice: Any, barycentric: Any, class_weights: Any, source_index: Any,
    panels: Any, panel: Any, reverse: Any, vertex_values: Any, out: Any,
) -> None:  # fmt: skip
    """Filter one panel: out (pixels, 8) = K v, all kernels added up."""
    stage = splat_and_blur(
        counters, 0, chunks, lattice, barycentric, class_weights, source_index, panels, panel, reverse, vertex_values
    )
    corner_rows = lattice[0]
    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        low, high = chunk_range(out.shape[0], chunk, chunks)
        for pixel in range(low, high):
            total = broadcast(_ZERO)
            for e in range(corner_rows.shape[1]):
                value = load(vertex_values, np.int64(corner_rows[pixel, e]) * LANES)
                total = fma(broadcast(barycentric[pixel, e]), value, total)
            store(out, pixel * LANES, total)
        chunk = next_chunk(counters, stage)
    stage_barrier(counters, stage, chunks)


@njit(cache=True, nogil=True)
def row_sums(
    counters: Any, chunks: Any, lattice: Any, barycentric: Any, class_weights: Any, source_index: Any,
    ones: Any, vertex_values: Any, out: Any,
) -> None:  # fmt: skip
    """Compute the row sums of each kernel: out[kernel, pixel] = (K 1)."""
    stage = splat_and_blur(
        counters, 0, chunks, lattice, barycentric, class_weights, source_index, ones, 0, False, vertex_values
    )
    corner_rows, columns = lattice[0], lattice[1]
    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        low, high = chunk_range(out.shape[1], chunk, chunks)
        for pixel in range(low, high):
            for kernel in range(out.shape[0]):
                total = _ZERO
                for e in range(columns[kernel], columns[kernel + 1]):
                    total += barycentric[pixel, e] * vertex_values[corner_rows[pixel, e], 0]
                out[kernel, pixel] = total
        chunk = next_chunk(counters, stage)
    stage_barrier(counters, stage, chunks)


@njit(cache=True, nogil=True)
def scale_barycentric(counters: Any, chunks: Any, barycentric: Any, columns: Any, factors: Any, out: Any) -> None:
    """Multiply barycentric weights by the pixel's factor for the kernel of each column; `out` may be `barycentric`."""
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(barycentric.shape[0], chunk, chunks)
        for pixel in range(low, high):
            for kernel in range(columns.size - 1):
                for e in range(columns[kernel], columns[kernel + 1]):
                    out[pixel, e] = barycentric[pixel, e] * factors[kernel, pixel]
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)
