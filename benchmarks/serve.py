"""What HTTP costs: pictures a second of ``danlu serve`` beside ``danlu bench``, for a network of ResNet-50's size.

    python -m benchmarks.serve

Batches of 32 raw uint8 pictures over loopback, two requests under way, so that one is read while one is computed. The
client shares the machine with the server; its share of the processors is printed. The two take turns; the ratio is the
median over turns. A second table loads a server with single pictures, three times its capacity. Writes ``serve.json``.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("serve.json")
MODEL, SIDE, BATCH = "resnet50", 224, 32
TURNS, SECONDS, FLIGHT = 3, 9.0, 2


def artifact(path: Path, name: str = MODEL) -> Path:
    """Write a sealed artifact of the network with random weights; how fast it is does not depend on them."""
    import torch

    from danlu.core.records import RunFolder
    from danlu.deploy.artifact import ArtifactInfo, sealed
    from danlu.deploy.export import network_graph
    from danlu.deploy.graph import describe
    from danlu.models import create_model
    from danlu.tasks.classification import Classification
    from danlu.tasks.preprocess import Preprocess, PreprocessSettings
    from danlu.tasks.trained import Trained

    torch.manual_seed(0)
    classes = tuple(f"class {place}" for place in range(1000))
    size = (SIDE, SIDE)
    settings = PreprocessSettings(
        picture_size=size, input_size=size, fit="none", channels=3, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    trained = Trained(
        model=create_model(name, num_classes=1000).eval(),
        preprocess=Preprocess(settings).eval(),
        task=Classification(classes),
        classes=classes,
        config={"effective": {"data": {}}},
        run=RunFolder(path.parent),
        weights_hash="0" * 64,
        model_name=name,
        which="best",
    )
    graph = network_graph(trained)
    outputs = tuple({"name": value.name, "shape": [], "meaning": ""} for value in graph.graph.output)
    info = ArtifactInfo("classification", name, "fp32", classes, size, 3, outputs, {}, {})
    path.write_bytes(sealed(describe(graph, info)))
    return path


@contextlib.contextmanager
def server(path: Path) -> Iterator[int]:
    """Run ``danlu serve`` and yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "danlu", "serve", str(path), "--port", str(port), "--quiet"]
    served = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(2000):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.02)
        yield port
    finally:
        served.terminate()
        served.wait()


def over_http(port: int, seconds: float) -> dict[str, float]:
    """Return pictures a second of batches over HTTP, and the client's share of one processor."""
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8).tobytes()
    headers = {"Content-Type": "application/vnd.danlu.uint8", "Danlu-Shape": f"{BATCH},{SIDE},{SIDE},3"}
    ended: list[float] = []
    statuses: Counter[int] = Counter()
    stop = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < stop:
            connection.request("POST", "/v1/predict?top=1", pixels, headers)
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
            if answer.status == 200:
                ended.append(time.perf_counter())
            else:
                time.sleep(0.05)
        connection.close()

    busy, begin = time.process_time(), time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(FLIGHT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    share = (time.process_time() - busy) / (time.perf_counter() - begin)
    # From answer to answer: how long the first one took to begin with is no part of the rate.
    rate = BATCH * (len(ended) - 1) / (ended[-1] - ended[0])
    return {"pictures_per_second": rate, "client_share": share, "refused": float(statuses[503])}


def without_http(path: Path, seconds: float) -> float:
    """Return pictures a second that ``danlu bench`` measures, in a process of its own."""
    code = (
        "import sys; from danlu.deploy.benchmark import bench; "
        f"print(bench(sys.argv[1], batches=({BATCH},), seconds={seconds}, repeats=6)['rows'][0]['pictures_per_second'])"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    return float(told.stdout.split()[-1])


def overload() -> dict[str, Any]:
    """Return what single pictures meet at three times the capacity of a server with one thread."""
    from tests.deploy.serve.load import alone, heavy_artifact, storm
    from tests.deploy.serve.running import process

    with tempfile.TemporaryDirectory() as folder:
        path = heavy_artifact(Path(folder) / "heavy.onnx")
        with process(path, "--threads", "1", "--quiet") as (_, client):
            alone(client.port, 10)
            seconds = alone(client.port, 100).seconds
            capacity = 1 / statistics.median(seconds)
            crowd = storm(client.port, 3 * capacity, 10.0)
    p99 = [1000 * float(np.percentile(values, 99)) for values in (seconds, crowd.seconds)]
    return {
        "capacity": round(capacity, 1),
        "statuses": {str(status): count for status, count in sorted(crowd.statuses.items())},
        "odd": crowd.odd,
        "unloaded_p99_ms": round(p99[0], 2),
        "accepted_p99_ms": round(p99[1], 2),
        "ratio": round(p99[1] / p99[0], 3),
    }


def main() -> None:
    """Measure both, print and write."""
    from danlu.core.environment import describe_environment
    from danlu.core.files import write_json

    with tempfile.TemporaryDirectory() as folder:
        given = Path(sys.argv[1]) if len(sys.argv) > 1 else artifact(Path(folder) / "model.onnx")
        turns = []
        for turn in range(TURNS):
            bare = without_http(given, SECONDS)
            with server(given) as port:
                over_http(port, 2.0)
                found = over_http(port, SECONDS)
            turns.append({"bench": bare, "serve": found["pictures_per_second"], **found})
            print(f"turn {turn + 1}: bench {bare:.1f}, serve {turns[-1]['serve']:.1f} pictures/s")
    ratios = [turn["serve"] / turn["bench"] for turn in turns]
    share = statistics.median(turn["client_share"] for turn in turns)
    rows = {
        "model": MODEL,
        "batch": BATCH,
        "bench": round(statistics.median(turn["bench"] for turn in turns), 2),
        "serve": round(statistics.median(turn["serve"] for turn in turns), 2),
        "ratio": {
            "median": round(statistics.median(ratios), 4),
            "low": round(min(ratios), 4),
            "high": round(max(ratios), 4),
        },
        "client_share_of_one_core": round(share, 4),
    }
    loaded = overload()
    document = {
        "schema": 1,
        "environment": describe_environment(),
        "turns": TURNS,
        "throughput": rows,
        "overload": loaded,
    }
    write_json(RESULTS, document)
    print(
        f"serve gives {100 * rows['ratio']['median']:.1f} % of bench; the client took {100 * share:.1f} % of one core"
    )
    print(
        f"at three times capacity: {loaded['statuses']}, p99 of the accepted {loaded['ratio']:.2f} × the unloaded one"
    )


if __name__ == "__main__":
    main()
