"""Seconds until LeNet-5 classifies 90 % of Fashion-MNIST's test pictures: ``danlu train`` against a usual script.

The usual script: torchvision's transforms a sample, a DataLoader with the number of workers that is faster here, Adam
at its default rate, batch 64, float32, the test split looked at after each epoch. Ours runs its recipe to the end and
is then evaluated once; both are whole processes. The script is much slower: it runs for the first three seeds, and
ends at the first epoch after eight times the seconds of ours, which makes its ratio "at least".
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

__all__ = ["GOAL", "SEEDS", "measure", "usual_script", "workers_of_usual"]

SEEDS, USUAL_SEEDS = 5, 3
GOAL, LONGEST = 0.90, 8.0


def _task() -> Any:
    from dataclasses import replace

    from benchmarks.peers.common import TASKS

    return replace(TASKS["lenet5"], batch=64, most=None)


def workers_of_usual() -> None:
    """Print the number of workers that is faster; the script's time has no part in finding it."""
    from benchmarks.peers.usual import Usual

    print(Usual(_task()).workers)


def usual_script(seed: int, workers: int, most: float) -> None:
    """Train until the goal is reached or ``most`` seconds are over; print epochs and accuracy as JSON."""
    begin = time.perf_counter()
    import numpy as np
    import torch

    from benchmarks.peers.common import network, stacked
    from benchmarks.peers.usual import loader
    from danlu.data.load import load_data

    torch.manual_seed(seed)
    task = _task()
    batches = loader(task, workers)
    data = load_data(task.data)
    test, labels = stacked(data.test)
    mean, std = data.mean[0], data.std[0]
    x = torch.nn.functional.pad((torch.from_numpy(test).permute(0, 3, 1, 2).float() / 255 - mean) / std, (2,) * 4)
    x[:, :, (0, 1, -2, -1)] = x[:, :, :, (0, 1, -2, -1)] = -mean / std
    model = network(task, 10, 1)
    optimizer = torch.optim.Adam(model.parameters())
    accuracy, epoch = 0.0, 0
    while accuracy < GOAL and time.perf_counter() - begin < most:
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
    """Return seconds and accuracy of both for each seed, and the ratios seed by seed: their median and the least."""
    rows: dict[str, list[dict[str, Any]]] = {"ours": [], "usual": []}
    workers = int(_run(["-c", "from benchmarks.peers.fashion90 import *; workers_of_usual()"]))
    for seed in range(SEEDS):
        rows["ours"].append(_ours(seed))
        if seed < USUAL_SEEDS:
            most = LONGEST * rows["ours"][-1]["seconds"]
            begin = time.perf_counter()
            call = f"usual_script({seed}, {workers}, {most})"
            found = json.loads(_run(["-c", f"from benchmarks.peers.fashion90 import *; {call}"]))
            rows["usual"].append({"seconds": round(time.perf_counter() - begin, 1), **found})
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(rows["ours"], rows["usual"], strict=False)]
    return {
        "ways": rows,
        "ratio": {"median": round(statistics.median(ratios), 2), "least": round(min(ratios), 2)},
        "workers": workers,
    }


def _ours(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train = ["train", "fashion-mnist", "--model", "lenet5", "--recipe", "fashion-mnist-90", "--seed", str(seed)]
        begin = time.perf_counter()
        _run(["-m", "danlu", *train, "--out", str(run), "--quiet"])
        seconds = time.perf_counter() - begin
        found = json.loads(_run(["-m", "danlu", "eval", str(run), "fashion-mnist", "--json", "--quiet"]))
    return {"seconds": round(seconds, 1), "accuracy": _accuracy(found)}


def _accuracy(document: dict[str, Any]) -> float:
    return float(document["results"]["test"]["accuracy"]["value"])


def _run(words: list[str]) -> str:
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout
