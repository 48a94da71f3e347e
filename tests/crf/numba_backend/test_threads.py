"""Threads: their number, their limit, and that each chunk is computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from atrous.crf.numba_backend import threads
from atrous.crf.numba_backend.threads import chunk_range, first_chunk, next_chunk, run_parallel, stage_barrier


@njit(nogil=True)
def add_then_sum(counters: Any, chunks: Any, values: Any, totals: Any) -> None:
    """First stage: add 1 to every value; second stage: sum all of them in every chunk."""
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(values.size, chunk, chunks)
        values[low:high] += 1
        chunk = next_chunk(counters, 0)
    stage = stage_barrier(counters, 0, chunks)

    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        totals[chunk] = values.sum()
        chunk = next_chunk(counters, stage)
    stage_barrier(counters, stage, chunks)


@pytest.mark.parametrize("cores", [1, 4])
def test_a_stage_begins_when_the_one_before_is_done(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_CORES", cores)
    points = 5 * threads.MIN_POINTS_PER_THREAD
    totals = np.zeros(threads.chunk_count(points))
    run_parallel(points, 2, add_then_sum, np.zeros(points), totals)
    assert len(totals) == (1 if cores == 1 else cores * threads.CHUNKS_PER_THREAD)
    assert set(totals) == {points}


def test_number_and_limit_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_CORES", 4)
    points = threads.MIN_POINTS_PER_THREAD
    assert [threads.thread_count(n) for n in (1, points, 3 * points, 99 * points)] == [1, 1, 3, 4]
    with threads.limit_threads(2):
        assert threads.thread_count(99 * points) == 2
    assert threads.thread_count(99 * points) == 4
