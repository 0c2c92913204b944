"""How long a user waits before anything happens: ``danlu --help`` and the first answer of ``danlu predict``.

    python -m benchmarks.start

Whole processes, interleaved, after one warm-up; medians with the smallest and largest. Writes ``start.json``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).with_name("start.json")
REPEATS = 11


def main() -> None:
    """Train a tiny network for its artifact, then time the commands."""
    from PIL import Image

    from danlu.core.environment import describe_environment
    from danlu.core.files import write_json

    with tempfile.TemporaryDirectory() as folder:
        run, picture = Path(folder) / "run", Path(folder) / "picture.png"
        quick = [sys.executable, "-m", "danlu", "train", "digits", "--epochs", "1", "--out", str(run), "--quiet"]
        subprocess.run(quick, check=True, stdout=subprocess.DEVNULL)
        export = [sys.executable, "-m", "danlu", "export", str(run), "--no-int8", "--quiet"]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "danlu --help": [sys.executable, "-m", "danlu", "--help"],
            "danlu run --help": [sys.executable, "-m", "danlu", "run", "--help"],
            "danlu predict": [sys.executable, "-m", "danlu", "predict", str(run / "model.onnx"), str(picture)],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for repeat in range(REPEATS + 1):
            for name, command in commands.items():
                begin = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                if repeat:
                    seconds[name].append(time.perf_counter() - begin)
    rows = {
        name: {"median_s": round(statistics.median(v), 4), "min_s": round(min(v), 4), "max_s": round(max(v), 4)}
        for name, v in seconds.items()
    }
    write_json(RESULTS, {"schema": 1, "environment": describe_environment(), "repeats": REPEATS, "rows": rows})
    for name, row in rows.items():
        print(f"{name:<18} {row['median_s']:.3f} s ({row['min_s']:.3f}–{row['max_s']:.3f})")


if __name__ == "__main__":
    main()
