"""Run a compiled function on several threads, none of which waits for a thread that gets no processor time.

Every thread runs the same function from beginning to end. Each stage of it is cut into chunks, which a thread claims
by an atomic counter:

    chunk = first_chunk(counters, stage)
    while chunk < chunks:
        ...
        chunk = next_chunk(counters, stage)
    stage = stage_barrier(counters, stage, chunks)

The barrier waits for chunks, not for threads: a stage is over when all its chunks are done. A helper thread that gets
no processor time claims nothing and delays nobody, which makes the difference on a machine with other load: OpenMP's
barriers wait for every thread. numba's own threading layer is not used, so these functions may be called from any
number of Python threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numba import config, njit, types
from numba.core import cgutils

from atrous.crf.numba_backend.simd import intrinsic

MIN_POINTS_PER_THREAD = 4096  # with fewer, a thread costs more than it saves
CHUNKS_PER_THREAD = 8
_CORES: int = getattr(config, "NUMBA_NUM_THREADS")  # noqa: B009 (set by numba at run time, unknown to type checkers)
_limit: ContextVar[int | None] = ContextVar("threads of the CRF", default=None)
_yield_processor = types.ExternalFunction("sched_yield" if os.name == "posix" else "SwitchToThread", types.int32())


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Limit the number of threads of CRFs that are computed from this Python thread, inside a `with` block."""
    token = _limit.set(threads)
    try:
        yield
    finally:
        _limit.reset(token)


def thread_count(points: int) -> int:
    """Return the number of threads for a number of points: `NUMBA_NUM_THREADS`, by default all cores, or fewer."""
    return max(1, min(_limit.get() or _CORES, points // MIN_POINTS_PER_THREAD))


def chunk_count(points: int) -> int:
    """Return the number of chunks into which each stage is cut for a number of points."""
    threads = thread_count(points)
    return CHUNKS_PER_THREAD * threads if threads > 1 else 1


def run_parallel(points: int, stages: int, function: Callable[..., Any], *args: Any) -> None:
    """Run the compiled `function(counters, chunks, *args)` in parallel by `thread_count(points)` threads.

    It returns as soon as all chunks of all stages are done. A helper thread that starts too late finds no chunk left
    and ends, so there is no need to join it.
    """
    counters, chunks = np.zeros((stages, 2), np.int64), chunk_count(points)
    for _ in range(thread_count(points) - 1):
        threading.Thread(target=function, args=(counters, chunks, *args), daemon=True).start()
    function(counters, chunks, *args)


@intrinsic
def _fetch_add(typingctx: Any, counters: Any, index: Any, value: Any) -> Any:
    """Atomically add to a flat int64 array; returns the value before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(counters)(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "seq_cst")

    return types.int64(counters, types.int64, types.int64), codegen


@njit(cache=True, nogil=True)
def first_chunk(counters: Any, stage: Any) -> Any:
    """Claim a chunk of the stage; a result at or above the number of chunks means that none is left."""
    return _fetch_add(counters, 2 * stage, 1)


@njit(cache=True, nogil=True)
def next_chunk(counters: Any, stage: Any) -> Any:
    """Count the claimed chunk as done and claim another, as `first_chunk`."""
    _fetch_add(counters, 2 * stage + 1, 1)
    return _fetch_add(counters, 2 * stage, 1)


@njit(cache=True, nogil=True)
def stage_barrier(counters: Any, stage: Any, chunks: Any) -> Any:
    """Wait until all chunks of the stage are done; returns the number of the next stage."""
    tries = 0
    while _fetch_add(counters, 2 * stage + 1, 0) < chunks:
        tries += 1
        if tries > 100:
            _yield_processor()
    return stage + 1


@njit(cache=True, nogil=True, inline="always")
def chunk_range(size: Any, chunk: Any, chunks: Any) -> Any:
    """Return the first and the last index, the latter excluded, of a chunk of `size` elements."""
    return size * chunk // chunks, size * (chunk + 1) // chunks
