"""What an artifact says of itself, and the files that are refused."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, numpy_helper, parser

from danlu.core.errors import InputError
from danlu.deploy.artifact import ArtifactInfo, read_artifact, sealed
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime

INFO = ArtifactInfo(
    task="classification",
    model="tiny",
    precision="fp32",
    classes=("猫", "<script>", "=cmd()"),
    picture_size=(4, 6),
    channels=1,
    outputs=({"name": "logits", "shape": ["batch", 3], "meaning": "scores"},),
    stages={"first": "stage.first"},
    hashes={"data": "ab", "weights": "cd"},
    parity={"validation": {"relative": 1e-7}},
    version="0.1.0",
    split={"seed": 3, "test_given": False},
)
OPTIONAL = ("danlu.split",)
GRAPH = """<ir_version: 10, opset_import: ["" : 18]>
small (uint8[batch, height, width, 1] pictures) => (float[batch, 3] logits) {
  cast = Cast <to = 1> (pictures)
  summed = ReduceSum <keepdims = 0> (cast, axes)
  logits = Add (summed, weight)
}"""


def small_model(info: ArtifactInfo = INFO) -> onnx.ModelProto:
    model = parser.parse_model(GRAPH)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.int64), "axes"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.float32), "weight"))
    for key, value in info.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    return model


def save(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_metadata_round_trip(tmp_path: Path) -> None:
    assert read_artifact(save(tmp_path / "模型.onnx", small_model())) == INFO
    assert OnnxRuntime.load(tmp_path / "模型.onnx").metadata == INFO.to_metadata()
    assert all(json.loads(value) is not None for value in INFO.to_metadata().values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"garbage" * 100, "no ONNX file"),
        (b"\x08\x0a" * 50, "holds no graph"),
        (b"<!doctype html><html></html>", "no ONNX file"),
        (b"PK\x03\x04" + bytes(64), "no ONNX file"),
    ],
)
def test_what_is_no_onnx_file(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_artifact(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError):
        OnnxRuntime.load(path)


@pytest.mark.parametrize("cut", [1, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = save(tmp_path / "model.onnx", small_model())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError):
        read_artifact(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_artifact(tmp_path / "nothing.onnx")
    with pytest.raises(InputError, match="danlu export RUN"):
        read_artifact(tmp_path)
    save(tmp_path / "model.onnx", small_model())
    with pytest.raises(InputError, match=r"give .*model\.onnx"):
        read_artifact(tmp_path)


def test_an_onnx_file_of_somebody_else(tmp_path: Path) -> None:
    model = small_model()
    del model.metadata_props[:]
    with pytest.raises(InputError, match="no artifact of this tool"):
        read_artifact(save(tmp_path / "model.onnx", model))


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="schema 2 is newer than 1"):
        read_artifact(save(tmp_path / "model.onnx", small_model(replace(INFO, schema=2))))


def test_artifacts_of_older_versions_open(tmp_path: Path) -> None:
    """They have neither a digest nor the facts of their split."""
    older = replace(INFO, split=None)
    assert "danlu.split" not in older.to_metadata()
    assert read_artifact(save(tmp_path / "model.onnx", small_model(older))) == older


def test_every_flipped_byte_is_seen_or_harmless(tmp_path: Path) -> None:
    """Harmless is only a flip that hides the digest itself; all that answers is then as it was."""
    content = sealed(small_model())
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert read_artifact(path) == INFO
    hidden = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(InputError):
            assert read_artifact(path) == INFO
            hidden += 1
    begin = content.index(b"danlu.digest")
    assert hidden <= len("danlu.digest") + 4
    for changed in (content + b"\0", content[:-1]):
        path.write_bytes(changed)
        with pytest.raises(InputError):
            read_artifact(path)
    damaged = bytearray(content)
    damaged[begin + len("danlu.digest") + 3] = ord("!")
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="has changed since it was exported"):
        read_artifact(path)


def test_sealing_again_gives_the_same_bytes() -> None:
    model = small_model()
    content = sealed(model)
    assert model == small_model(), "the model itself stays as it is"
    assert sealed(onnx.load_model_from_string(content)) == content
    named = replace(INFO, classes=("danlu.digest", '\n\x0cdanlu.digest\x12B"' + "0" * 64))
    again = onnx.load_model_from_string(sealed(small_model(named)))
    assert ArtifactInfo.from_metadata({e.key: e.value for e in again.metadata_props}, "x") == named


@pytest.mark.parametrize("key", sorted(key for key in INFO.to_metadata() if key not in OPTIONAL))
def test_a_missing_entry_is_named(tmp_path: Path, key: str) -> None:
    model = small_model()
    kept = [entry for entry in model.metadata_props if entry.key != key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    with pytest.raises(InputError, match=key):
        read_artifact(save(tmp_path / "model.onnx", model))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "true"),
        ("schema", "one"),
        ("labels", "[]"),
        ("labels", '["a", "a"]'),
        ("labels", '["a", 1]'),
        ("picture_size", "[8]"),
        ("picture_size", "[8, 0]"),
        ("picture_size", '"8x8"'),
        ("channels", "2"),
        ("outputs", '[{"shape": []}]'),
        ("outputs", "[1]"),
        ("stages", '{"a": 1}'),
        ("hashes", "[]"),
        ("split", '{"seed": "0", "test_given": false}'),
        ("split", '{"seed": 0}'),
        ("split", "7"),
        ("parity", "[" * 100_000),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, key: str, value: str) -> None:
    model = small_model()
    next(entry for entry in model.metadata_props if entry.key == f"danlu.{key}").value = value
    with pytest.raises(InputError, match=rf"danlu\.({key}|stages)"):
        read_artifact(save(tmp_path / "model.onnx", model))


def test_graph_and_metadata_must_agree(tmp_path: Path) -> None:
    outputs: tuple[dict[str, Any], ...] = ({"name": "probabilities"},)
    with pytest.raises(InputError, match="its metadata says"):
        read_artifact(save(tmp_path / "model.onnx", small_model(replace(INFO, outputs=outputs))))


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[0].input[0] = "from nowhere"
    with pytest.raises(InputError, match="no valid ONNX graph"):
        read_artifact(save(tmp_path / "model.onnx", model))
    with pytest.raises(InputError, match="ONNX Runtime cannot load it"):
        OnnxRuntime.load(tmp_path / "model.onnx")


@pytest.mark.parametrize("place", ["weights.bin", "../weights.bin", "absolute", "hard link", "symbolic link"])
def test_data_outside_the_file_is_refused(tmp_path: Path, place: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Wherever it lies: an artifact is one file."""
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "weights.bin"
    np.array([1, 2, 3], np.float32).tofile(secret)
    location = {"absolute": str(secret), "hard link": "weights.bin", "symbolic link": "weights.bin"}.get(place, place)
    if place in ("hard link", "weights.bin"):
        os.link(secret, inside / "weights.bin")
    elif place == "symbolic link":
        (inside / "weights.bin").symlink_to(secret)
    model = small_model()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    external_data_helper.set_external_data(tensor, location=location, offset=0, length=12)
    tensor.ClearField("raw_data")
    path = save(inside / "model.onnx", model)
    with pytest.raises(InputError, match=r"stored outside the file: weight"):
        read_artifact(path)
    with pytest.raises(InputError, match="ONNX Runtime cannot load it"):
        OnnxRuntime.load(path)
    assert capfd.readouterr() == ("", "")


def test_data_outside_is_found_in_subgraphs(tmp_path: Path) -> None:
    inner = parser.parse_graph("inner () => (float[1] y) { y = Constant <value = float[1] {1}> () }")
    tensor = inner.node[0].attribute[0].t
    tensor.raw_data = b"\x00" * 4
    tensor.ClearField("float_data")
    external_data_helper.set_external_data(tensor, location="x.bin", offset=0, length=4)
    tensor.ClearField("raw_data")
    tensor.name = "hidden"
    model = small_model()
    node = onnx.helper.make_node("If", ["condition"], ["z"], then_branch=inner, else_branch=inner)
    model.graph.node.insert(0, node)
    with pytest.raises(InputError, match="stored outside the file: hidden"):
        read_artifact(save(tmp_path / "model.onnx", model))
