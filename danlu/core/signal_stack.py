"""The stack on which a thread's signal handlers run is left as it was. Linux; elsewhere nothing is done.

OpenVINO's CPU plugin gives the thread that compiles a network an alternate signal stack, and frees that memory with
the plugin while it may still be registered. The next signal (a SIGTERM that would have saved a checkpoint) then ends
the process with a segmentation fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

__all__ = ["signal_stack_kept"]


class _Stack(ctypes.Structure):
    """``stack_t`` of the C library."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Register, at the end, the alternate signal stack that this thread had at the beginning, or none."""
    if sys.platform != "linux":
        yield
        return
    library, before = ctypes.CDLL(None), _Stack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)
