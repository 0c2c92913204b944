"""Seconds until LeNet-5 classifies 90 % of Fashion-MNIST's test pictures: ``danlu train`` against a usual script.

The usual script: torchvision's transforms a sample, a DataLoader, Adam at its default rate, batch 64, float32, the test
split looked at after each epoch. Ours runs its recipe to the end and is then evaluated once; both are whole processes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["SEEDS", "measure", "usual_script"]

SEEDS = 5
GOAL, MOST_EPOCHS = 0.90, 30


def usual_script(seed: int) -> None:
    """Train until the goal is reached; print epochs and accuracy as JSON."""
    from dataclasses import replace

    import numpy as np
    import torch

    from benchmarks.peers.common import TASKS, network, stacked
    from benchmarks.peers.usual import loader
    from danlu.data.load import load_data

    torch.manual_seed(seed)
    task = replace(TASKS["lenet5"], batch=64, most=None)
    batches = loader(task, 2)
    data = load_data(task.data)
    test, labels = stacked(data.test)
    mean, std = data.mean[0], data.std[0]
    x = torch.nn.functional.pad((torch.from_numpy(test).permute(0, 3, 1, 2).float() / 255 - mean) / std, (2,) * 4)
    x[:, :, (0, 1, -2, -1)] = x[:, :, :, (0, 1, -2, -1)] = -mean / std
    model = network(task, 10, 1)
    optimizer = torch.optim.Adam(model.parameters())
    accuracy, epoch = 0.0, 0
    while accuracy < GOAL and epoch < MOST_EPOCHS:
        model.train()
        for pictures, label in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(pictures), label).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            found = torch.cat([model(part).argmax(1) for part in torch.split(x, 1000)]).numpy()
        accuracy, epoch = float(np.mean(found == labels)), epoch + 1
    print(json.dumps({"epochs": epoch, "accuracy": accuracy}))


def measure() -> dict[str, Any]:
    """Return seconds, epochs and accuracy of both for each seed, and the ratio of their medians and its least."""
    rows: dict[str, list[dict[str, Any]]] = {"ours": [], "usual": []}
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            train = ["train", "fashion-mnist", "--model", "lenet5", "--recipe", "fashion-mnist-90", "--seed", str(seed)]
            begin = time.perf_counter()
            _run(["-m", "danlu", *train, "--out", str(run), "--quiet"])
            seconds = time.perf_counter() - begin
            found = json.loads(_run(["-m", "danlu", "eval", str(run), "fashion-mnist", "--json", "--quiet"]))
            rows["ours"].append({"seconds": round(seconds, 1), "accuracy": _accuracy(found)})
        begin = time.perf_counter()
        found = json.loads(_run(["-c", f"from benchmarks.peers.fashion90 import *; usual_script({seed})"]))
        rows["usual"].append({"seconds": round(time.perf_counter() - begin, 1), **found})
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(rows["ours"], rows["usual"], strict=True)]
    reached = sum(row["accuracy"] >= GOAL for row in rows["ours"])
    return {
        "ways": rows,
        "ratio": {"median": round(statistics.median(ratios), 2), "least": round(min(ratios), 2)},
        "reached": f"{reached} of {SEEDS} seeds",
    }


def _accuracy(document: dict[str, Any]) -> float:
    return float(document["results"]["test"]["accuracy"]["value"])


def _run(words: list[str]) -> str:
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout
