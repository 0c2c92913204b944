"""The main job on the named data sets, as a user runs it: wall time, accuracy, artifacts. Writes ``main_job.json``.

    python -m benchmarks.main_job                      # digits, mnist, fashion-mnist, one seed each
    python -m benchmarks.main_job digits cifar10 --seeds 3

Each run is a process of its own, started cold. Rows of data sets that are not asked for stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("main_job.json")

# What each run must reach: test accuracy, seconds of the whole command on two cores (None: no bound).
TARGETS = {"digits": (0.98, 60), "mnist": (0.99, None), "fashion-mnist": (0.90, None), "cifar10": (None, None)}
TRAINING_SECONDS = {"mnist": 180, "fashion-mnist": 180}


def measure(name: str, seed: int) -> dict[str, Any]:
    """Run the main job once in a fresh process and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "danlu", "run", name, "--seed", str(seed), "--out", str(out), "--json"]
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        begin = time.perf_counter()
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - begin
        record = json.loads(finished.stdout)["record"]
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    test = record["results"]["test"]["accuracy"]
    return {
        "seed": seed,
        "load_before": load,
        "model": config["effective"]["model"]["name"],
        "epochs": record["train"]["epochs"],
        "precision": config["effective"]["machine"]["precision"],
        "threads": config["effective"]["machine"]["threads"],
        "seconds": round(seconds, 1),
        "training_seconds": round(record["train"]["seconds"], 1),
        "test_accuracy": test["value"],
        "test_interval": [test["low"], test["high"]],
        "test_pictures": test["n"],
        "int8_delivered": bool(record["parity"].get("int8", {}).get("delivered")),
        "bytes": {name: facts["bytes"] for name, facts in record["artifacts"].items() if facts["file"]},
    }


def main() -> None:
    """Measure what the command line names and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="of " + ", ".join(TARGETS))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    from danlu.core.environment import describe_environment
    from danlu.core.files import write_json

    document = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"schema": 1, "rows": {}}
    missed = []
    for name in arguments.names or ["digits", "mnist", "fashion-mnist"]:
        runs = [measure(name, seed) for seed in range(arguments.seeds)]
        document["rows"][name] = {"command": f"danlu run {name}", "environment": describe_environment(), "runs": runs}
        write_json(RESULTS, document)
        accuracy, wall = TARGETS[name]
        for run in runs:
            print(f"{name}: seed {run['seed']}: {100 * run['test_accuracy']:.2f} % in {run['seconds']} s", flush=True)
            reached = accuracy is None or run["test_accuracy"] >= accuracy
            in_time = run["seconds"] <= (wall or 1e9) and run["training_seconds"] <= TRAINING_SECONDS.get(name, 1e9)
            missed += [] if reached and in_time else [f"{name}, seed {run['seed']}"]
    if missed:
        sys.exit("missed its target: " + "; ".join(missed))


if __name__ == "__main__":
    main()
