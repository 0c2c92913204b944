"""``kill -9`` at a hundred random moments of real runs: no checkpoint is torn, every resume ends bit for bit the same.

    python -m proof.kills

Four kinds of run, each killed 25 times, some of them within a save (every step is saved); then resumed to its end and
compared with one that was never interrupted: weights and optimiser (best and last), and the log. Writes ``kills.json``.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from danlu.core.environment import describe_environment
from danlu.core.files import read_json, sha256_bytes, write_json

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("kills.json")
KILLS = 25
# What decides whether a run survives.
SOURCES = (
    *("train/checkpoint.py", "train/loop.py", "train/resuming.py", "train/start.py", "train/state.py"),
    *("train/step.py", "train/batches.py", "train/precision.py", "train/ema.py", "train/lookahead.py"),
    *("train/optimizers.py", "augment/chain.py", "core/seeds.py"),
    *("core/files.py", "core/records.py"),
)
SAVED_ALWAYS = {"checkpoint_seconds": 0, "epochs": 6}
KINDS: dict[str, dict[str, Any]] = {
    "moving average, crop and shift": {"ema": 0.9, "augment": [{"name": "pad_crop", "padding": 1}]},
    "accumulation, clipping, Adam, Lookahead": {
        "accumulate": 4,
        "clip": 0.5,
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "lookahead": 3,
    },
    "mixup or cutmix": {"augment": [{"name": "flip"}, {"name": "mixup_or_cutmix", "probability": 0.5}]},
    "pictures decoded by workers": {"folder": True},
}


def source_hash() -> str:
    """Return the hash of the files a run's survival depends on."""
    return sha256_bytes(b"\0".join((ROOT / "danlu" / name).read_bytes() for name in SOURCES))


def _is_torn(out: Path) -> bool:
    """Return whether the process died within a save: its temporaries are still there."""
    return any(out.glob(".*.part")) or any((out / "checkpoints").glob(".*"))


def prove(kind: str, seed: int, folder: Path) -> dict[str, Any]:
    """Kill one kind of run 25 times and compare its end with that of one left alone."""
    from danlu.train import resume
    from danlu.train.checkpoint import Checkpoints
    from tests.train.helpers import Child, curve, hashes, last_step, run_tiny, wait_for_step

    given = {**SAVED_ALWAYS, **KINDS[kind]}
    source = _pictures(folder) if given.pop("folder", False) else None
    whole = run_tiny(folder / "whole", overrides=given, **({} if source is None else {"source": source}))
    rng, out, verb = random.Random(seed), folder / "run", "train"
    kills, torn = 0, 0
    steps = whole.read_record()["train"]["steps"]
    while kills < KILLS and last_step(out) < steps - 8:
        child = Child(verb, out, given, source)
        wait_for_step(out, max(last_step(out), 0) + rng.randint(1, max(1, steps // (KILLS + 5))), child)
        time.sleep(rng.random() * 0.02)
        child.signal(signal.SIGKILL)
        code, told = child.end()
        if code != -signal.SIGKILL:
            raise SystemExit(f"{kind}: ended with {code} instead of being killed: {told}")
        kills, torn, verb = kills + 1, torn + _is_torn(out), "resume"
        if Checkpoints(out / "checkpoints", 2).newest_good() is None:
            raise SystemExit(f"{kind}: no good checkpoint after kill {kills}")
    run = resume(out)
    equal = hashes(run) == hashes(whole) and curve(run) == curve(whole)
    return {"kills": kills, "within_a_save": torn, "resumed": run.read_record()["train"]["resumed"], "equal": equal}


def _pictures(folder: Path) -> Path:
    """Write the digits as a folder of PNG files, one folder a class."""
    import numpy as np
    from PIL import Image

    from danlu.data.load import load_data

    data = load_data("digits").train
    for index in range(640):
        sample = data[index]
        path = folder / "pictures" / str(int(sample.targets["label"])) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(sample.picture).squeeze()).save(path)
    return folder / "pictures"


def main() -> None:
    """Prove all kinds; exit 1 when a run differs."""
    rows = {}
    for seed, kind in enumerate(KINDS):
        with tempfile.TemporaryDirectory() as folder:
            rows[kind] = prove(kind, seed, Path(folder))
    write_json(
        RESULTS,
        {"schema": 1, "environment": describe_environment(), "source_hash": source_hash(), "rows": rows},
    )
    if not all(row["equal"] for row in read_json(RESULTS)["rows"].values()):
        sys.exit("a resumed run differs from one left alone")


if __name__ == "__main__":
    main()
