"""Numba kernels that build a permutohedral lattice: embed the pixels, number the vertices, link neighbors into runs.

Everything about a vertex follows from one 64-bit key, *linear* in its coordinates: `key(v) = sum_i v_i stride_i`;
the d + 1 corners of a simplex and the two neighbors along an axis are the key plus or minus a constant `steps[axis]`.
No coordinate vector is ever stored or compared.

*Source:* Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010,
section 3 and p. 5, 6, 10; the order of the float32 operations is that of Krähenbühl's `permutohedral.cpp`, so that a
feature falls into the same simplex as there, to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.simd import LANES, less, load, nearest, splat, store
from atrous.crf.numba_backend.threads import first_part, next_part, next_stage

_FREE = np.int64(-(2**63))  # marks an empty slot; no packed key reaches it
_GOLDEN = np.int64(-7046029254386353131)  # 2^64 / golden ratio, as a signed number: Fibonacci hashing
_LOW_32 = np.int64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def ranges(counters: Any, parts: Any, features: Any, lows: Any, highs: Any) -> None:
    """The lowest and highest value of each feature in each part of the pixels, (parts, d); NaN where there is one."""
    points, d = features.shape
    part = first_part(counters, 0)
    while part < parts:
        low, high = features[points * part // parts].copy(), features[points * part // parts].copy()
        for point in range(points * part // parts, points * (part + 1) // parts):
            for i in range(d):
                value = features[point, i]
                if value != value:
                    low[i] = high[i] = value  # and it stays: nothing compares with it
                elif value < low[i]:
                    low[i] = value
                elif value > high[i]:
                    high[i] = value
        lows[part], highs[part] = low, high
        part = next_part(counters, 0)
    next_stage(counters, 0, parts)


@njit(cache=True, nogil=True)
def _empty_table(memory: Any, slots: Any) -> Any:
    """An open-addressing table: rows of (key, number), one memory access for both, in the beginning of `memory`."""
    table = memory[:slots]
    for slot in range(slots):
        table[slot, 0] = _FREE
    return table


@njit(cache=True, nogil=True, inline="always")
def _slot(key: Any, table: Any) -> Any:
    """Where to begin to look for `key`: the high 32 bits of its hash, scaled to the table."""
    return ((((key * _GOLDEN) >> 32) & _LOW_32) * table.shape[0]) >> 32


@njit(cache=True, nogil=True, inline="always")
def _find(key: Any, slot: Any, table: Any) -> Any:
    """The slot, from `slot` on, that holds `key`, or the free one where it belongs."""
    while table[slot, 0] != key and table[slot, 0] != _FREE:
        slot = slot + 1 if slot + 1 < table.shape[0] else 0
    return slot


@njit(cache=True, nogil=True)
def _grown(vertices: Any, slots: Any) -> Any:
    """A table of `slots` slots with `vertices` numbered in order."""
    table = _empty_table(np.empty((slots, 2), np.int64), slots)
    for number in range(vertices.size):
        slot = _find(vertices[number], _slot(vertices[number], table), table)
        table[slot, 0] = vertices[number]
        table[slot, 1] = number
    return table


@njit(cache=True, nogil=True)
def _enclose(point: Any, scale: Any, elevated: Any, corner: Any, rank: Any) -> None:
    """Find the simplex around eight features at once: rows of `point` are dimensions, columns pixels.

    `elevated` becomes y = E p, the feature in the plane sum y = 0 of d + 1 dimensions (Adams et al., p. 5), minus
    `corner`, the 0-colored corner of its simplex; `rank` is the place of each coordinate in the falling order.
    """
    n = scale.size + 1
    size, one, none = splat(np.float32(n)), splat(np.float32(1)), splat(np.float32(0))
    down = splat(np.float32(1) / np.float32(n))
    total = none
    for j in range(n - 1, 0, -1):
        component = load(point, (j - 1) * LANES) * splat(scale[j - 1])
        store(elevated, j * LANES, total - splat(np.float32(j)) * component)
        total = total + component
    store(elevated, 0, total)
    excess = none
    for i in range(n):
        y = load(elevated, i * LANES)
        color = nearest(down * y)
        excess = excess + color
        store(corner, i * LANES, color * size)
        store(elevated, i * LANES, y - color * size)
        store(rank, i * LANES, none)
    for i in range(n - 1):
        di, own = load(elevated, i * LANES), load(rank, i * LANES)
        for j in range(i + 1, n):
            below = less(di, load(elevated, j * LANES))
            own = own + below
            store(rank, j * LANES, load(rank, j * LANES) + (one - below))
        store(rank, i * LANES, own)
    for i in range(n):  # a corner off the plane is brought back to it
        place = load(rank, i * LANES) + excess
        shift = size * (less(place, none) - less(size - one, place))
        store(rank, i * LANES, place + shift)
        store(corner, i * LANES, load(corner, i * LANES) + shift)
        store(elevated, i * LANES, load(elevated, i * LANES) - shift)


@njit(cache=True, nogil=True)
def _number_band(
    features: Any, low: Any, high: Any, scale: Any, strides: Any, steps: Any,
    offsets: Any, weights: Any, column: Any, vertices: Any,
) -> int:  # fmt: skip
    """Embed pixels low..high; number their vertices in order of first touch into `vertices`; return how many.

    Consecutive pixels often share corners, so a corner is looked up only where it differs from the last pixel's. The
    table is first read for all corners of eight pixels, with no branch between, so that the waits for memory overlap.
    """
    n = steps.size
    down = np.float32(1) / np.float32(n)
    point, elevated = np.zeros((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    corner, rank = np.empty((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    barycentric, axis_of = np.empty(n + 1, np.float32), np.empty(n, np.int64)
    keys, slots, seen = np.empty((LANES, n), np.int64), np.empty((LANES, n), np.int64), np.empty((LANES, n), np.int64)
    last_key, last_number = np.full(n, _FREE, np.int64), np.zeros(n, np.int32)
    room = max(64, high - low)
    table = _empty_table(np.empty((room, 2), np.int64), room)
    count = 0
    for first in range(low, high, LANES):
        here = min(LANES, high - first)
        for lane in range(here):
            for i in range(n - 1):
                point[i, lane] = features[first + lane, i]
        _enclose(point, scale, elevated, corner, rank)
        for lane in range(here):
            barycentric[:] = 0
            key = np.int64(0)
            for i in range(n):
                place = np.int64(rank[i, lane])
                value = elevated[i, lane] * down
                barycentric[n - 1 - place] += value
                barycentric[n - place] -= value
                axis_of[n - 1 - place] = i
                key += np.int64(corner[i, lane]) * strides[i]
            barycentric[0] += np.float32(1) + barycentric[n]
            for color in range(n):
                weights[first + lane, column + color] = barycentric[color]
                keys[lane, color] = key
                slots[lane, color] = _slot(key, table)
                seen[lane, color] = table[slots[lane, color], 0]
                key += steps[axis_of[color]]
        for lane in range(here):
            for color in range(n):
                key, slot = keys[lane, color], slots[lane, color]
                if key != last_key[color]:
                    if seen[lane, color] != key:
                        if 2 * count >= table.shape[0]:
                            table = _grown(vertices[:count], 2 * table.shape[0])
                        slot = _find(key, _slot(key, table), table)
                        if table[slot, 0] == _FREE:
                            table[slot, 0] = key
                            table[slot, 1] = count
                            vertices[count] = key
                            count += 1
                    elif table[slot, 0] != key:  # the table has grown since it was seen
                        slot = _find(key, _slot(key, table), table)
                    last_key[color] = key
                    last_number[color] = table[slot, 1]
                offsets[first + lane, column + color] = last_number[color]
    return count


@njit(cache=True, nogil=True)
def _merge_bands(
    bounds: Any,
    n: Any,
    keys: Any,
    rows: Any,
    counts: Any,
    first: Any,
    table: Any,
    vertices: Any,
    owners: Any,
    sizes: Any,
) -> None:
    """Number the vertices of all bands in order; `rows` becomes the vertex of each key, or `~copy` where it was met."""
    count, copies = 0, 0
    for band in range(bounds.size - 1):
        for i in range(bounds[band] * n, bounds[band] * n + counts[band]):
            slot = _find(keys[i], _slot(keys[i], table), table)
            if table[slot, 0] == _FREE:
                table[slot, 0] = keys[i]
                table[slot, 1] = count
                vertices[count] = keys[i]
                rows[i] = count
                count += 1
            else:
                owners[copies] = first + table[slot, 1]
                rows[i] = ~copies
                copies += 1
    sizes[0], sizes[1], sizes[2] = count, copies, table.shape[0]


@njit(cache=True, nogil=True)
def number_vertices(
    counters: Any, parts: Any, features: Any, scale: Any, strides: Any, steps: Any, bounds: Any,
    offsets: Any, weights: Any, column: Any, first: Any,
    memory: Any, keys: Any, rows: Any, vertices: Any, owners: Any, sizes: Any,
) -> None:  # fmt: skip
    """Fill columns `column...` of `offsets` (rows from `first` on) and `weights`; 3 stages.

    Bands of pixels, between consecutive `bounds`, number their vertices independently and are merged in order, which
    gives the numbers that a single scan gives. A vertex that an earlier band has met gets, for the later band, a row of
    its own behind the vertices, so that bands can splat at the same time without touching the same row.

    Also written: `vertices`, their keys; `owners`, for each row behind them the vertex it stands for; `memory`, the
    table that finds them; `sizes`, how much of the three is used, and from then on how many vertices each band has met.
    All are as long as points times corners, of which only what is needed is touched; `memory` is twice that and 64.
    """
    bands, n = bounds.size - 1, steps.size
    counts = sizes[3:]
    band = first_part(counters, 0)
    while band < bands:
        low, high = bounds[band], bounds[band + 1]
        counts[band] = _number_band(
            features, low, high, scale, strides, steps, offsets, weights, column, keys[low * n : high * n]
        )
        band = next_part(counters, 0)
    next_stage(counters, 0, bands)

    if first_part(counters, 1) == 0:
        table = _empty_table(memory, max(64, counts.sum() * 7 // 4))
        _merge_bands(bounds, n, keys, rows, counts, first, table, vertices, owners, sizes)
        next_part(counters, 1)
    next_stage(counters, 1, 1)

    band = first_part(counters, 2)
    while band < bands:
        start = bounds[band] * n
        for i in range(start, start + counts[band]):
            rows[i] = first + (rows[i] if rows[i] >= 0 else sizes[0] + ~rows[i])
        for pixel in range(bounds[band], bounds[band + 1]):
            for e in range(column, column + n):
                offsets[pixel, e] = rows[start + offsets[pixel, e]]
        band = next_part(counters, 2)
    next_stage(counters, 2, bands)


@njit(cache=True, nogil=True)
def _neighbors(vertices: Any, table: Any, steps: Any, after: Any, low: Any, high: Any) -> None:
    """after[axis, v] = the next vertex along each axis, or -1. The table is read ahead as in `_number_band`."""
    axes = steps.size
    slots, seen = np.empty(axes, np.int64), np.empty(axes, np.int64)
    for v in range(low, high):
        for axis in range(axes):
            slots[axis] = _slot(vertices[v] + steps[axis], table)
            seen[axis] = table[slots[axis], 0]
        for axis in range(axes):
            key = vertices[v] + steps[axis]
            slot = slots[axis] if seen[axis] == key else _find(key, slots[axis], table)
            after[axis, v] = -1 if table[slot, 0] == _FREE else table[slot, 1]


@njit(cache=True, nogil=True)
def _runs(after: Any, first: Any, chain: Any) -> int:
    """Write the runs of neighbors along one axis to `chain`, sorted by length; return how much of it is used.

    Runs of one length follow one another so that the processor foresees where each ends.
    """
    n = after.size
    follows, lengths = np.zeros(n, np.bool_), np.zeros(n + 1, np.int32)
    for vertex in range(n):
        if after[vertex] >= 0:
            follows[after[vertex]] = True
    heads, sizes = np.empty(n, np.int32), np.empty(n, np.int32)
    runs = 0
    for head in range(n):
        if after[head] < 0 or follows[head]:
            continue
        v, size = after[head], 1
        while v >= 0:
            v, size = after[v], size + 1
        heads[runs], sizes[runs] = head, size
        lengths[size] += size
        runs += 1
    place = 0
    for size in range(n + 1):  # from totals to where the runs of each length begin
        total = lengths[size]
        lengths[size] = place
        place += total
    for run in range(runs):
        begin, v = lengths[sizes[run]], heads[run]
        lengths[sizes[run]] += sizes[run]
        for at in range(begin, begin + sizes[run]):
            chain[at] = first + v
            v = after[v]
        last = begin + sizes[run] - 1
        chain[last] = ~chain[last]
    return place


@njit(cache=True, nogil=True)
def link_runs(
    counters: Any, parts: Any, vertices: Any, table: Any, steps: Any, first: Any, after: Any, chains: Any, lengths: Any
) -> None:
    """Write to `chains` (axes, vertices) the vertices that have a neighbor, run by run; 2 stages.

    The last vertex of a run is stored as `~vertex`. A vertex with no neighbor along an axis is left unchanged by the
    blur along it and is not listed. `lengths` is how much of each row is used, `after` is room for as many numbers.
    """
    part = first_part(counters, 0)
    while part < parts:
        _neighbors(vertices, table, steps, after, vertices.size * part // parts, vertices.size * (part + 1) // parts)
        part = next_part(counters, 0)
    next_stage(counters, 0, parts)

    axis = first_part(counters, 1)
    while axis < steps.size:
        lengths[axis] = _runs(after[axis], first, chains[axis])
        axis = next_part(counters, 1)
    next_stage(counters, 1, steps.size)
