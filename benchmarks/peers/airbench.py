"""CIFAR-10 with the airbench recipe: accuracy plain and with six views of each picture, and the time of training."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["SEEDS", "measure"]

SEEDS = 5


def measure() -> dict[str, Any]:
    """Return test accuracy, with and without views, and training seconds for each seed, and their means."""
    rows = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            train = ["train", "cifar10", "--model", "airbench94", "--seed", str(seed), "--out", str(run)]
            _danlu([*train, "--quiet"])
            seconds = json.loads((run / "record.json").read_text(encoding="utf-8"))["train"]["seconds"]
            words = ["eval", str(run), "cifar10", "--tta", "flip+shift", "--json", "--quiet"]
            found = json.loads(_danlu(words))["results"]["test"]
        rows.append(
            {
                "seconds": round(seconds, 1),
                "accuracy": found["accuracy"]["value"],
                "accuracy_tta": found["accuracy_tta"]["value"],
            }
        )
    means = {key: round(statistics.mean(row[key] for row in rows), 4) for key in rows[0]}
    return {"runs": rows, "means": means}


def _danlu(words: list[str]) -> str:
    command = [sys.executable, "-m", "danlu", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
