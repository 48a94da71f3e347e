"""Freed memory is kept for reuse where glibc is used, unless an environment variable turns it off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from atrous import allocator

HAS_GLIBC = sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names
needs_glibc = pytest.mark.skipif(not HAS_GLIBC, reason="only glibc has this setting")

COUNT_FAULTS = """
import resource, threading
import numpy as np
from atrous.allocator import keep_freed_memory

kept = keep_freed_memory()
def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(megabytes * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def measure():
    print(kept, *(faults(megabytes) for _ in range(2) for megabytes in (160, 40)))
measure()
thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""
"""Print for the main thread and another: whether memory is kept, and the page faults of two blocks, twice."""


def run(code: str, **environment: str) -> list[list[str]]:
    """Run code in a process without settings of the allocator, and return the words of the lines it prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "ATROUS_KEEP"))}
    environment = {"NUMPY_MADVISE_HUGEPAGE": "0", **environment}  # huge pages would hide most faults
    result = subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return [line.split() for line in result.stdout.splitlines()]


@needs_glibc
def test_freed_blocks_are_reused_in_every_thread() -> None:
    for kept, *_, large, small in run(COUNT_FAULTS):
        assert kept == "True"
        assert int(large) < 10
        assert int(small) < 10


@needs_glibc
@pytest.mark.parametrize("name", ["ATROUS_KEEP_MEMORY", "MALLOC_TRIM_THRESHOLD_"])
def test_an_environment_variable_leaves_the_system_as_it_is(name: str) -> None:
    for kept, *_, large, _ in run(COUNT_FAULTS, **{name: "0"}):
        assert kept == "False"
        assert int(large) > 50  # 160 MiB are 40,960 pages, or 80 where the system uses huge ones for everything


@needs_glibc
def test_released_memory_returns_to_the_system() -> None:
    code = """
import numpy as np
from atrous.allocator import keep_freed_memory, release_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
keep_freed_memory()
start = resident()
np.ones(200 * 2**20, np.uint8)
print(resident() - start > 150, release_freed_memory(), resident() - start < 50)
"""
    assert run(code) == [["True"] * 3]


@pytest.mark.parametrize("system", ["darwin", "win32", "musl"])
def test_other_c_libraries_are_left_alone(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if system == "musl":
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(os, "confstr_names", {"CS_PATH": 0}, raising=False)
    else:
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.delattr(os, "confstr_names", raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("no C library must be loaded"))
    assert not allocator.keep_freed_memory.__wrapped__()
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: False)
    assert not allocator.release_freed_memory()
