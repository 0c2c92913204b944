"""A tiny training run on the embedded digits, in this process or in one of its own that can be killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from danlu.core.files import sha256_file
from danlu.core.records import RunFolder
from danlu.data.load import Data, load_data
from danlu.train import train

# Two epochs of 19 steps in float32, which every processor computes alike.
TINY: dict[str, Any] = {"epochs": 2, "precision": "fp32"}

# Imports everything once and forks a process for each line it reads, because starting torch takes seconds. Each child
# is a real process with its own log on disk; the line written back is its number, then its exit code.
_NURSERY = """
import json, os, sys
from pathlib import Path
import torch
from danlu.core.errors import DanluError
from danlu.core.log import configure
from danlu.data.load import load_data
from danlu.train import resume, resume_run_module, train
"""

_NURSERY = """
import json, os, sys
from pathlib import Path
import danlu.train.resume, danlu.train.start
from danlu.core.errors import DanluError
from danlu.core.log import configure
from danlu.data.load import load_data
from danlu.train import resume, train

def work(verb, out, overrides):
    configure()
    try:
        if verb == "train":
            train(load_data("digits"), model="lenet5", overrides=overrides, out=out, threads=1, device="cpu")
        else:
            resume(out)
    except DanluError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0

for line in sys.stdin:
    verb, out, overrides, log = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 70
        try:
            code = work(verb, Path(out), overrides)
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
"""


@dataclass
class Child:
    """A process that trains or resumes; what it told stands in ``log``."""

    number: int
    log: Path

    def signal(self, number: int) -> None:
        os.kill(self.number, number)

    def is_running(self) -> bool:
        """A zombie has ended: its parent is the nursery, which does not collect it."""
        try:
            state = Path(f"/proc/{self.number}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state not in "ZX"

@cache
def digits() -> Data:
    return load_data("digits")


def run_tiny(out: Path, **given: Any) -> RunFolder:
    """Train LeNet-5 on the digits for two epochs; ``overrides`` come on top of :data:`TINY`."""
    overrides = {**TINY, **given.pop("overrides", {})}
    arguments: dict[str, Any] = {"model": "lenet5", "threads": 1, "device": "cpu", "out": out, **given}
    return train(arguments.pop("data", digits()), overrides=overrides, **arguments)


def spawn(verb: str, out: Path, overrides: dict[str, Any] | None = None) -> subprocess.Popen[str]:
    """Start ``train`` or ``resume`` in a process of its own."""
    command = [sys.executable, "-c", _CHILD, verb, str(out), json.dumps({**TINY, **(overrides or {})})]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")


def wait_for_step(out: Path, step: int, child: subprocess.Popen[str], seconds: float = 60.0) -> None:
    """Return when a checkpoint of at least ``step`` is pointed to, or the process has ended."""
    deadline = time.monotonic() + seconds
    while child.poll() is None and last_step(out) < step:
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
    timed = ("seconds", "pictures_per_second")
    return [
        {key: value for key, value in entry.items() if key not in timed}
        for entry in run.read_log()
        if entry["kind"] != "event"
    ]


def listing(folder: Path) -> dict[str, str]:
    """Return the hash of every file below ``folder``, to see that nothing changed."""
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
