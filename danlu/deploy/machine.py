"""What else the machine does while something is measured, and how much memory this process holds. Torch-free."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from danlu.core.environment import usable_cores
from danlu.core.log import logger

__all__ = ["Watch", "is_busy", "load_average", "memory_bytes", "takes_cores"]

# From this load average a core on, other work inflates the times of whatever waits for all of its threads.
_BUSY = 1.5
# So much of a core may other work take from the threads that are measured before it is told.
_SLACK = 0.25
_STAT, _STATUS = Path("/proc/stat"), Path("/proc/self/status")


def is_busy(load: float | None) -> bool:
    """Return whether a load average per core inflates times."""
    return load is not None and load > _BUSY


def takes_cores(others: float | None, cores: int, threads: int) -> bool:
    """Return whether the cores that others took left fewer than ``threads`` of all ``cores``."""
    return others is not None and cores - others < threads - _SLACK


def load_average() -> float | None:
    """Return the machine's load average per core, where it has one, and warn of a busy machine."""
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0] / usable_cores()
    if is_busy(load):
        logger.warning("benchmark: the machine is busy (load %.1f per core), so times are inflated", load)
    return round(load, 2)


class Watch:
    """How many cores the work of others took since this object was made (Linux; elsewhere it is not known)."""

    def __init__(self) -> None:
        self._begin, self._own, self._busy = time.perf_counter(), _own_seconds(), _busy_seconds()

    def others(self) -> float | None:
        """Return the cores that other processes, and other guests of the same host, took on average."""
        busy, seconds = _busy_seconds(), time.perf_counter() - self._begin
        if busy is None or self._busy is None or seconds <= 0:
            return None
        return max(0.0, (busy - self._busy) - (_own_seconds() - self._own)) / seconds

    def check(self, threads: int) -> float | None:
        """Return what :meth:`others` does, rounded, and warn where it left fewer cores than ``threads``."""
        others = self.others()
        if others is None:
            return None
        if takes_cores(others, os.cpu_count() or 1, threads):
            logger.warning(
                "benchmark: other work took %.1f of %d cores meanwhile, so times are inflated; ratios hold better",
                others,
                os.cpu_count() or 1,
            )
        return round(others, 2)


def _own_seconds() -> float:
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def _busy_seconds() -> float | None:
    try:
        user, nice, system, _, _, irq, soft, steal = map(int, _STAT.read_text().split("\n", 1)[0].split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + soft + steal) / float(os.sysconf("SC_CLK_TCK"))


def memory_bytes() -> tuple[int | None, int | None]:
    """Return the resident memory of this process now, and its highest so far; None where the system does not tell."""
    try:
        told = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return 1024 * int(told["VmRSS"].split()[0]), 1024 * int(told["VmHWM"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    if sys.platform == "win32":
        return None, None
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None, highest if sys.platform == "darwin" else 1024 * highest
