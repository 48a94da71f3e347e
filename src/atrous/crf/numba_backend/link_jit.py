"""Compiled linking of a lattice: merge the vertices of all bands, and link neighbors into runs, group by group.

The blur takes the axes in rounds, half of them at a time. A step along an axis adds 1 to every coordinate but the axis'
own, so the differences between the coordinates of the *other* axes do not change in a round: vertices with the same
differences form a group, and no run leaves its group. Groups, hashed to a number of buckets, are linked with a table
that fits in the cache, and a bucket's values stay in the cache through all axes of a round. The vertices are numbered
bucket by bucket of the last round.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.lattice_jit import FREE, empty_table, find_slot, first_slot
from atrous.crf.numba_backend.threads import first_chunk, next_chunk, stage_barrier

SLOTS = 4  # of a bucket's table per vertex: with fewer, more searches go beyond their first slot


@njit(cache=True, nogil=True, inline="always")
def _bucket(group: Any, buckets: Any) -> Any:
    return (np.int64(group) * buckets) >> 32


@njit(cache=True, nogil=True)
def _sort_by_bucket(groups: Any, spans: Any, order: Any, starts: Any) -> None:
    """Sort the indices of `spans` (parts, 2) by bucket, stably: bucket b holds order[starts[b]:starts[b + 1]]."""
    buckets = starts.size - 1
    starts[:] = 0
    for part in range(spans.shape[0]):
        for i in range(spans[part, 0], spans[part, 1]):
            starts[_bucket(groups[i], buckets) + 1] += 1
    for b in range(buckets):
        starts[b + 1] += starts[b]
    position = starts[:-1].copy()
    for part in range(spans.shape[0]):
        for i in range(spans[part, 0], spans[part, 1]):
            b = _bucket(groups[i], buckets)
            order[position[b]] = i
            position[b] += 1


@njit(cache=True, nogil=True)
def sort_bands(counters: Any, chunks: Any, groups: Any, bands: Any, order: Any, starts: Any) -> None:
    """Sort the vertices of each band, bands[band, 0] to bands[band, 1], by their bucket in the last round.

    Shape: `starts` (bands, buckets + 1). `order` of a band begins where its vertices do.
    """
    band = first_chunk(counters, 0)
    while band < bands.shape[0]:
        _sort_by_bucket(groups, bands[band : band + 1], order[bands[band, 0] :], starts[band])
        band = next_chunk(counters, 0)
    stage_barrier(counters, 0, bands.shape[0])


@njit(cache=True, nogil=True)
def _merge_bucket(
    bucket: Any, keys: Any, groups: Any, bands: Any, order: Any, starts: Any, first_row: Any, low: Any, high: Any,
    rows: Any, vertices: Any, vertex_groups: Any, owners: Any, table: Any,
) -> int:  # fmt: skip
    """Give each vertex of a bucket an index from `low` on, and each repetition in a later band one below `high`.

    `rows` becomes the row of every vertex of every band. Returns the index after the last vertex.
    """
    index, copy = low, high
    for band in range(bands.shape[0]):
        for at in range(starts[band, bucket], starts[band, bucket + 1]):
            i = np.int64(order[bands[band, 0] + at])
            slot = find_slot(keys[i], first_slot(keys[i], table), table)
            if table[slot, 0] == FREE:
                table[slot, 0] = keys[i]
                table[slot, 1] = index - low
                vertices[index] = keys[i]
                for r in range(vertex_groups.shape[0]):
                    vertex_groups[r, index] = groups[r, i]
                rows[i] = first_row + index
                index += 1
            else:
                copy -= 1
                owners[copy] = first_row + low + table[slot, 1]
                rows[i] = first_row + copy
    return index


@njit(cache=True, nogil=True)
def _follow(keys: Any, members: Any, table: Any, step: Any, following: Any) -> None:
    """Find which member of a bucket is the next neighbor of each along one axis, or -1, the number in a free slot."""
    for i in range(members.size):
        key = keys[members[i]] + step
        following[i] = table[find_slot(key, first_slot(key, table), table), 1]


@njit(cache=True, nogil=True)
def _write_runs(following: Any, members: Any, first_row: Any, runs: Any) -> int:
    """Write the runs of neighbors along one axis to `runs`, sorted by length; returns its used length.

    Runs of equal length are adjacent so that the processor predicts the end of each. The last vertex of a run is stored
    as `~row`. A vertex with no neighbor along the axis is left unchanged by the blur along it and is not listed.
    """
    n = following.size
    follows, lengths = np.zeros(n + 1, np.uint8), np.zeros(n + 1, np.int32)
    for vertex in range(n):
        follows[1 + following[vertex]] = 1  # place 0 is for none
    heads, sizes = np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
    count, longest = 0, 0
    for vertex in range(n):  # without a branch, which would be mispredicted
        heads[count] = vertex
        count += int((following[vertex] >= 0) & (follows[1 + vertex] == 0))
    for run in range(count):
        v, size = following[heads[run]], 1
        while v >= 0:
            v, size = following[v], size + 1
        sizes[run] = size
        lengths[size] += size
        longest = max(longest, size)
    start = 0
    for size in range(longest + 1):  # from totals to the start of the runs of each length
        total = lengths[size]
        lengths[size] = start
        start += total
    for run in range(count):
        begin, v = lengths[sizes[run]], heads[run]
        lengths[sizes[run]] += sizes[run]
        for at in range(begin, begin + sizes[run]):
            runs[at] = first_row + members[v]
            v = following[v]
        last = begin + sizes[run] - 1
        runs[last] = ~runs[last]
    return start


@njit(cache=True, nogil=True)
def _link_bucket(
    keys: Any, members: Any, table: Any, steps: Any, first_row: Any, start: Any, runs: Any, segments: Any
) -> None:
    """Write the runs of a bucket along the axes of one round to `runs` from `start` on; `segments` (axes, 2): where."""
    following = np.empty(members.size, np.int32)
    for axis in range(steps.size):
        low = start + axis * members.size
        _follow(keys, members, table, steps[axis], following)
        used = _write_runs(following, members, first_row, runs[low : low + members.size])
        segments[axis, 0], segments[axis, 1] = low, low + used


@njit(cache=True, nogil=True)
def merge_bands(
    counters: Any, chunks: Any, keys: Any, groups: Any, bands: Any, order: Any, starts: Any, offsets: Any,
    first_row: Any, steps: Any, rows: Any, vertices: Any, vertex_groups: Any, owners: Any, spans: Any,
    runs: Any, segments: Any,
) -> None:  # fmt: skip
    """Merge the vertices of all bands, bucket by bucket, and link them along the axes of the last round.

    A bucket has the indices from offsets[bucket] to offsets[bucket + 1], first of its vertices, spans[bucket, 0] to
    spans[bucket, 1], then of the copies of vertices that several bands have. A row is `first_row` and the index.
    Written: see `_merge_bucket` and `_link_bucket`. `steps`: of the axes of the last round.
    """
    largest = 0
    for bucket in range(spans.shape[0]):
        largest = max(largest, offsets[bucket + 1] - offsets[bucket])
    memory = np.empty((max(16, SLOTS * largest), 2), np.int64)
    bucket = first_chunk(counters, 0)
    while bucket < spans.shape[0]:
        low, high = offsets[bucket], offsets[bucket + 1]
        table = empty_table(memory, max(16, SLOTS * (high - low)))
        last = _merge_bucket(
            bucket, keys, groups, bands, order, starts, first_row, low, high,
            rows, vertices, vertex_groups, owners, table,
        )  # fmt: skip
        spans[bucket, 0], spans[bucket, 1] = low, last
        members = np.arange(low, last).astype(np.int32)
        _link_bucket(vertices, members, table, steps, first_row, low * steps.size, runs, segments[bucket])
        bucket = next_chunk(counters, 0)
    stage_barrier(counters, 0, spans.shape[0])


@njit(cache=True, nogil=True)
def relabel_corners(counters: Any, chunks: Any, bounds: Any, n: Any, column: Any, rows: Any, corner_rows: Any) -> None:
    """Replace the numbers within the band in columns `column...` of `corner_rows` by rows."""
    band = first_chunk(counters, 0)
    while band < bounds.size - 1:
        start = bounds[band] * n
        for pixel in range(bounds[band], bounds[band + 1]):
            for e in range(column, column + n):
                corner_rows[pixel, e] = rows[start + corner_rows[pixel, e]]
        band = next_chunk(counters, 0)
    stage_barrier(counters, 0, bounds.size - 1)


@njit(cache=True, nogil=True)
def link_round(
    counters: Any, chunks: Any, vertices: Any, groups: Any, spans: Any, first_row: Any, steps: Any,
    order: Any, starts: Any, runs: Any, segments: Any,
) -> None:  # fmt: skip
    """Sort the vertices, those of `spans`, by their bucket in one round, and link each along its axes; 2 stages.

    `order` and `starts` are scratch; `runs` and `segments` as in `_link_bucket`.
    """
    if first_chunk(counters, 0) == 0:
        _sort_by_bucket(groups, spans, order, starts)
        next_chunk(counters, 0)
    stage_barrier(counters, 0, 1)

    largest = 0
    for bucket in range(segments.shape[0]):
        largest = max(largest, starts[bucket + 1] - starts[bucket])
    memory = np.empty((max(16, SLOTS * largest), 2), np.int64)
    bucket = first_chunk(counters, 1)
    while bucket < segments.shape[0]:
        members = order[starts[bucket] : starts[bucket + 1]]
        table = empty_table(memory, max(16, SLOTS * members.size))
        for i in range(members.size):
            key = vertices[members[i]]
            slot = find_slot(key, first_slot(key, table), table)
            table[slot, 0] = key
            table[slot, 1] = i
        _link_bucket(vertices, members, table, steps, first_row, starts[bucket] * steps.size, runs, segments[bucket])
        bucket = next_chunk(counters, 1)
    stage_barrier(counters, 1, segments.shape[0])
