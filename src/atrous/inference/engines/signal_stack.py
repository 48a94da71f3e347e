"""Undo what OpenVINO does to the stack on which signals are handled."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux's signal.h; other systems order the fields otherwise."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Restore this thread's alternate signal stack at the end, if it is another one by then.

    On Linux, each OpenVINO `Core` sets a stack of its own when it loads its CPU plugin, and frees it with the plugin.
    It restores the stack before only if its own is still in use: where two have been made, or where another thread
    frees the first, the thread keeps a stack that is no longer mapped, and the next signal that Python handles (Ctrl-C,
    the end of a child process) ends the process without a word.

    Source: sigaltstack(2); `SigAltStackSetup` in OpenVINO's src/plugins/intel_cpu/src/plugin.cpp.
    """
    if sys.platform != "linux":
        yield
        return
    set_stack = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    set_stack(None, ctypes.byref(before))
    try:
        yield
    finally:
        set_stack(ctypes.byref(before), None)
