"""What was measured to be the fastest on this machine, kept so that the same command takes the same way again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

import torch

from danlu.core.environment import processor_name
from danlu.core.errors import InputError
from danlu.core.files import cache_home, read_json, sha256_bytes, write_json

__all__ = ["Measured"]

_ROUNDS = 3


class Measured:
    """The fastest way by description, read from the cache and written back by :meth:`keep`.

    Args:
        kind: of what; names the file.
    """

    def __init__(self, kind: str) -> None:
        machine = f"{processor_name()} torch {torch.__version__}"
        self.path = cache_home() / "measured" / f"{kind}-{sha256_bytes(machine.encode())[:16]}.json"
        self.known = self._read()
        self._before = len(self.known)

    def _read(self) -> dict[str, str]:
        """Return what was measured before; a file that cannot be read counts as none."""
        try:
            found = read_json(self.path)["fastest"]
        except (InputError, OSError, KeyError, TypeError):
            return {}
        return dict(found) if isinstance(found, dict) else {}

    def fastest(self, what: str, ways: Mapping[str, Callable[[], None]], worth: float) -> str:
        """Return the name of the fastest of ``ways``, measured in turn unless it is known.

        Args:
            what: describes the work; all that its time depends on.
            ways: the first is taken unless another needs at most ``worth`` of its time.
        """
        if self.known.get(what) not in ways:
            times = dict.fromkeys(ways, float("inf"))
            for way in ways.values():
                way()
            for _ in range(_ROUNDS):
                for name, way in ways.items():
                    begin = time.perf_counter()
                    way()
                    times[name] = min(times[name], time.perf_counter() - begin)
            usual, best = next(iter(ways)), min(times, key=times.__getitem__)
            self.known[what] = best if times[best] < worth * times[usual] else usual
        return self.known[what]

    def keep(self) -> None:
        """Write down what is new; a cache that cannot be written is measured anew next time."""
        if len(self.known) > self._before:
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, {"schema": 1, "fastest": dict(sorted(self.known.items()))})
