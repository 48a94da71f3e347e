"""Compiled construction of a permutohedral lattice: embed the pixels and number the vertices of every band of pixels.

Everything about a vertex follows from one 64-bit key, *linear* in its coordinates: `key(v) = sum_i v_i stride_i`;
the d + 1 corners of a simplex and the two neighbors along an axis are the key plus or minus a constant `steps[axis]`.
No coordinate vector is ever stored or compared. `link_jit` goes on from there: it merges the bands and links neighbors.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010,
section 3 and p. 5, 6, 10; the order of the float32 operations is that of Krähenbühl's `permutohedral.cpp`, so that a
feature falls into the same simplex as there, to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.simd import (
    EIGHT,
    LANES,
    ONE,
    broadcast,
    less,
    load,
    nearest,
    prefetch,
    select_zero,
    store,
)
from atrous.crf.numba_backend.threads import chunk_range, first_chunk, next_chunk, stage_barrier

FREE = np.int64(-(2**63))  # marks an empty slot; no packed key reaches it
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
def empty_table(memory: Any, slots: Any) -> Any:
    """Make an empty open-addressing hash table in the first `slots` rows of `memory`.

    Its rows are (key, number), which takes one memory access for both; a free one is (FREE, -1).
    """
    table = memory[:slots]
    for slot in range(slots):
        table[slot, 0] = FREE
        table[slot, 1] = -1
    return table


@njit(cache=True, nogil=True, inline="always")
def first_slot(key: Any, table: Any) -> Any:
    """Return the slot at which the search for `key` begins: the high 32 bits of its hash, scaled to the table."""
    return ((((key * _GOLDEN) >> 32) & _LOW_32) * table.shape[0]) >> 32


@njit(cache=True, nogil=True, inline="always")
def find_slot(key: Any, slot: Any, table: Any) -> Any:
    """Return the slot, from `slot` on, that holds `key`, or the free one in which to put it."""
    while table[slot, 0] != key and table[slot, 0] != FREE:
        slot = slot + 1 if slot + 1 < table.shape[0] else 0
    return slot


@njit(cache=True, nogil=True)
def _enlarged_table(vertices: Any, slots: Any) -> Any:
    """Make a table of `slots` slots with `vertices` numbered in order."""
    table = empty_table(np.empty((slots, 2), np.int64), slots)
    for number in range(vertices.size):
        slot = find_slot(vertices[number], first_slot(vertices[number], table), table)
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
    size, one, zero = broadcast(np.float32(n), EIGHT), broadcast(np.float32(1), EIGHT), broadcast(np.float32(0), EIGHT)
    down = broadcast(np.float32(1) / np.float32(n), EIGHT)
    total = zero
    for j in range(n - 1, 0, -1):
        component = load(point, (j - 1) * LANES, EIGHT) * broadcast(scale[j - 1], EIGHT)
        store(elevated, j * LANES, total - broadcast(np.float32(j), EIGHT) * component)
        total = total + component
    store(elevated, 0, total)
    excess = zero
    for i in range(n):
        y = load(elevated, i * LANES, EIGHT)
        color = nearest(down * y)
        excess = excess + color
        store(corner, i * LANES, color * size)
        store(elevated, i * LANES, y - color * size)
        store(rank, i * LANES, zero)
    for i in range(n - 1):
        di, own = load(elevated, i * LANES, EIGHT), load(rank, i * LANES, EIGHT)
        for j in range(i + 1, n):
            below = less(di, load(elevated, j * LANES, EIGHT))
            own = own + below
            store(rank, j * LANES, load(rank, j * LANES, EIGHT) + (one - below))
        store(rank, i * LANES, own)
    for i in range(n):  # a corner off the plane is brought back to it
        place = load(rank, i * LANES, EIGHT) + excess
        shift = size * (less(place, zero) - less(size - one, place))
        store(rank, i * LANES, place + shift)
        store(corner, i * LANES, load(corner, i * LANES, EIGHT) + shift)
        store(elevated, i * LANES, load(elevated, i * LANES, EIGHT) - shift)


@njit(cache=True, nogil=True)
def _group_new(corner: Any, rank: Any, block: Any, new: Any, count: Any, strides: Any, groups: Any, first: Any) -> None:
    """Write groups[:, first...] of `count` vertices: sums of coordinates times strides, hashed to 32 bits.

    `new`: for each, the pixel of the block times n plus the color of the corner.
    """
    n = strides.shape[1]
    for k in range(count):
        lane, color = new[k] // n, new[k] % n
        for r in range(strides.shape[0]):
            total = np.int64(0)
            for i in range(n):
                wrapped = n if np.int64(rank[block, i, lane]) >= n - color else 0
                total += (np.int64(corner[block, i, lane]) + color - wrapped) * strides[r, i]
            groups[r, first + k] = np.uint32(((total * _GOLDEN) >> 32) & _LOW_32)


@njit(cache=True, nogil=True)
def _shares(elevated: Any, rank: Any, shares: Any) -> None:
    """Compute the barycentric weights (n + 1, 8) of eight pixels from `_embed`; the last row is scratch.

    The weight of color c is the difference of the coordinates of place n - 1 - c and of place n - c.
    """
    n = elevated.shape[0]
    zero, one = broadcast(np.float32(0), EIGHT), broadcast(np.float32(1), EIGHT)
    down = broadcast(np.float32(1) / np.float32(n), EIGHT)
    for place in range(n):
        value = zero
        for i in range(n):
            away = load(rank, i * LANES, EIGHT) - broadcast(np.float32(place), EIGHT)
            value = value + select_zero(away, load(elevated, i * LANES, EIGHT) * down)
        store(shares, (n - place) * LANES, value)
    last = load(shares, n * LANES, EIGHT)
    first = load(shares, LANES, EIGHT)
    for color in range(1, n):
        following = load(shares, (color + 1) * LANES, EIGHT)
        store(shares, color * LANES, following - load(shares, color * LANES, EIGHT))
    store(shares, 0, first + (one - last))


@njit(cache=True, nogil=True)
def _corner_keys(corner: Any, rank: Any, block: Any, strides: Any, steps: Any, step_to: Any, keys: Any) -> None:
    """Compute keys[block], those of all corners of eight pixels, (8, n); `step_to` (n,) is scratch."""
    n = steps.size
    for lane in range(LANES):
        key = np.int64(0)
        for i in range(n):
            step_to[n - 1 - np.int64(rank[block, i, lane])] = steps[i]
            key += np.int64(corner[block, i, lane]) * strides[i]
        for color in range(n):
            keys[block, lane, color] = key
            key += step_to[color]


@njit(cache=True, nogil=True)
def _number_band(
    features: Any, low: Any, high: Any, scale: Any, strides: Any, steps: Any,
    group_strides: Any, corner_rows: Any, barycentric: Any, column: Any, vertices: Any, groups: Any,
) -> int:  # fmt: skip
    """Embed pixels low..high and number their vertices in order of first use into `vertices`; returns their number.

    `groups` (rounds, vertices) becomes the group of each vertex in each round of the blur, as 32 bits. Consecutive
    pixels often share corners, so a corner is looked up only where it differs from the last pixel's. Eight pixels are
    embedded, and their places in the table prefetched, before the eight pixels before them are looked up.
    """
    n = steps.size
    point, elevated = np.zeros((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    shares = np.empty((n + 1, LANES), np.float32)
    corner, rank = np.empty((2, n, LANES), np.float32), np.empty((2, n, LANES), np.float32)
    keys, step_to = np.empty((2, LANES, n), np.int64), np.empty(n, np.int64)
    last_key, last_number = np.full(n, FREE, np.int64), np.zeros(n, np.int32)
    new = np.empty(LANES * n, np.int64)
    slots = max(64, high - low)
    table, known, count = empty_table(np.empty((slots, 2), np.int64), slots), 0, 0
    for first in range(low, high + LANES, LANES):
        now, before = (first - low) // LANES % 2, 1 - (first - low) // LANES % 2
        for lane in range(min(LANES, high - first)):
            for i in range(n - 1):
                point[i, lane] = features[first + lane, i]
        if first < high:
            _embed(point, scale, elevated, corner[now], rank[now])
            _shares(elevated, rank[now], shares)
            _corner_keys(corner, rank, now, strides, steps, step_to, keys)
            for lane in range(min(LANES, high - first)):
                for color in range(n):
                    barycentric[first + lane, column + color] = shares[color, lane]
                    prefetch(table, 2 * first_slot(keys[now, lane, color], table), ONE)
        for lane in range(min(LANES, high - first + LANES) if first > low else 0):
            for color in range(n):
                key = keys[before, lane, color]
                if key != last_key[color]:
                    slot = find_slot(key, first_slot(key, table), table)
                    if table[slot, 0] == FREE:
                        if 2 * count >= table.shape[0]:
                            table = _enlarged_table(vertices[:count], 4 * table.shape[0])
                            slot = find_slot(key, first_slot(key, table), table)
                        table[slot, 0] = key
                        table[slot, 1] = count
                        vertices[count] = key
                        new[count - known] = lane * n + color
                        count += 1
                    last_key[color] = key
                    last_number[color] = table[slot, 1]
                corner_rows[first - LANES + lane, column + color] = last_number[color]
        _group_new(corner, rank, before, new, count - known, group_strides, groups, known)
        known = count
    return count


@njit(cache=True, nogil=True)
def number_bands(
    counters: Any, chunks: Any, features: Any, scale: Any, strides: Any, steps: Any, group_strides: Any, bounds: Any,
    corner_rows: Any, barycentric: Any, column: Any, keys: Any, groups: Any, counts: Any,
) -> None:  # fmt: skip
    """Number the vertices of each band of pixels, between consecutive `bounds`, on their own.

    Fills columns `column...` of `barycentric`, and of `corner_rows` with the numbers within the band. The keys of a
    band's vertices and their groups (rounds, ...) lie from its first pixel times corners on; `counts`: their numbers.
    """
    n = steps.size
    band = first_chunk(counters, 0)
    while band < bounds.size - 1:
        low, high = bounds[band], bounds[band + 1]
        counts[band] = _number_band(
            features, low, high, scale, strides, steps, group_strides,
            corner_rows, barycentric, column, keys[low * n : high * n], groups[:, low * n : high * n],
        )  # fmt: skip
        band = next_chunk(counters, 0)
    stage_barrier(counters, 0, bounds.size - 1)
