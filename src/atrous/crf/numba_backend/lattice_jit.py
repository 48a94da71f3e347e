"""Compiled construction of a permutohedral lattice: embed the pixels, number the vertices, link neighbors into runs.

Everything about a vertex follows from one 64-bit key, *linear* in its coordinates: `key(v) = sum_i v_i stride_i`;
the d + 1 corners of a simplex and the two neighbors along an axis are the key plus or minus a constant `steps[axis]`.
No coordinate vector is ever stored or compared.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010,
section 3 and p. 5, 6, 10; the order of the float32 operations is that of Krähenbühl's `permutohedral.cpp`, so that a
feature falls into the same simplex as there, to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.simd import LANES, broadcast, less, load, nearest, store
from atrous.crf.numba_backend.threads import chunk_range, first_chunk, next_chunk, stage_barrier

_FREE = np.int64(-(2**63))  # marks an empty slot; no packed key reaches it
_GOLDEN = np.int64(-7046029254386353131)  # 2^64 / golden ratio, as a signed number: Fibonacci hashing
_LOW_32 = np.int64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def feature_ranges(counters: Any, chunks: Any, features: Any, lows: Any, highs: Any) -> None:
    """Find the lowest and highest value of each feature in each chunk of the pixels, (chunks, d); NaN if any is NaN."""
    points, d = features.shape
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        start, stop = chunk_range(points, chunk, chunks)
        low, high = features[start].copy(), features[start].copy()
        for point in range(start, stop):
            for i in range(d):
                value = features[point, i]
                if value != value:
                    low[i] = high[i] = value  # and stays: NaN is neither below nor above anything
                elif value < low[i]:
                    low[i] = value
                elif value > high[i]:
                    high[i] = value
        lows[chunk], highs[chunk] = low, high
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)


@njit(cache=True, nogil=True)
def _empty_table(memory: Any, slots: Any) -> Any:
    """Make an empty open-addressing hash table in the first `slots` rows of `memory`.

    Its rows are (key, number), which takes one memory access for both.
    """
    table = memory[:slots]
    for slot in range(slots):
        table[slot, 0] = _FREE
    return table


@njit(cache=True, nogil=True, inline="always")
def _first_slot(key: Any, table: Any) -> Any:
    """Return the slot at which the search for `key` begins: the high 32 bits of its hash, scaled to the table."""
    return ((((key * _GOLDEN) >> 32) & _LOW_32) * table.shape[0]) >> 32


@njit(cache=True, nogil=True, inline="always")
def _find_slot(key: Any, slot: Any, table: Any) -> Any:
    """Return the slot, from `slot` on, that holds `key`, or the free one in which to put it."""
    while table[slot, 0] != key and table[slot, 0] != _FREE:
        slot = slot + 1 if slot + 1 < table.shape[0] else 0
    return slot


@njit(cache=True, nogil=True)
def _enlarged_table(vertices: Any, slots: Any) -> Any:
    """Make a table of `slots` slots with `vertices` numbered in order."""
    table = _empty_table(np.empty((slots, 2), np.int64), slots)
    for number in range(vertices.size):
        slot = _find_slot(vertices[number], _first_slot(vertices[number], table), table)
        table[slot, 0] = vertices[number]
        table[slot, 1] = number
    return table


@njit(cache=True, nogil=True)
def _embed(point: Any, scale: Any, elevated: Any, corner: Any, rank: Any) -> None:
    """Find the simplices around eight features at once: rows of `point` are dimensions, columns pixels.

    `elevated` becomes y = E p, the feature in the plane sum y = 0 of d + 1 dimensions (Adams et al., p. 5), minus
    `corner`, the 0-colored corner of its simplex; `rank` is the place of each coordinate in descending order.
    """
    n = scale.size + 1
    size, one, zero = broadcast(np.float32(n)), broadcast(np.float32(1)), broadcast(np.float32(0))
    down = broadcast(np.float32(1) / np.float32(n))
    total = zero
    for j in range(n - 1, 0, -1):
        component = load(point, (j - 1) * LANES) * broadcast(scale[j - 1])
        store(elevated, j * LANES, total - broadcast(np.float32(j)) * component)
        total = total + component
    store(elevated, 0, total)
    excess = zero
    for i in range(n):
        y = load(elevated, i * LANES)
        color = nearest(down * y)
        excess = excess + color
        store(corner, i * LANES, color * size)
        store(elevated, i * LANES, y - color * size)
        store(rank, i * LANES, zero)
    for i in range(n - 1):
        di, own = load(elevated, i * LANES), load(rank, i * LANES)
        for j in range(i + 1, n):
            below = less(di, load(elevated, j * LANES))
            own = own + below
            store(rank, j * LANES, load(rank, j * LANES) + (one - below))
        store(rank, i * LANES, own)
    for i in range(n):  # a corner off the plane is brought back to it
        place = load(rank, i * LANES) + excess
        shift = size * (less(place, zero) - less(size - one, place))
        store(rank, i * LANES, place + shift)
        store(corner, i * LANES, load(corner, i * LANES) + shift)
        store(elevated, i * LANES, load(elevated, i * LANES) - shift)


@njit(cache=True, nogil=True)
def _number_band(
    features: Any, low: Any, high: Any, scale: Any, strides: Any, steps: Any,
    corner_rows: Any, barycentric: Any, column: Any, vertices: Any,
) -> int:  # fmt: skip
    """Embed pixels low..high and number their vertices in order of first use into `vertices`; returns their number.

    Consecutive pixels often share corners, so a corner is looked up only where it differs from the last pixel's. The
    table is first read for all corners of eight pixels, with no branch between, so that the waits for memory overlap.
    """
    n = steps.size
    down = np.float32(1) / np.float32(n)
    point, elevated = np.zeros((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    corner, rank = np.empty((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    shares, axis_of = np.empty(n + 1, np.float32), np.empty(n, np.int64)
    keys, slots, seen = np.empty((LANES, n), np.int64), np.empty((LANES, n), np.int64), np.empty((LANES, n), np.int64)
    last_key, last_number = np.full(n, _FREE, np.int64), np.zeros(n, np.int32)
    slot_count = max(64, high - low)
    table, count = _empty_table(np.empty((slot_count, 2), np.int64), slot_count), 0
    for first in range(low, high, LANES):
        lanes = min(LANES, high - first)
        for lane in range(lanes):
            for i in range(n - 1):
                point[i, lane] = features[first + lane, i]
        _embed(point, scale, elevated, corner, rank)
        for lane in range(lanes):
            shares[:] = 0
            key = np.int64(0)
            for i in range(n):
                place = np.int64(rank[i, lane])
                value = elevated[i, lane] * down
                shares[n - 1 - place] += value
                shares[n - place] -= value
                axis_of[n - 1 - place] = i
                key += np.int64(corner[i, lane]) * strides[i]
            shares[0] += np.float32(1) + shares[n]
            for color in range(n):
                barycentric[first + lane, column + color] = shares[color]
                keys[lane, color] = key
                slots[lane, color] = _first_slot(key, table)
                seen[lane, color] = table[slots[lane, color], 0]
                key += steps[axis_of[color]]
        for lane in range(lanes):
            for color in range(n):
                key, slot = keys[lane, color], slots[lane, color]
                if key != last_key[color]:
                    if seen[lane, color] != key:
                        if 2 * count >= table.shape[0]:
                            table = _enlarged_table(vertices[:count], 2 * table.shape[0])
                        slot = _find_slot(key, _first_slot(key, table), table)
                        if table[slot, 0] == _FREE:
                            table[slot, 0] = key
                            table[slot, 1] = count
                            vertices[count] = key
                            count += 1
                    elif table[slot, 0] != key:  # the table has grown since it was seen
                        slot = _find_slot(key, _first_slot(key, table), table)
                    last_key[color] = key
                    last_number[color] = table[slot, 1]
                corner_rows[first + lane, column + color] = last_number[color]
    return count


@njit(cache=True, nogil=True)
def _merge_bands(
    bounds: Any, n: Any, keys: Any, rows: Any, counts: Any, first_row: Any,
    table: Any, vertices: Any, owners: Any, sizes: Any,
) -> None:  # fmt: skip
    """Number the vertices of all bands in order; `rows` becomes the vertex of each key, or `~copy` of a known one."""
    count, copies = 0, 0
    for band in range(bounds.size - 1):
        for i in range(bounds[band] * n, bounds[band] * n + counts[band]):
            slot = _find_slot(keys[i], _first_slot(keys[i], table), table)
            if table[slot, 0] == _FREE:
                table[slot, 0] = keys[i]
                table[slot, 1] = count
                vertices[count] = keys[i]
                rows[i] = count
                count += 1
            else:
                owners[copies] = first_row + table[slot, 1]
                rows[i] = ~copies
                copies += 1
    sizes[0], sizes[1], sizes[2] = count, copies, table.shape[0]


@njit(cache=True, nogil=True)
def number_vertices(
    counters: Any, chunks: Any, features: Any, scale: Any, strides: Any, steps: Any, bounds: Any,
    corner_rows: Any, barycentric: Any, column: Any, first_row: Any,
    memory: Any, keys: Any, rows: Any, vertices: Any, owners: Any, sizes: Any,
) -> None:  # fmt: skip
    """Fill columns `column...` of `corner_rows` (rows from `first_row` on) and `barycentric`; 3 stages.

    Bands of pixels, between consecutive `bounds`, number their vertices independently and are merged in order, which
    gives the numbers that a single scan gives. A vertex that an earlier band has numbered gets, for the later band, a
    row of its own after the vertices, a copy, so that bands can splat at the same time without sharing a row.

    Also written: `vertices`, their keys; `owners`, the vertex that each copy stands for; `memory`, the table that
    finds the vertices; `sizes`: the used lengths of the three, and then the number of vertices of each band. All are
    as long as points times corners, of which only the used part is touched; `memory` is twice that and 64.
    """
    bands, n = bounds.size - 1, steps.size
    counts = sizes[3:]
    band = first_chunk(counters, 0)
    while band < bands:
        low, high = bounds[band], bounds[band + 1]
        counts[band] = _number_band(
            features, low, high, scale, strides, steps, corner_rows, barycentric, column, keys[low * n : high * n]
        )
        band = next_chunk(counters, 0)
    stage_barrier(counters, 0, bands)

    if first_chunk(counters, 1) == 0:
        table = _empty_table(memory, max(64, counts.sum() * 7 // 4))
        _merge_bands(bounds, n, keys, rows, counts, first_row, table, vertices, owners, sizes)
        next_chunk(counters, 1)
    stage_barrier(counters, 1, 1)

    band = first_chunk(counters, 2)
    while band < bands:
        start = bounds[band] * n
        for i in range(start, start + counts[band]):
            rows[i] = first_row + (rows[i] if rows[i] >= 0 else sizes[0] + ~rows[i])
        for pixel in range(bounds[band], bounds[band + 1]):
            for e in range(column, column + n):
                corner_rows[pixel, e] = rows[start + corner_rows[pixel, e]]
        band = next_chunk(counters, 2)
    stage_barrier(counters, 2, bands)


@njit(cache=True, nogil=True)
def _find_neighbors(vertices: Any, table: Any, steps: Any, following: Any, low: Any, high: Any) -> None:
    """Find the next vertex along each axis, following[axis, v], or -1. The table is read as in `_number_band`."""
    axes = steps.size
    slots, seen = np.empty(axes, np.int64), np.empty(axes, np.int64)
    for v in range(low, high):
        for axis in range(axes):
            slots[axis] = _first_slot(vertices[v] + steps[axis], table)
            seen[axis] = table[slots[axis], 0]
        for axis in range(axes):
            key = vertices[v] + steps[axis]
            slot = slots[axis] if seen[axis] == key else _find_slot(key, slots[axis], table)
            following[axis, v] = -1 if table[slot, 0] == _FREE else table[slot, 1]


@njit(cache=True, nogil=True)
def _write_runs(following: Any, first_row: Any, runs: Any) -> int:
    """Write the runs of neighbors along one axis to `runs`, sorted by length; returns its used length.

    Runs of equal length are adjacent so that the processor predicts the end of each.
    """
    n = following.size
    follows, lengths = np.zeros(n, np.bool_), np.zeros(n + 1, np.int32)
    for vertex in range(n):
        if following[vertex] >= 0:
            follows[following[vertex]] = True
    heads, sizes = np.empty(n, np.int32), np.empty(n, np.int32)
    count = 0
    for head in range(n):
        if following[head] < 0 or follows[head]:
            continue
        v, size = following[head], 1
        while v >= 0:
            v, size = following[v], size + 1
        heads[count], sizes[count] = head, size
        lengths[size] += size
        count += 1
    start = 0
    for size in range(n + 1):  # from totals to the start of the runs of each length
        total = lengths[size]
        lengths[size] = start
        start += total
    for run in range(count):
        begin, v = lengths[sizes[run]], heads[run]
        lengths[sizes[run]] += sizes[run]
        for at in range(begin, begin + sizes[run]):
            runs[at] = first_row + v
            v = following[v]
        last = begin + sizes[run] - 1
        runs[last] = ~runs[last]
    return start


@njit(cache=True, nogil=True)
def link_runs(
    counters: Any, chunks: Any, vertices: Any, table: Any, steps: Any, first_row: Any,
    following: Any, runs: Any, lengths: Any,
) -> None:  # fmt: skip
    """Write to `runs` (axes, vertices) the vertices that have a neighbor, run by run; 2 stages.

    The last vertex of a run is stored as `~vertex`. A vertex with no neighbor along an axis is left unchanged by the
    blur along it and is not listed. `lengths` are the used lengths of the rows; `following` is scratch of equal size.
    """
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(vertices.size, chunk, chunks)
        _find_neighbors(vertices, table, steps, following, low, high)
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)

    axis = first_chunk(counters, 1)
    while axis < steps.size:
        lengths[axis] = _write_runs(following[axis], first_row, runs[axis])
        axis = next_chunk(counters, 1)
    stage_barrier(counters, 1, steps.size)
