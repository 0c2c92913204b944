"""Rows B13 to B15: ONNX files that reach outside, hold nothing, or are made to harm whoever loads them."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, helper, numpy_helper, parser
from PIL import Image

from danlu.core.errors import InputError
from danlu.deploy.artifact import ArtifactInfo
from danlu.deploy.folder import read_folder, write_folder
from danlu.deploy.graph import describe
from danlu.deploy.hostile import load_unknown
from danlu.deploy.opening import open_artifact
from danlu.deploy.predict import predict
from danlu.deploy.subjects import open_subject

GRAPH = """<ir_version: 10, opset_import: ["" : 18]>
small (float[batch, 4] x) => (float[batch, 4] y) { y = MatMul (x, weight) }"""


def small() -> onnx.ModelProto:
    model = parser.parse_model(GRAPH)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "weight"))
    return model


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink", "hard link"])
def test_b13_data_outside_the_file_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "inner").mkdir()
    secret = tmp_path / "secret.bin"
    np.ones((4, 4), np.float32).tofile(secret)
    location = {"parent": "../secret.bin", "absolute": str(secret)}.get(kind, "weight.bin")
    if kind == "symlink":
        (tmp_path / "inner/weight.bin").symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, tmp_path / "inner/weight.bin")
    model = small()
    tensor = model.graph.initializer[0]
    external_data_helper.set_external_data(tensor, location=location, offset=0, length=64)
    tensor.ClearField("raw_data")
    with pytest.raises(InputError, match="stored outside the file"):
        load_unknown(written(tmp_path / "inner/model.onnx", model))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x0a", b"\x00" * 100, b"PK\x03\x04"])
def test_b14_what_holds_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.onnx"):
        load_unknown(tmp_path / "bad.onnx")


def test_b15_huge_dimensions_end_in_the_child(tmp_path: Path) -> None:
    shape = helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [2**20, 2**20])
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["huge"]), helper.make_node("MatMul", ["x", "huge"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "huge",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2**20])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2**20])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    begin = time.monotonic()
    with pytest.raises(InputError):
        load_unknown(written(tmp_path / "huge.onnx", model), memory=2 * 2**30)
    assert time.monotonic() - begin < 60


def test_b15_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    model = small()
    model.graph.node[0].op_type = "Steal"
    with pytest.raises(InputError, match=r"no valid ONNX graph|cannot load"):
        load_unknown(written(tmp_path / "model.onnx", model))
    model = small()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Steal", "evil.example"
    model.opset_import.append(helper.make_opsetid("evil.example", 1))
    with pytest.raises(InputError):
        load_unknown(written(tmp_path / "model.onnx", model))


def test_b15_what_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not loaded after"):
        load_unknown(written(tmp_path / "model.onnx", small()), seconds=0.01)


def test_b15_a_crash_of_the_child_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.deploy.hostile.sys.executable", _killed(tmp_path))
    with pytest.raises(InputError, match="signal 9"):
        load_unknown(written(tmp_path / "model.onnx", small()))


def _killed(folder: Path) -> str:
    script = folder / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    return str(script)


def test_b15_fuzzed_bytes_end_in_a_message_or_load(tmp_path: Path) -> None:
    draw = random.Random(0)
    content = small().SerializeToString()
    path = tmp_path / "fuzzed.onnx"
    for _ in range(5):
        spoilt = bytearray(content)
        for _ in range(4):
            spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        path.write_bytes(bytes(spoilt))
        with contextlib.suppress(InputError):  # anything else is a failure
            load_unknown(path, memory=3 * 2**30)


def test_a_good_file_is_loaded(tmp_path: Path) -> None:
    path = written(tmp_path / "模型.onnx", small())
    assert load_unknown(path) == path.read_bytes()


def info() -> ArtifactInfo:
    return ArtifactInfo("classification", "m", "fp32", ("a", "b"), (4, 4), 1, ({"name": "logits"},), {}, {})


@pytest.mark.parametrize("way", ["changed", "missing", "symlink", "hard link", "outside", "newer", "other"])
def test_a_folder_that_was_tampered_with_is_refused(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(folder, "openvino", {"model.bin": b"content"}, info())
    assert read_folder(folder, "openvino").info.classes == ("a", "b")
    file, manifest = folder / "model.bin", folder / "artifact.json"
    text = manifest.read_text(encoding="utf-8")
    if way == "changed":
        file.write_bytes(b"Content")
    elif way == "missing":
        file.unlink()
    elif way == "symlink":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif way == "hard link":
        os.link(file, tmp_path / "second")
    elif way == "outside":
        (tmp_path / "model.bin").write_bytes(b"content")
        manifest.write_text(text.replace('"model.bin"', '"../model.bin"'), encoding="utf-8")
    elif way == "newer":
        manifest.write_text(text.replace('"schema": 1', '"schema": 99', 1), encoding="utf-8")
    runtime = "ncnn" if way == "other" else "openvino"
    with pytest.raises(InputError):
        read_folder(folder, runtime)


LOOP = """<ir_version: 8, opset_import: ["" : 17]>
endless (uint8[batch, height, width, 1] pictures) => (float[1, 10] probabilities) {
  often = Constant <value_int = 1152921504606846976> ()
  yes = Constant <value = bool {1}> ()
  floats = Cast <to = 1> (pictures)
  largest = ReduceMax <keepdims = 0> (floats)
  ten = Constant <value_floats = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]> ()
  begin = Mul (ten, largest)
  sums = Loop (often, yes, begin) <body = step (int64 i, bool go, float[10] sum) => (bool on, float[10] more) {
    on = Identity (go)
    more = Add (sum, sum)
  }>
  axis = Constant <value_ints = [0]> ()
  probabilities = Unsqueeze (sums, axis)
}"""


@pytest.mark.parametrize("ask", ["predict", "parity"])
def test_b15_metadata_of_ours_does_not_open_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    """A file that no export sealed is first run in a process of its own, whatever its metadata says."""
    model = parser.parse_model(LOOP)
    helper.set_model_props(model, {"danlu.schema": "1"})
    path = written(tmp_path / "loop.onnx", model)
    patient = functools.partial(load_unknown, seconds=6)
    monkeypatch.setattr("danlu.deploy.hostile.load_unknown", patient)
    monkeypatch.setattr("danlu.deploy.subjects.load_unknown", patient)
    with pytest.raises(InputError, match="is not loaded after 6 s"):
        if ask == "predict":
            open_artifact(path)
        else:
            open_subject(path)


def test_b14_labels_that_are_too_few_are_told(tmp_path: Path) -> None:
    model = parser.parse_model(LOOP.replace("1152921504606846976", "1"))
    info = ArtifactInfo(
        task="classification",
        model="small",
        precision="fp32",
        classes=("a", "b"),
        picture_size=(4, 4),
        channels=1,
        outputs=({"name": "probabilities"},),
        stages={},
        hashes={},
    )
    path = written(tmp_path / "few.onnx", describe(model, info))
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"gives \[1, 10\] for 1 pictures of 2 classes"):
        predict(path, [tmp_path / "a.png"], threads=1)
