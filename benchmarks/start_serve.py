"""How long ``danlu serve`` takes from its start to the first answer, and what it holds in memory then.

    python -m benchmarks.start_serve

Whole processes after one warm-up; median with the smallest and largest. The artifact has the size of ResNet-18 (46 MB);
the time ends with the first answer to a photograph of 400 × 300. Beside it stands what the libraries alone take to be
imported in a process that does nothing else. Writes its row into ``start.json``.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.start import REPEATS, RESULTS

LIBRARIES = "import numpy, PIL.Image, onnxruntime, fastapi, uvicorn"


def serving(repeats: int) -> dict[str, Any]:
    """Return seconds from starting ``danlu serve`` to its first answer, and its resident memory then."""
    from PIL import Image

    from benchmarks.serve import artifact

    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    seconds, resident, libraries = [], [], []
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
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", LIBRARIES], check=True)
            libraries.append(time.perf_counter() - begin)
    alone = round(statistics.median(libraries), 4)
    return {**_row(seconds), "libraries_alone_s": alone, "resident_mb": round(max(resident), 1)}


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
    """Measure, and write the row."""
    from danlu.core.environment import describe_environment
    from danlu.core.files import read_json, write_json

    document = read_json(RESULTS)
    document["rows"]["danlu serve"] = {**serving(REPEATS), "environment": describe_environment()}
    write_json(RESULTS, document)
    print(document["rows"]["danlu serve"])


if __name__ == "__main__":
    main()
