"""How long a user waits before anything happens: ``danlu --help``, the first answers of ``predict`` and ``serve``.

    python -m benchmarks.start          # all
    python -m benchmarks.start serve    # the server alone; the other rows stay

Whole processes, interleaved, after one warm-up; medians with the smallest and largest. The server's artifact has the
size of ResNet-18 (46 MB), its time ends with the first answer to a photograph of 400 × 300, and its resident memory is
read then. Writes ``start.json``.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("start.json")
REPEATS = 11


def serving(repeats: int) -> dict[str, Any]:
    """Return seconds from starting ``danlu serve`` to its first answer, and its resident memory then."""
    from PIL import Image

    from benchmarks.serve import artifact

    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    seconds, resident = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = artifact(Path(folder) / "model.onnx", "resnet18")
        for repeat in range(repeats + 1):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            begin = time.perf_counter()
            command = [sys.executable, "-m", "danlu", "serve", str(path), "--port", str(port), "--quiet"]
            served = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            _first_answer(port, buffer.getvalue())
            if repeat:
                seconds.append(time.perf_counter() - begin)
                resident.append(_resident(served.pid))
            served.terminate()
            served.wait()
    return {**_row(seconds), "resident_mb": round(max(resident), 1)}


def _first_answer(port: int, picture: bytes) -> None:
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/v1/predict", picture, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if answer.status != 200:
                raise SystemExit(f"the server answered {answer.status}: {content!r}")
            return
        time.sleep(0.005)


def _resident(process: int) -> float:
    import psutil

    return float(psutil.Process(process).memory_info().rss / 1e6)


def _row(seconds: list[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {"median_s": round(median, 4), "min_s": round(min(seconds), 4), "max_s": round(max(seconds), 4)}


def main() -> None:
    """Train a tiny network for its artifact, then time the commands."""
    from PIL import Image

    from danlu.core.environment import describe_environment
    from danlu.core.files import write_json

    if sys.argv[1:] == ["serve"]:
        document = json.loads(RESULTS.read_text(encoding="utf-8"))
        document["rows"]["danlu serve"] = {**serving(REPEATS), "environment": describe_environment()}
        write_json(RESULTS, document)
        print(document["rows"]["danlu serve"])
        return
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
    rows = {name: _row(values) for name, values in seconds.items()} | {"danlu serve": serving(REPEATS)}
    write_json(RESULTS, {"schema": 1, "environment": describe_environment(), "repeats": REPEATS, "rows": rows})
    for name, row in rows.items():
        print(f"{name:<18} {row['median_s']:.3f} s ({row['min_s']:.3f}–{row['max_s']:.3f})")


if __name__ == "__main__":
    main()
