"""Figures of a server in Prometheus' text format, version 0.0.4. Standard library only.

Prometheus' own client takes a tenth of a second to import, a tenth of the time to the first answer; the format is
lines of text. Counters and histograms only grow; labels take their values from fixed sets, never from a client, so
that nobody can make a server remember more and more names.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Sequence

__all__ = ["CONTENT_TYPE", "Counter", "Gauge", "Histogram", "Metrics", "resident_bytes"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
Labels = Callable[[], dict[str, str]]
PICTURES = (1, 2, 4, 8, 16, 32, 64)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _labels(names: Sequence[str], values: Sequence[str], more: str = "") -> str:
    pairs = [f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)]
    pairs += [more] if more else []
    return "{" + ",".join(pairs) + "}" if pairs else ""


class Counter:
    """A number for each combination of label values; only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self._labels = name, text, tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        self._lock = threading.Lock()

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Add ``by`` to the count with these label values."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0.0) + by

    def value(self, *labels: str) -> float:
        """Return the count with these label values."""
        return self._values.get(labels, 0.0)

    def lines(self) -> list[str]:
        """Return the sample lines."""
        with self._lock:
            values = sorted(self._values.items())
        return [f"{self.name}{_labels(self._labels, labels)} {value:.17g}" for labels, value in values]


class Gauge:
    """A number that is asked for when it is read, and so are its labels."""

    kind = "gauge"

    def __init__(self, name: str, text: str, read: Callable[[], float], labels: Labels | None = None) -> None:
        self.name, self.text, self._read, self._labels = name, text, read, labels or dict

    def lines(self) -> list[str]:
        """Return the sample line."""
        labels = self._labels()
        return [f"{self.name}{_labels(list(labels), list(labels.values()))} {self._read():.17g}"]


class Histogram:
    """How many observations lie at or below each bound, their sum and their number."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self._bounds = name, text, tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one observation."""
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        """Return the sample lines, cumulative as the format wants them."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        lines, seen = [], 0
        for bound, count in zip([*(f"{bound:g}" for bound in self._bounds), "+Inf"], counts, strict=True):
            seen += count
            lines.append(f'{self.name}_bucket{{le="{bound}"}} {seen}')
        return [*lines, f"{self.name}_sum {total:.17g}", f"{self.name}_count {seen}"]


class Metrics:
    """All figures of one server."""

    def __init__(self) -> None:
        self.requests = Counter("danlu_requests_total", "Requests answered.", ("route", "method", "status"))
        self.refused = Counter("danlu_refused_total", "Requests not let in, by reason.", ("reason",))
        self.connections_refused = Counter("danlu_connections_refused_total", "Connections beyond the limit.")
        self.pictures = Counter("danlu_pictures_total", "Pictures answered.")
        self.dropped = Counter("danlu_dropped_total", "Requests let in and dropped, by reason.", ("reason",))
        self.reloads = Counter("danlu_reloads_total", "Times the artifact's file was loaded again.", ("outcome",))
        self.seconds = Histogram("danlu_request_seconds", "Seconds of answered predictions.", SECONDS)
        self.waited = Histogram("danlu_queue_seconds", "Seconds that admitted requests waited in the queue.", SECONDS)
        self.inference = Histogram("danlu_inference_seconds", "Seconds of one batch in the runtime.", SECONDS)
        self.batches = Histogram("danlu_batch_pictures", "Pictures in one batch.", PICTURES)
        self._gauges: list[Gauge] = []

    def gauge(self, name: str, text: str, read: Callable[[], float], labels: Labels | None = None) -> None:
        """Add a figure that is read when it is asked for."""
        self._gauges.append(Gauge(name, text, read, labels))

    def text(self) -> str:
        """Return the exposition."""
        lines = []
        kinds = (Counter, Histogram)
        own = [figure for figure in vars(self).values() if isinstance(figure, kinds)]
        for figure in [*own, *self._gauges]:
            lines += [f"# HELP {figure.name} {figure.text}", f"# TYPE {figure.name} {figure.kind}", *figure.lines()]
        return "\n".join(lines) + "\n"


def resident_bytes() -> float:
    """Return this process's resident memory (Linux), or NaN where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            import resource

            return float(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ImportError):
        return float("nan")
