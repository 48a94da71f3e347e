"""Keep freed memory in the process, so that activations of the next image or step reuse pages instead of new ones.

By default the C library of most Linux systems (glibc) returns every large block to the kernel as soon as it is freed.
The kernel then has to map and clear each page of the next activation again, which takes a considerable part of a
forward pass on a CPU, and most of it where several processes compete for memory.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

KEEP_MEMORY = "ATROUS_KEEP_MEMORY"
"""The environment variable that turns the setting off: 0."""

_OWN_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Environment variables of glibc for the same purpose; where one is set, it wins."""

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks for reuse in this process; return whether it does.

    Memory in use does not change, but the process stays at its peak size until it ends or calls
    `release_freed_memory`. Only the first call has an effect. Without glibc (musl, macOS, Windows), with
    `ATROUS_KEEP_MEMORY=0`, or if one of glibc's own variables (`MALLOC_TRIM_THRESHOLD_`, ...) is set, nothing changes.

    Source: mallopt(3).
    """
    if os.environ.get(KEEP_MEMORY) == "0" or any(name in os.environ for name in _OWN_SETTINGS) or not _has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Large blocks come from the heap instead of mappings of their own, and the heap never shrinks. A larger
    # M_MMAP_THRESHOLD would do less: glibc before 2.35 refuses more than 32 MiB, and activations are often larger.
    kept = mallopt(_M_MMAP_MAX, 0) == 1 and mallopt(_M_TRIM_THRESHOLD, -1) == 1
    # The heaps of other threads end at 64 MiB and are unmapped once they are empty: new threads use the main one.
    return kept and mallopt(_M_ARENA_MAX, 1) == 1


def release_freed_memory() -> bool:
    """Return kept memory to the system; return whether there can be any, so that measuring free memory again pays."""
    return keep_freed_memory() and ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0)) == 1


def _has_glibc() -> bool:
    return sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names
