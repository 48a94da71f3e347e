"""Threads that share out the parts of a numba kernel, and never wait for one another's turn on the processor.

Every thread of a team runs the same kernel from beginning to end. Each stage of it is cut into parts, which a thread
claims by an atomic counter:

    part = first_part(counters, stage)
    while part < parts:
        ...
        part = next_part(counters, stage)
    stage = next_stage(counters, stage, parts)

A stage is over when all its parts are done. A helper that gets no processor time claims nothing and holds nobody up,
which makes the difference on a machine that others use too: OpenMP's barriers wait for every thread. Nothing here
touches numba's own threading layer, so kernels may be entered from any number of Python threads.
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

POINTS_PER_THREAD = 4096  # below this a thread costs more than it saves
PARTS_PER_THREAD = 8
_CORES: int = getattr(config, "NUMBA_NUM_THREADS")  # noqa: B009 (set by numba at run time, unknown to type checkers)
_limit: ContextVar[int | None] = ContextVar("threads of the CRF", default=None)
_yield_to_others = types.ExternalFunction("sched_yield" if os.name == "posix" else "SwitchToThread", types.int32())


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """Let kernels called from this Python thread use no more than so many threads."""
    token = _limit.set(threads)
    try:
        yield
    finally:
        _limit.reset(token)


def thread_count(points: int) -> int:
    """How many threads a kernel over so many points gets: `NUMBA_NUM_THREADS`, by default all cores, or fewer."""
    return max(1, min(_limit.get() or _CORES, points // POINTS_PER_THREAD))


def parts_for(points: int) -> int:
    """Into how many parts the stages of a kernel over so many points are cut."""
    threads = thread_count(points)
    return PARTS_PER_THREAD * threads if threads > 1 else 1


def together(points: int, stages: int, kernel: Callable[..., Any], *args: Any) -> None:
    """Run `kernel(counters, parts, *args)` by a team.

    It returns as soon as all parts of all stages are done. A helper that comes too late finds nothing left to claim and
    ends, so there is no need to wait for it.
    """
    counters, parts = np.zeros((stages, 2), np.int64), parts_for(points)
    for _ in range(thread_count(points) - 1):
        threading.Thread(target=kernel, args=(counters, parts, *args), daemon=True).start()
    kernel(counters, parts, *args)


@intrinsic
def _fetch_add(typingctx: Any, counters: Any, index: Any, value: Any) -> Any:
    """Atomically add to a flat int64 array; the value before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(counters)(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "seq_cst")

    return types.int64(counters, types.int64, types.int64), codegen


@njit(cache=True, nogil=True)
def first_part(counters: Any, stage: Any) -> Any:
    """Claim a part of the stage; there is none left when it is not below the number of parts."""
    return _fetch_add(counters, 2 * stage, 1)


@njit(cache=True, nogil=True)
def next_part(counters: Any, stage: Any) -> Any:
    """Report the part just done and claim another."""
    _fetch_add(counters, 2 * stage + 1, 1)
    return _fetch_add(counters, 2 * stage, 1)


@njit(cache=True, nogil=True)
def next_stage(counters: Any, stage: Any, parts: Any) -> Any:
    """Wait until all parts of the stage are done; the number of the next stage."""
    tries = 0
    while _fetch_add(counters, 2 * stage + 1, 0) < parts:
        tries += 1
        if tries > 100:
            _yield_to_others()
    return stage + 1
