"""Compiled filtering on a built lattice, one row of classes at a time: splat, blur, slice.

Values lie in panels of up to 32 classes, `(sources, panels, pixels, lanes)`, and the values of the vertices in one
`(rows, lanes)` array that every panel uses in turn. `lattice` stands for the arrays of `Lattice.arrays`; `counters`,
`stage` and `chunks` are those of `threads`, `lanes` is that of `simd`.

Corners are scattered rows. A pixel needs about as many instructions as the processor looks ahead, so the rows of the
pixel `AHEAD` are prefetched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.simd import broadcast, fma, lane_count, load, prefetch, store
from atrous.crf.numba_backend.threads import chunk_range, first_chunk, next_chunk, stage_barrier

AHEAD = 8
_ZERO, _HALF = np.float32(0), np.float32(0.5)


@njit(cache=True, nogil=True, inline="always")
def prefetch_corners(corner_rows: Any, pixel: Any, vertex_values: Any, lanes: Any) -> None:
    """Prefetch the rows of all corners of the pixel `AHEAD`, if there is one."""
    if pixel + AHEAD < corner_rows.shape[0]:
        for e in range(corner_rows.shape[1]):
            prefetch(vertex_values, np.int64(corner_rows[pixel + AHEAD, e]) * lane_count(lanes), lanes)


@njit(cache=True, nogil=True)
def splat_band(
    panels: Any, panel: Any, source_index: Any, class_weights: Any, corner_rows: Any, barycentric: Any,
    columns: Any, bounds: Any, vertex_values: Any, lanes: Any, band: Any,
) -> None:  # fmt: skip
    """Splat one band of pixels: vertex_values[corner] += barycentric * class_weights[kernel, panel] * value.

    No two bands share a row of `vertex_values`.
    """
    count, pixels, width = panels.shape[1], panels.shape[2], lane_count(lanes)
    for pixel in range(bounds[band], bounds[band + 1]):
        prefetch_corners(corner_rows, pixel, vertex_values, lanes)
        for kernel in range(source_index.size):
            value = load(panels, ((source_index[kernel] * count + panel) * pixels + pixel) * width, lanes)
            scaled = value * load(class_weights, (kernel * count + panel) * width, lanes)
            for e in range(columns[kernel], columns[kernel + 1]):
                row = np.int64(corner_rows[pixel, e]) * width
                total = fma(broadcast(barycentric[pixel, e], lanes), scaled, load(vertex_values, row, lanes))
                store(vertex_values, row, total)


@njit(cache=True, nogil=True)
def _add_copies(first: Any, last: Any, owners: Any, vertex_values: Any, lanes: Any) -> None:
    """Add the rows from first to last, into which later bands splatted, to the vertices of which they are copies."""
    width = lane_count(lanes)
    for copy in range(first, last):
        row = np.int64(owners[copy]) * width
        store(vertex_values, row, load(vertex_values, row, lanes) + load(vertex_values, copy * width, lanes))


@njit(cache=True, nogil=True)
def _update_copies(first: Any, last: Any, owners: Any, vertex_values: Any, lanes: Any) -> None:
    """Overwrite the rows from first to last with the blurred values of the vertices of which they are copies."""
    width = lane_count(lanes)
    for copy in range(first, last):
        store(vertex_values, copy * width, load(vertex_values, np.int64(owners[copy]) * width, lanes))


@njit(cache=True, nogil=True)
def blur_segment(runs: Any, low: Any, high: Any, vertex_values: Any, lanes: Any) -> None:
    """Blur along one axis, in place: v += (previous + next) / 2 for the vertices of the runs from `low` to `high`.

    A run of neighbors is walked once, with the old values in registers.

    Source: Adams et al. section 3; weights 1/2, 1, 1/2 as in Krähenbühl's code.
    """
    half, width = broadcast(_HALF, lanes), lane_count(lanes)
    while low < high:
        last = low
        while runs[last] >= 0:
            last += 1
        here = np.int64(runs[low]) * width
        previous, current = broadcast(_ZERO, lanes), load(vertex_values, here, lanes)
        for i in range(low + 1, last + 1):
            following = np.int64(runs[i] ^ (runs[i] >> 31)) * width  # ~runs[i] where negative
            after = load(vertex_values, following, lanes)
            store(vertex_values, here, fma(half, previous + after, current))
            previous, current, here = current, after, following
        store(vertex_values, here, fma(half, previous, current))
        low = last + 1


@njit(cache=True, nogil=True)
def blur_unit(runs: Any, segments: Any, first: Any, last: Any, reverse: Any, vertex_values: Any, lanes: Any) -> None:
    """Blur along the segments first..last of `runs` in order, or backwards; the rows are first brought to the cache."""
    for i in range(segments[first, 0], segments[first, 1]):
        prefetch(vertex_values, np.int64(runs[i] ^ (runs[i] >> 31)) * lane_count(lanes), lanes)
    for i in range(last - first):
        segment = last - 1 - i if reverse else first + i
        blur_segment(runs, segments[segment, 0], segments[segment, 1], vertex_values, lanes)


@njit(cache=True, nogil=True)
def splat_and_blur(
    counters: Any, stage: Any, chunks: Any, lattice: Any, barycentric: Any, class_weights: Any, source_index: Any,
    panels: Any, panel: Any, reverse: Any, vertex_values: Any, lanes: Any,
) -> Any:  # fmt: skip
    """Splat one panel and blur it into `vertex_values`: 4 stages and the rounds of the blur; returns the next stage.

    `reverse` takes the axes backwards, which gives the transpose of the filter.
    """
    corner_rows, columns, bounds, copies, owners, runs, segments, units, rounds = lattice
    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        low, high = chunk_range(vertex_values.shape[0], chunk, chunks)
        vertex_values[low:high] = 0
        chunk = next_chunk(counters, stage)
    stage = stage_barrier(counters, stage, chunks)

    band = first_chunk(counters, stage)
    while band < bounds.size - 1:
        splat_band(
            panels, panel, source_index, class_weights, corner_rows, barycentric, columns, bounds, vertex_values,
            lanes, band,
        )  # fmt: skip
        band = next_chunk(counters, stage)
    stage = stage_barrier(counters, stage, bounds.size - 1)

    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        low, high = chunk_range(copies.shape[0], chunk, chunks)
        for bucket in range(low, high):
            _add_copies(copies[bucket, 0], copies[bucket, 1], owners, vertex_values, lanes)
        chunk = next_chunk(counters, stage)
    stage = stage_barrier(counters, stage, chunks)

    for i in range(rounds.size - 1):
        step = rounds.size - 2 - i if reverse else i
        start, count = rounds[step], rounds[step + 1] - rounds[step]
        unit = first_chunk(counters, stage)
        while unit < count:
            first, last = units[start + unit], units[start + unit + 1]
            blur_unit(runs, segments, first, last, reverse, vertex_values, lanes)
            unit = next_chunk(counters, stage)
        stage = stage_barrier(counters, stage, count)

    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        low, high = chunk_range(copies.shape[0], chunk, chunks)
        for bucket in range(low, high):
            _update_copies(copies[bucket, 0], copies[bucket, 1], owners, vertex_values, lanes)
        chunk = next_chunk(counters, stage)
    return stage_barrier(counters, stage, chunks)


@njit(cache=True, nogil=True)
def filter_panel(
    counters: Any, chunks: Any, lattice: Any, barycentric: Any, class_weights: Any, source_index: Any,
    panels: Any, panel: Any, reverse: Any, vertex_values: Any, lanes: Any, out: Any,
) -> None:  # fmt: skip
    """Filter one panel: out (pixels, lanes) = K v, all kernels added up."""
    stage = splat_and_blur(
        counters, 0, chunks, lattice, barycentric, class_weights, source_index,
        panels, panel, reverse, vertex_values, lanes,
    )  # fmt: skip
    corner_rows, width = lattice[0], lane_count(lanes)
    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        low, high = chunk_range(out.shape[0], chunk, chunks)
        for pixel in range(low, high):
            total = broadcast(_ZERO, lanes)
            for e in range(corner_rows.shape[1]):
                value = load(vertex_values, np.int64(corner_rows[pixel, e]) * width, lanes)
                total = fma(broadcast(barycentric[pixel, e], lanes), value, total)
            store(out, pixel * width, total)
        chunk = next_chunk(counters, stage)
    stage_barrier(counters, stage, chunks)


@njit(cache=True, nogil=True)
def row_sums(
    counters: Any, chunks: Any, lattice: Any, barycentric: Any, class_weights: Any, source_index: Any,
    ones: Any, vertex_values: Any, lanes: Any, out: Any,
) -> None:  # fmt: skip
    """Compute the row sums of each kernel: out[kernel, pixel] = (K 1). Rows have one lane, and stay in the cache."""
    stage = splat_and_blur(
        counters, 0, chunks, lattice, barycentric, class_weights, source_index, ones, 0, False, vertex_values, lanes
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
