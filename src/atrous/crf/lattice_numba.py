"""Numba kernels that build a permutohedral lattice: embed the pixels, number the vertices, link neighbours into runs.

Everything about a vertex follows from one 64-bit key that is *linear* in its coordinates, `key(v) = sum_i v_i stride_i`:
the d + 1 corners of a simplex and the two neighbours along an axis are the key plus or minus a constant `steps[axis]`.
No coordinate vector is ever stored or compared.

*Source:* Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010,
section 3 and p. 5, 6, 10; the order of the float32 operations is that of Krähenbühl's `permutohedral.cpp`, so that a
feature falls into the same simplex as there, to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from atrous.crf.simd import LANES, less, load, nearest, splat, store

_FREE = np.int64(-(2**63))  # marks an empty slot; no packed key reaches it
_GOLDEN = np.int64(-7046029254386353131)  # 2^64 / golden ratio, as a signed number: Fibonacci hashing
_LOW_32 = np.int64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def _empty_table(slots: int) -> Any:
    """An open-addressing table: rows of (key, number), one memory access for both."""
    table = np.empty((slots, 2), np.int64)
    table[:, 0] = _FREE
    return table


@njit(cache=True, nogil=True, inline="always")
def _find(key: Any, table: Any) -> Any:
    """The slot that holds `key`, or the free one where it belongs (the high 32 bits of the hash choose where to start)."""
    slot = ((((key * _GOLDEN) >> 32) & _LOW_32) * table.shape[0]) >> 32
    while table[slot, 0] != key and table[slot, 0] != _FREE:
        slot = slot + 1 if slot + 1 < table.shape[0] else 0
    return slot


@njit(cache=True, nogil=True)
def _filled(vertices: Any, slots: int) -> Any:
    """A table of `slots` slots with `vertices` numbered in order."""
    table = _empty_table(slots)
    for number in range(vertices.size):
        slot = _find(vertices[number], table)
        table[slot, 0] = vertices[number]
        table[slot, 1] = number
    return table


@njit(cache=True, nogil=True)
def _enclose(point: Any, scale: Any, elevated: Any, corner: Any, rank: Any) -> None:
    """Find the simplex around eight features at once: rows of `point` are dimensions, columns pixels.

    `elevated` becomes y = E p, the feature in the plane sum y = 0 of d + 1 dimensions (Adams et al., p. 5), minus
    `corner`, the 0-coloured corner of its simplex; `rank` is the place of each coordinate in the falling order.
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
        colour = nearest(down * y)
        excess = excess + colour
        store(corner, i * LANES, colour * size)
        store(elevated, i * LANES, y - colour * size)
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
    features: Any, low: int, high: int, scale: Any, strides: Any, steps: Any,
    offsets: Any, weights: Any, column: int, vertices: Any,
) -> int:  # fmt: skip
    """Embed pixels low..high; number their vertices in order of first touch into `vertices`; return how many.

    Consecutive pixels often share corners, so a corner is looked up only where it differs from the last pixel's.
    """
    n = steps.size
    down = np.float32(1) / np.float32(n)
    point, elevated = np.zeros((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    corner, rank = np.empty((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    barycentric, axis_of = np.empty(n + 1, np.float32), np.empty(n, np.int64)
    last_key, last_number = np.full(n, _FREE, np.int64), np.zeros(n, np.int32)
    table = _empty_table(max(64, high - low))
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
            for colour in range(n):
                if key != last_key[colour]:
                    slot = _find(key, table)
                    if table[slot, 0] == _FREE:
                        table[slot, 0] = key
                        table[slot, 1] = count
                        vertices[count] = key
                        count += 1
                        if 2 * count > table.shape[0]:
                            table = _filled(vertices[:count], 2 * table.shape[0])
                            slot = _find(key, table)
                    last_key[colour] = key
                    last_number[colour] = table[slot, 1]
                offsets[first + lane, column + colour] = last_number[colour]
                weights[first + lane, column + colour] = barycentric[colour]
                key += steps[axis_of[colour]]
    return count


@njit(cache=True, parallel=True, nogil=True)
def number_vertices(
    features: Any, scale: Any, strides: Any, steps: Any, bounds: Any, offsets: Any, weights: Any, column: int, first: int
) -> Any:
    """Fill columns `column...` of `offsets` (rows from `first` on) and `weights`.

    Bands of pixels, between consecutive `bounds`, number their vertices independently and are merged in order, which
    gives the numbers that a single scan gives. A vertex that an earlier band has met gets, for the later band, a row of
    its own behind the vertices, so that bands can splat at the same time without touching the same row.

    Returns the keys of the vertices, the table that finds them, and for each row behind them the vertex it stands for.
    """
    bands, n = bounds.size - 1, steps.size
    keys = np.empty(features.shape[0] * n, np.int64)  # only the used beginning of a band's part is ever touched
    rows = np.empty(features.shape[0] * n, np.int32)
    counts = np.zeros(bands, np.int64)
    for band in prange(bands):
        low, high = bounds[band], bounds[band + 1]
        counts[band] = _number_band(
            features, low, high, scale, strides, steps, offsets, weights, column, keys[low * n : high * n]
        )
    most = counts.sum()
    table = _empty_table(max(64, most * 7 // 4))
    vertices, owners = np.empty(most, np.int64), np.empty(most, np.int32)
    count, copies = 0, 0
    for band in range(bands):
        for i in range(bounds[band] * n, bounds[band] * n + counts[band]):
            slot = _find(keys[i], table)
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
    for band in prange(bands):
        start = bounds[band] * n
        for i in range(start, start + counts[band]):
            rows[i] = first + (rows[i] if rows[i] >= 0 else count + ~rows[i])
        for pixel in range(bounds[band], bounds[band + 1]):
            for e in range(column, column + n):
                offsets[pixel, e] = rows[start + offsets[pixel, e]]
    return vertices[:count], table, owners[:copies]


@njit(cache=True, parallel=True, nogil=True)
def _neighbours(vertices: Any, table: Any, steps: Any) -> Any:
    """The next vertex along each axis, or -1: int32 (axes, vertices)."""
    after = np.empty((steps.size, vertices.size), np.int32)
    for v in prange(vertices.size):
        for axis in range(steps.size):
            slot = _find(vertices[v] + steps[axis], table)
            after[axis, v] = -1 if table[slot, 0] == _FREE else table[slot, 1]
    return after


@njit(cache=True, nogil=True)
def _runs(after: Any, first: int, chain: Any) -> int:
    """Write the runs of neighbours along one axis to `chain`, sorted by length; return how much of it is used.

    Runs of one length follow one another so that the processor foresees where each ends.
    """
    n = after.size
    follows, lengths = np.zeros(n, np.bool_), np.zeros(n + 1, np.int32)
    for v in range(n):
        if after[v] >= 0:
            follows[after[v]] = True
    heads, sizes = np.empty(n, np.int32), np.empty(n, np.int32)
    runs = 0
    for head in range(n):
        if after[head] < 0 or follows[head]:
            continue
        v, size = np.int64(after[head]), 1
        while v >= 0:
            v = np.int64(after[v])
            size += 1
        heads[runs], sizes[runs] = head, size
        lengths[size] += size
        runs += 1
    place = 0
    for size in range(n + 1):  # from totals to where the runs of each length begin
        total = lengths[size]
        lengths[size] = place
        place += total
    for run in range(runs):
        at, v = np.int64(lengths[sizes[run]]), np.int64(heads[run])
        lengths[sizes[run]] += sizes[run]
        for _ in range(sizes[run]):
            chain[at] = first + v
            at += 1
            v = np.int64(after[v])
        chain[at - 1] = ~chain[at - 1]
    return place


@njit(cache=True, parallel=True, nogil=True)
def link_runs(vertices: Any, table: Any, steps: Any, first: int) -> Any:
    """Along each axis the vertices that have a neighbour, run by run: int32 (axes, vertices), and the length used.

    The last vertex of a run is stored as `~vertex`. A vertex with no neighbour along an axis is left unchanged by the
    blur along it and is not listed.
    """
    after = _neighbours(vertices, table, steps)
    chains = np.empty((steps.size, vertices.size), np.int32)
    lengths = np.zeros(steps.size, np.int64)
    for axis in prange(steps.size):
        lengths[axis] = _runs(after[axis], first, chains[axis])
    return chains, lengths
