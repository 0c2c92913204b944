"""A network that is heavy enough to be the bottleneck, and a crowd of clients that does not wait for answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from danlu.deploy.artifact import ArtifactInfo, sealed
from danlu.deploy.graph import describe
from tests.deploy.serve.running import RAW

SIDE, WIDTH = 48, 48
_GRAPH = """<ir_version: 10, opset_import: ["" : 18]>
heavy (uint8[batch, {side}, {side}, 3] pictures) => (float[batch, 4] probabilities)
<int64[2] axes = {{2, 3}}> {{
  numbers = Cast <to = 1> (pictures)
  x0 = Transpose <perm = [0, 3, 1, 2]> (numbers)
{layers}
  pooled = ReduceMean <keepdims = 0> (x{last}, axes)
  logits = MatMul (pooled, head)
  probabilities = Softmax <axis = 1> (logits)
}}"""


def heavy_artifact(path: Path, layers: int = 8) -> Path:
    """Write a sealed artifact of ``layers`` convolutions: some 10 to 30 ms a picture on one core."""
    lines = []
    for place in range(layers):
        lines.append(f"  y{place} = Conv <pads = [1, 1, 1, 1]> (x{place}, w{place})")
        lines.append(f"  x{place + 1} = Relu (y{place})")
    model = parser.parse_model(_GRAPH.format(side=SIDE, layers="\n".join(lines), last=layers))
    rng = np.random.default_rng(0)
    for place in range(layers):
        shape = (WIDTH, WIDTH if place else 3, 3, 3)
        weights = rng.normal(0, 0.03, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, f"w{place}"))
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.1, (WIDTH, 4)).astype(np.float32), "head"))
    info = ArtifactInfo(
        task="classification",
        model="heavy",
        precision="fp32",
        classes=("a", "b", "c", "d"),
        picture_size=(SIDE, SIDE),
        channels=3,
        outputs=({"name": "probabilities", "shape": ["batch", 4], "meaning": ""},),
        stages={},
        hashes={},
    )
    onnx.checker.check_model(model)
    path.write_bytes(sealed(describe(model, info)))
    return path


@dataclass
class Crowd:
    """What a crowd of clients saw: statuses, seconds of the accepted requests, what was odd.

    ``seconds`` are by the client's clock, ``inside`` by the server's.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, status: int, retry: str | None, seconds: float) -> None:
        """Add one answer."""
        with self.lock:
            self.statuses[status] += 1
            if status == 200:
                self.seconds.append(seconds)
            elif status == 503 and not (retry or "").isdigit():
                self.odd.append(f"503 with Retry-After {retry!r}")


def body() -> bytes:
    """Return one raw picture."""
    return np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8).tobytes()


HEADERS = {"Content-Type": RAW, "Danlu-Shape": f"1,{SIDE},{SIDE},3"}


def ask(connection: http.client.HTTPConnection, data: bytes, crowd: Crowd) -> None:
    """Send one picture and note what came back."""
    begin = time.perf_counter()
    connection.request("POST", "/v1/predict", data, HEADERS)
    answer = connection.getresponse()
    content = answer.read()
    crowd.tell(answer.status, answer.headers.get("Retry-After"), time.perf_counter() - begin)
    document = json.loads(content)
    if answer.status == 200:
        crowd.inside.append(document["milliseconds"]["total"] / 1000)
    if answer.status not in (200, 503):
        crowd.odd.append(content.decode()[:200])


def alone(port: int, count: int) -> Crowd:
    """Send ``count`` requests, one after the other."""
    crowd, data = Crowd(), body()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(count):
        ask(connection, data, crowd)
    connection.close()
    assert set(crowd.statuses) == {200}
    return crowd


def storm(port: int, rate: float, seconds: float, clients: int = 24, vanish: int = 40) -> Crowd:
    """Send ``rate`` requests a second in all, whatever is answered; one of ``vanish`` leaves without waiting."""
    crowd, data = Crowd(), body()
    begin = time.perf_counter() + 0.1

    def one(place: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        turn = place
        while (due := begin + turn / rate) < begin + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            if turn % vanish == vanish - 1:
                leave(port, data)
            else:
                try:
                    ask(connection, data, crowd)
                except OSError as error:
                    crowd.odd.append(repr(error))
                    connection.close()
            turn += clients
        connection.close()

    threads = [threading.Thread(target=one, args=(place,)) for place in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return crowd


def leave(port: int, data: bytes) -> None:
    """Send a request and go without waiting for the answer."""
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    request = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {len(data)}\r\n\r\n".encode()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as gone:
        gone.sendall(request + data)
