"""A tiny training run on the embedded digits, in this process or in one of its own that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError
from danlu.core.files import sha256_file
from danlu.core.log import configure
from danlu.core.records import RunFolder
from danlu.data.load import Data, load_data
from danlu.train import resume, train

# Two epochs of 19 steps in float32, which every processor computes alike; whatever the recipe for the digits says.
TINY: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 64,
    "optimizer.lr": 0.05,
    "precision": "fp32",
    "kernels": "library",
}


@cache
def digits() -> Data:
    return load_data("digits")


def run_tiny(out: Path, **given: Any) -> RunFolder:
    """Train LeNet-5 on the digits, or on ``source``, for two epochs; ``overrides`` come on top of :data:`TINY`."""
    overrides = {**TINY, **given.pop("overrides", {})}
    arguments: dict[str, Any] = {"model": "lenet5", "threads": 1, "device": "cpu", "out": out, **given}
    source = arguments.pop("source", None)
    data = arguments.pop("data", None) or (digits() if source is None else load_data(source))
    return train(data, overrides=overrides, **arguments)


# A server that has imported torch once and forks a real process for each child: starting torch takes seconds.
SERVER = multiprocessing.get_context("forkserver" if os.name != "nt" else "spawn")
if os.name != "nt":
    SERVER.set_forkserver_preload(["danlu.train.start", "danlu.train.resuming", "danlu.data.load"])


def _work(verb: str, out: Path, overrides: dict[str, Any], told: Path, source: Path | None) -> None:
    """Train or resume as the command line does: messages to standard error, errors to exit codes."""
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    configure()
    try:
        if verb == "train":
            run_tiny(out, overrides=overrides, source=source)
        else:
            resume(out)
    except DanluError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(error.exit_code)


class Child:
    """A process of its own that trains (``train``) or resumes (``resume``) in ``out``."""

    def __init__(
        self, verb: str, out: Path, overrides: dict[str, Any] | None = None, source: Path | None = None
    ) -> None:
        self.told = out.parent / f"told-{time.monotonic_ns()}.txt"
        self.process = SERVER.Process(target=_work, args=(verb, out, overrides or {}, self.told, source))
        self.process.start()

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def end(self, seconds: float = 120.0) -> tuple[int | None, str]:
        """Wait for the end; return the exit code (minus the signal that killed it) and what it told."""
        self.process.join(seconds)
        return self.process.exitcode, self.told.read_text(encoding="utf-8") if self.told.exists() else ""


def wait_for_step(out: Path, step: int, child: Child, seconds: float = 120.0) -> None:
    """Return when a checkpoint of at least ``step`` is pointed to, or the process has ended."""
    deadline = time.monotonic() + seconds
    while child.process.exitcode is None and last_step(out) < step:
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.002)


def last_step(out: Path) -> int:
    """Return the step of the last checkpoint, -1 where there is none yet."""
    try:
        pointers = json.loads((out / "checkpoints" / "pointers.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return -1
    return int(pointers["last"].removeprefix("step-"))


def hashes(run: RunFolder) -> dict[str, str]:
    """Return the SHA-256 of weights and optimiser of the last and the best checkpoint."""
    pointers = json.loads((run.checkpoints / "pointers.json").read_text(encoding="utf-8"))
    return {
        f"{which}/{file}": sha256_file(run.checkpoints / pointers[which] / file)
        for which in ("last", "best")
        for file in ("weights.safetensors", "optimizer.safetensors")
    }


def curve(run: RunFolder) -> list[dict[str, Any]]:
    """Return the log without events and clock times."""
    timed = ("seconds", "pictures_per_second", "data_share", "memory")
    return [
        {key: value for key, value in entry.items() if key not in timed}
        for entry in run.read_log()
        if entry["kind"] != "event"
    ]


def listing(folder: Path) -> dict[str, str]:
    """Return the hash of every file below ``folder``, to see that nothing changed."""
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
