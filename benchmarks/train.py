"""Training speed, side by side with the usual ways: pictures a second, time to an accuracy, overhead of a step.

    python -m benchmarks.train [resnet18 resnet20 lenet5 resnet20_fp32 lenet5_fp32 overhead fashion90]

Each way runs in a process of its own and waits while another one is timed; rounds alternate. The ratio is taken round
by round; its median and the lower end of its 95 % interval (by order statistics) are printed and written to
``train.json``. Rows that are not named keep what was measured before. The time to 94 % on CIFAR-10 is a row of the
ledger: ``danlu reproduce run airbench --row airbench94 --record``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("train.json")
ROUNDS = 11
PEERS = ("usual", "timm", "lightning")
THROUGHPUT = ("resnet18", "resnet20", "lenet5", "resnet20_fp32", "lenet5_fp32")


class Worker:
    """One way of training in a process of its own."""

    def __init__(self, way: str, row: str) -> None:
        command = [sys.executable, "-m", "benchmarks.train", "--worker", way, row]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                return line[1:].strip()
        raise RuntimeError(f"the worker ended: {self.process.wait()}")

    def round(self, steps: int) -> float:
        """Train ``steps`` steps; return their seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def work(way: str, row: str) -> None:
    """Be a worker: train as many steps as each line says, answer with their seconds."""
    from benchmarks.peers.common import TASKS

    begin: float | None = None

    def ask() -> int:
        nonlocal begin
        if begin is not None:
            print(f"@{time.perf_counter() - begin}", flush=True)
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        begin = time.perf_counter()
        return int(line)

    made: Any
    if way == "ours":
        from benchmarks.peers.ours import Ours

        made = Ours(TASKS[row])
    elif way == "usual":
        from benchmarks.peers.usual import Usual

        made = Usual(TASKS[row])
    elif way == "timm":
        from benchmarks.peers.timm_script import Timm

        made = Timm(TASKS[row])
    else:
        from benchmarks.peers.lightning_trainer import Lightning

        made = Lightning(TASKS[row])
    print(f"@{made.said}", flush=True)
    made.run(ask)


def lower_bound(values: list[float]) -> float:
    """Return the lower end of the 95 % interval of the median, by order statistics (one-sided error 2.5 %)."""
    from math import comb

    ordered, count = sorted(values), len(values)
    tail, at = 0.0, 0
    while tail + comb(count, at) / 2**count <= 0.025:
        tail += comb(count, at) / 2**count
        at += 1
    return ordered[max(at - 1, 0)]


def throughput(row: str) -> dict[str, Any]:
    """Return pictures a second of every way and the ratios of ours to the others."""
    from benchmarks.ceilings import ceilings
    from benchmarks.peers.common import TASKS

    task = TASKS[row]
    peers = ("usual",) if task.fp32 else PEERS
    workers = {way: Worker(way, row) for way in ("ours", *peers)}
    seconds: dict[str, list[float]] = {way: [] for way in workers}
    try:
        for number in range(-1, ROUNDS):
            for way, worker in workers.items():
                # The usual way is so much slower that fewer of its steps take as long.
                spent = worker.round(task.steps if way == "ours" else max(2, task.steps // 3))
                if number >= 0:
                    seconds[way].append(spent / (task.steps if way == "ours" else max(2, task.steps // 3)))
    finally:
        for worker in workers.values():
            worker.end()
    ways = {
        way: {
            "pictures_per_second": round(task.batch / statistics.median(found), 1),
            "min": round(task.batch / max(found), 1),
            "max": round(task.batch / min(found), 1),
            "how": workers[way].said,
        }
        for way, found in seconds.items()
    }
    ratios = {}
    for peer in peers:
        each = [theirs / ours for theirs, ours in zip(seconds[peer], seconds["ours"], strict=True)]
        ratios[peer] = {"median": round(statistics.median(each), 2), "lower_95": round(lower_bound(each), 2)}
    setting = {"model": task.model, "data": task.data, "batch": task.batch}
    return {"task": setting, "ceilings": ceilings(), "ways": ways, "ratios": ratios}


def overhead() -> dict[str, Any]:
    """Return the microseconds by which a step of our loop is longer than that of a bare one, at batch 1."""
    from benchmarks.peers import overhead as measured

    return measured.measure()


def fashion90() -> dict[str, Any]:
    """Return seconds to 90 % on Fashion-MNIST, ours and of a usual script."""
    from benchmarks.peers import fashion90 as measured

    return measured.measure()


ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    **{row: (lambda row=row: throughput(row)) for row in THROUGHPUT},
    "overhead": overhead,
    "fashion90": fashion90,
}


def main(words: list[str]) -> None:
    """Measure the rows that are named, or all."""
    from danlu.core.environment import describe_environment
    from danlu.core.files import read_json, write_json

    kept: dict[str, Any] = read_json(RESULTS)["rows"] if RESULTS.exists() else {}
    for row in words or list(ROWS):
        found = ROWS[row]()
        kept[row] = {**found, "environment": describe_environment(), "date": time.strftime("%Y-%m-%d")}
        write_json(RESULTS, {"schema": 1, "rows": kept})
        print(row, {key: value for key, value in found.items() if key != "environment"})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3])
    else:
        main(sys.argv[1:])
