"""SIGINT and SIGTERM as a wish to stop: the first is noted, so that the state can be saved; a second stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from danlu.core.errors import Stopped

__all__ = ["StopRequest", "stop_requests"]


@dataclass
class StopRequest:
    """``number`` is the signal that came, or None."""

    number: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM while the block runs; the handlers from before are put back after it.

    In a thread that is not the main one, where Python allows no handlers, nothing is installed.

    Raises:
        Stopped: a second signal came; whatever was being written is taken back.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.number is not None:
            raise Stopped("stopped at once by a second signal; resume goes on from the last checkpoint", number)
        request.number = number

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
