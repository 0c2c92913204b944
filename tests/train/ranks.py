"""What each rank of `tests/train/test_distributed.py` does: several trainings in one launch of torchrun.

``torchrun --standalone --nproc-per-node 2 -m tests.train.ranks FOLDER``; each rank writes what it found to
``FOLDER/told-RANK.json``, which the tests compare with one process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from danlu.core.errors import DanluError
from danlu.train import loop, resume
from danlu.train.distributed import joined
from danlu.train.loop import Training
from tests.train.helpers import run_tiny

RANK = int(os.environ.get("RANK", "0"))
# Runs that one process does too; none has a batch norm, which would see half of the pictures.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"clip": 1.0},
    "parts": {
        "accumulate": 3,
        "ema": 0.9,
        "lookahead": 4,
        "optimizer.name": "adam",
        "optimizer.lr": 1e-3,
        "epochs": 1,
        "clip": 0.1,
        "clip_by": "adaptive",
        "max_norm": 2.0,
    },
    "frozen": {"transfer.freeze": 1, "transfer.unfreeze_every": 1, "transfer.lr_decay": 0.5},
    "scales": {"multi_scale": [8, 12, 16], "epochs": 1, "batch_size": 256, "optimizer.lr": 0.01},
}
KINDS = {"plain": ("ddp", "fsdp"), "parts": ("ddp", "fsdp"), "frozen": ("ddp",), "scales": ("ddp", "fsdp")}
AFTER = 25


def train_as(name: str, out: Path, **more: Any) -> None:
    """Train as ``SETTINGS[name]`` say, with a network that takes pictures of any size where there are several.

    Without its dropout, which draws for each rank of its own.
    """
    if name != "scales":
        run_tiny(out, overrides={**SETTINGS[name], **more})
        return
    with mock.patch.object(torch.nn.Dropout, "forward", lambda self, x: x):
        run_tiny(out, model="nin", overrides={**SETTINGS[name], **more})


def told(work: Callable[[], Any]) -> str:
    """Return the name and the exit code of the error of ours that ``work`` ended with."""
    try:
        work()
    except DanluError as error:
        return f"{type(error).__name__} {error.exit_code}: {error}"
    return "no error"


def stop_on(rank: int, after: int, work: Callable[[], Any]) -> str:
    """Do ``work``, and send a SIGTERM to one rank alone after some steps."""
    do = Training.do_step

    def step(self: Training, batch: Any, lr: float, step: int) -> Any:
        if step == after and rank == RANK:
            os.kill(os.getpid(), signal.SIGTERM)
        return do(self, batch, lr, step)

    Training.do_step = step  # type: ignore[method-assign]
    try:
        return told(work)
    finally:
        Training.do_step = do  # type: ignore[method-assign]


def values() -> dict[str, Any]:
    """Return what the ranks agree on when they agree."""
    with joined("cpu", 60.0) as world:
        rows = torch.tensor([[1.0 + world.rank, 3.0, 1.0 + 2 * world.rank], [4.0, 0.0, 0.0]])
        return {
            "shared": world.share({"of": world.rank, "text": "数据"}),
            "sum": world.sum(torch.tensor([1.0, world.rank])).tolist(),
            "most": world.most([world.rank, 3 - world.rank]),
            "rows": world.rows(("loss", "correct", "labelled"), rows).tolist(),
            "failed": told(lambda: world.lead(_refuse)),
            "same": [world.same("one"), world.same(str(world.rank))],
        }


def _refuse() -> None:
    raise DanluError("no space")


def main(folder: Path) -> None:
    """Do all trainings and write down what was found."""
    loop._VALIDATION_BATCH = 64  # three parts: two for rank 0, one for rank 1
    found: dict[str, Any] = {"values": values()}
    for name, kinds in KINDS.items():
        for kind in kinds:
            train_as(name, folder / f"{name}-{kind}", parallel=kind)
    found["indivisible"] = told(lambda: run_tiny(folder / "never", overrides={"batch_size": 63}))
    for kind, rank in (("ddp", 1), ("fsdp", 0)):
        out = folder / f"stopped-{kind}"
        settings = {**SETTINGS["plain"], "parallel": kind}
        found[f"stopped {kind}"] = stop_on(rank, AFTER, lambda out=out, s=settings: run_tiny(out, overrides=s))
    resume(folder / "stopped-ddp")
    resume(folder / "alone")
    # Two steps: statistics of two ranks that differ, judged in two parts.
    run_tiny(folder / "norms", model="resnet20", overrides={"epochs": 1, "batch_size": 256, "ema": 0.5})
    (folder / f"told-{RANK}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(Path(sys.argv[1]))
