"""The cold facts of a contender, taken in processes of their own: import, load, first answer, memory.

    python -m danlu.deploy.cold SOURCE [fp32|bf16] --threads N

A warm process cannot tell them: libraries are imported once, and what one network frees another one uses.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import CheckFailed
from danlu.deploy.machine import memory_bytes

__all__ = ["FACTS", "cold_facts", "main"]

FACTS = ("import_s", "load_s", "first_s", "second_s", "memory_mb", "peak_mb")
_LIMIT_S = 300


def cold_facts(sources: Sequence[tuple[str, ...]], threads: int, repeats: int = 3) -> list[dict[str, Any]]:
    """Open each source ``repeats`` times in a new process, in turn; return the median of every fact for each.

    ``import_s``: the libraries; ``load_s``: the network; ``first_s`` and ``second_s``: answers for one black picture;
    ``memory_mb`` and ``peak_mb``: resident after the second one, and at most (None where the system does not tell).

    Raises:
        CheckFailed: a process failed; the last line it wrote is named.
    """
    told: list[list[dict[str, Any]]] = [[] for _ in sources]
    for _ in range(repeats):
        for place, source in enumerate(sources):
            told[place].append(_ask(source, threads))
    return [{fact: _median([one[fact] for one in several]) for fact in FACTS} for several in told]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None


def _ask(source: tuple[str, ...], threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "danlu.deploy.cold", *source, "--threads", str(threads)]
    # The process finds this package where this one did.
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=_LIMIT_S
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CheckFailed(f"{source[0]}: the process that opens it anew failed ({done.returncode}): {last}")
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def main(arguments: Sequence[str]) -> None:
    """Be that process: open, answer twice, write one line of JSON."""
    source, threads = list(arguments[: arguments.index("--threads")]), int(arguments[-1])
    begin = time.perf_counter()
    opened = _eager(threads, *source) if len(source) > 1 else _artifact(threads, *source)
    imported = time.perf_counter()
    answer, pictures = opened()
    loaded = time.perf_counter()
    answer(pictures)
    first = time.perf_counter()
    answer(pictures)
    second = time.perf_counter()
    resident, peak = memory_bytes()
    times = (imported - begin, loaded - imported, first - loaded, second - first)
    memory = [None if value is None else value / 1e6 for value in (resident, peak)]
    sys.stdout.write(json.dumps(dict(zip(FACTS, (*times, *memory), strict=True))) + "\n")


Pictures = NDArray[np.uint8]
Opened = tuple[Callable[[Pictures], Any], Pictures]


def _artifact(threads: int, path: str) -> Callable[[], Opened]:
    from danlu.core.silence import silence
    from danlu.deploy.opening import open_artifact, runtime_of

    name = runtime_of(Path(path))
    importlib.import_module(f"danlu.deploy.runtimes.{name}")
    silence()
    with contextlib.suppress(ModuleNotFoundError):  # loading says it better
        importlib.import_module(name)

    def opened() -> Opened:
        runtime, info = open_artifact(Path(path), threads=threads)
        picture = np.zeros((1, *info.picture_size, info.channels), dtype=np.uint8)
        return lambda pictures: runtime.predict(pictures, ["probabilities"]), picture

    return opened


def _eager(threads: int, path: str, precision: str) -> Callable[[], Opened]:
    import torch

    from danlu.deploy.contenders import eager_answer
    from danlu.tasks.trained import open_trained

    torch.set_num_threads(threads)

    def opened() -> Opened:
        trained = open_trained(path)
        settings = trained.preprocess.settings
        picture = np.zeros((1, *settings.picture_size, settings.channels), dtype=np.uint8)
        return eager_answer(trained, precision)[1], picture

    return opened


if __name__ == "__main__":
    main(sys.argv[1:])
