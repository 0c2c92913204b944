"""Faults of serving, row by row, through the command line: a process of its own that must end well or go on."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from danlu.core.errors import InputError
from danlu.deploy.artifact import sealed
from danlu.deploy.serve.engine import Engine
from tests.deploy.serve.load import heavy_artifact
from tests.deploy.serve.running import ROOT, Client, Reply, encoded, free_port, process

NO_TORCH = """
import sys


class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {banned}:
            raise ImportError("not installed here: " + name)
        return None


sys.meta_path.insert(0, Guard())
from danlu.cli import main

code = main(sys.argv[1:])
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "torchvision", "onnx", "onnxscript"}})
print("HEAVY", heavy)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sealed artifact; nothing here is about what it answers."""
    return heavy_artifact(tmp_path_factory.mktemp("served 服务") / "model.onnx", layers=1)


@pytest.fixture(scope="module")
def digit() -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (40, 60, 3)))


def danlu(*arguments: str, seconds: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a verb that is expected to end by itself."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, "-m", "danlu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=seconds, check=False)


def refused(path: Path, *more: str) -> str:
    """Return the one message with which ``danlu serve`` refuses, before it takes a port."""
    found = danlu("serve", str(path), "--port", str(free_port()), *more)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    return found.stderr


def not_opened(path: Path) -> str:
    """Return why the one door to every artifact does not open it."""
    with pytest.raises(InputError) as caught:
        Engine.open(path, 1)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to answer")
def test_b69_sigterm_under_load_loses_no_answer(artifact: Path, digit: bytes) -> None:
    with process(artifact, "--threads", "1", "--quiet") as (served, client):
        replies: list[Reply] = []
        lost: list[str] = []

        def ask() -> None:
            stopping = False
            while not stopping:
                try:
                    replies.append(client.predict(digit))
                except OSError as error:
                    lost.append(repr(error))
                    return
                stopping = b"stopping" in replies[-1].body

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        served.send_signal(signal.SIGTERM)
        _, told = served.communicate(timeout=20)
        for thread in threads:
            thread.join(10)
    assert served.returncode == 143
    assert "stopped by SIGTERM" in told
    assert lost == []
    assert {reply.status for reply in replies} <= {200, 503}
    assert sum(reply.status == 200 for reply in replies) > 5
    last = [reply for reply in replies if b"stopping" in reply.body]
    assert len(last) == 6
    assert all(reply.headers["connection"] == "close" and "retry-after" in reply.headers for reply in last)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_b69_a_bad_model_on_reload_leaves_the_old_one(artifact: Path, digit: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(artifact.read_bytes())
    with process(path, "--threads", "1") as (served, client):
        before = client.predict(digit).json()["predictions"]
        good = artifact.read_bytes()
        for place, content in enumerate((b"", b"no model", good[:-100], good.replace(b"classifi", b"dlassifi"), good)):
            path.write_bytes(content)
            served.send_signal(signal.SIGHUP)
            outcome = f'danlu_reloads_total{{outcome="{"refused" if place < 4 else "done"}"}} {place % 4 + 1}\n'
            end = time.monotonic() + 30
            while outcome not in client.ask("GET", "/metrics").body.decode():
                assert time.monotonic() < end, outcome
                time.sleep(0.05)
            assert client.predict(digit).json()["predictions"] == before
        served.send_signal(signal.SIGINT)
        _, told = served.communicate(timeout=20)
    assert served.returncode == 130
    assert told.count("goes on answering") == 4
    assert "is loaded again" in told


def test_b63_open_to_others_without_a_token_does_not_start(artifact: Path) -> None:
    for host in ("0.0.0.0", "::"):
        message = refused(artifact, "--host", host)
        assert "there is no token" in message
        assert "--token-file" in message


def test_b63_open_with_a_token(artifact: Path, digit: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef-token\n")
    options = ("--host", "0.0.0.0", "--token-file", str(tmp_path / "token"), "--allow-host", "pictures.example")
    with process(artifact, *options, "--threads", "1") as (_, client):
        assert client.predict(digit).status == 401
        known = Client(client.port, "0123456789abcdef-token")
        assert known.predict(digit).status == 200
        assert known.predict(digit, Host="pictures.example").status == 200
        assert known.predict(digit, Host="other.example").status == 421


@pytest.mark.parametrize("banned", ["fastapi", "uvicorn", "python_multipart"])
def test_b73_a_missing_package_is_named_and_not_installed(artifact: Path, banned: str) -> None:
    code = NO_TORCH.format(banned=repr((banned, "torch", "pip")))
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "serve", str(artifact), "--port", str(free_port())]
    found = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60, check=False)
    assert found.returncode == 2
    assert "is not installed" in found.stderr
    assert "pip install 'danlu[serve]'" in found.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to answer")
def test_serving_imports_no_torch(artifact: Path, digit: bytes) -> None:
    port = free_port()
    code = NO_TORCH.format(banned=repr(("torch", "torchvision", "onnx", "onnxscript", "safetensors")))
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "serve", str(artifact), "--port", str(port), "--threads", "1"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    client = Client(port)
    try:
        for _ in range(400):
            try:
                reply = client.predict(digit)
                break
            except OSError:
                time.sleep(0.05)
        assert reply.status == 200
        assert client.predict(digit, path="/v1/explain").status == 200
        assert client.ask("GET", "/openapi.json").status == 200
        served.terminate()
        told, _ = served.communicate(timeout=20)
    finally:
        served.kill()
        served.wait()
    assert "HEAVY []" in told
    assert served.returncode == 143


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.target, "executed"))


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.pt", "model.pkl", "model.keras", "model.h5", "model.xml", "model.zip"]
)
def test_b71_one_guard_for_every_format(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / name
    if path.suffix in (".keras", ".zip", ".pt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Planted(mark)))
            archive.writestr("config.json", json.dumps({"class_name": "Lambda", "safe_mode": True}))
    else:
        path.write_bytes(pickle.dumps(Planted(mark)))
    message = not_opened(path)
    assert "no digest" in message or "no .onnx file" in message
    assert not mark.exists()


def test_b14_b15_what_is_no_artifact_is_parsed_by_nothing(artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    content = artifact.read_bytes()
    rng = np.random.default_rng(0)
    fuzzed = bytearray(content)
    for place in rng.integers(0, len(content), 40):
        fuzzed[place] ^= int(rng.integers(1, 255))
    for bad, told in (
        (b"", "empty"),
        (bytes(fuzzed), "changed since"),
        (rng.bytes(10_000), "no digest"),
        (b"\x08\x0a", "no digest"),
    ):
        path.write_bytes(bad)
        assert told in not_opened(path)


def test_b15_sealed_but_not_to_be_run(artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    unknown = onnx.load(artifact)
    unknown.graph.node[-1].op_type = "Rm"
    path.write_bytes(sealed(unknown))
    assert "ONNX Runtime cannot load it" in not_opened(path)
    huge = onnx.load(artifact)
    huge.graph.initializer.append(numpy_helper.from_array(np.array([2**40, 2**20], np.int64), "sides"))
    huge.graph.node.insert(0, helper.make_node("ConstantOfShape", ["sides"], ["space"], "space"))
    huge.graph.node.insert(1, helper.make_node("ReduceSum", ["space"], ["much"], "much", keepdims=0))
    last = next(node for node in huge.graph.node if "probabilities" in node.output)
    last.output[0] = "plain"
    huge.graph.node.append(helper.make_node("Add", ["plain", "much"], ["probabilities"], "more"))
    path.write_bytes(sealed(huge))
    assert "cannot run it" in not_opened(path)
    assert "cannot run it" in refused(path)


def test_b13_data_outside_the_file_is_refused(artifact: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4096))
    (tmp_path / "models").mkdir()
    links = {"link.bin": "symlink_to", "hard.bin": "hardlink_to"}
    for name, make in links.items():
        getattr(tmp_path / "models" / name, make)(secret)
    for location in ("../secret", str(secret), *links):
        model = onnx.load(artifact)
        tensor = next(
            one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT and len(one.raw_data) > 16
        )
        count = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": str(count)}.items():
            tensor.external_data.add(key=key, value=value)
        path = tmp_path / "models" / "model.onnx"
        path.write_bytes(sealed(model))
        assert "cannot load it" in not_opened(path)


def test_what_is_not_finite_is_not_served(artifact: Path, tmp_path: Path) -> None:
    changed = onnx.load(artifact)
    tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == "head")
    weights = numpy_helper.to_array(tensor).copy()
    weights[3] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    (tmp_path / "spoilt.onnx").write_bytes(sealed(changed))
    found = danlu("serve", str(tmp_path / "spoilt.onnx"), "--port", str(free_port()))
    assert found.returncode == 1
    assert "not finite" in found.stderr


def test_a_port_in_use_is_named(artifact: Path) -> None:
    with process(artifact, "--threads", "1") as (_, client):
        found = danlu("serve", str(artifact), "--port", str(client.port))
    assert found.returncode == 2
    assert f"127.0.0.1:{client.port}" in found.stderr
    assert "another --port" in found.stderr
