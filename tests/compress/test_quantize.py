"""INT8: what is claimed is on disk, the input stays untouched, the layer to blame stands first."""

from __future__ import annotations

import io
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from danlu.compress import METHODS
from danlu.compress.quantize import layer_errors, quantize_onnx
from danlu.core.errors import InputError
from danlu.core.registry import index_text
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime

# float32, with a resize-like part in front, two convolutions, and a fully connected layer.
GRAPH = """<ir_version: 10, opset_import: ["" : 18]>
net (uint8[batch, 8, 8, 3] pictures) => (float[batch, 5] logits, float[batch, 5] probabilities) {
  cast = Cast <to = 1> (pictures)
  scaled = Mul (cast, scale)
  fed = Transpose <perm = [0, 3, 1, 2]> (scaled)
  first = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (fed, w1, b1)
  first_relu = Relu (first)
  second = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (first_relu, w2, b2)
  second_relu = Relu (second)
  flat = Flatten (second_relu)
  logits = Gemm <transB = 1> (flat, w3, b3)
  probabilities = Softmax (logits)
}"""
LAYERS = ("first", "second", "logits")


def make_model(outlier: float = 1.0) -> onnx.ModelProto:
    """A random network; ``outlier`` enlarges one channel and takes it back in the next layer."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(GRAPH)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (12, 8, 3, 3), "b2": (12,), "w3": (5, 192), "b3": (5,)}
    values = {name: rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])) for name, shape in shapes.items()}
    values["w1"][2] *= outlier
    values["b1"][2] *= outlier
    values["w2"][:, 2] /= outlier
    values["scale"] = np.array(1 / 64)
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
    for node in model.graph.node:
        node.name = node.output[0]
    model.metadata_props.add(key="danlu.model", value='"net"')
    return model


def pictures(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "浮点 float.onnx"
    onnx.save(make_model(), path)
    return path


def answers(path: Path) -> Any:
    return OnnxRuntime.load(path, threads=1).predict(pictures(100, seed=9))["logits"]


def test_registered_and_indexed() -> None:
    assert METHODS.get("quantize") is quantize_onnx
    assert METHODS.index_path.read_text(encoding="utf-8") == index_text(METHODS.build_index())


def test_what_is_claimed_is_on_disk(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    target = tmp_path / "int8.onnx"
    report = quantize_onnx(source, target, [pictures(64), pictures(30, 1), pictures(0)], float_until="fed")
    assert source.read_bytes() == before
    assert (report.bytes_before, report.bytes_after) == (len(before), target.stat().st_size)
    assert (report.pictures, report.layers, report.method) == (94, LAYERS, "min-max")
    assert report.seconds > 0
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for weight in ("w1", "w2", "w3"):
        assert weight not in types
        assert types[f"{weight}_quantized"] == onnx.TensorProto.INT8
    scales = {tensor.name: tensor.dims[:] for tensor in model.graph.initializer if tensor.name.endswith("_scale")}
    assert scales["w1_scale"] == [8]
    assert scales["w2_scale"] == [12]
    stored = [tensor for tensor in model.graph.initializer if tensor.name.endswith("_zero_point")]
    points = [tensor for tensor in stored if tensor.name.startswith(("fed", "fir"))]
    assert points
    assert all(tensor.data_type == onnx.TensorProto.UINT8 for tensor in points)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("danlu.model", '"net"')]
    float_answers, int8_answers = answers(source), answers(target)
    assert 0 < np.abs(int8_answers - float_answers).max() < 0.05 * np.abs(float_answers).max()
    said = OnnxRuntime.load(target, threads=1).describe()
    assert (said["precision"], said["layers"]) == ("int8", {"int8": 3})


def test_what_leads_to_the_network_stays_in_float(source: Path, tmp_path: Path) -> None:
    quantize_onnx(source, tmp_path / "int8.onnx", [pictures(32)], float_until="fed")
    model = onnx.load(tmp_path / "int8.onnx")
    quantised = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert "fed" in quantised
    assert not quantised & {"cast", "scaled", "logits"}
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    assert softmax.input[0] == "logits"
    assert [node.op_type for node in model.graph.node if "logits" in node.output] == ["Gemm"]


def test_the_same_pictures_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    reports = [
        quantize_onnx(source, tmp_path / f"{i}.onnx", [pictures(32)[:split], pictures(32)[split:]])
        for i, split in enumerate((16, 20))
    ]
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    assert reports[0].calibration_hash == reports[1].calibration_hash
    other = quantize_onnx(source, tmp_path / "2.onnx", [pictures(32, 5)])
    assert other.calibration_hash != reports[0].calibration_hash


def test_quiet_and_tidy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    root = logging.getLogger()
    kept = list(root.handlers)
    text = io.StringIO()
    own = logging.StreamHandler(text)
    root.addHandler(own)
    try:
        quantize_onnx(source, tmp_path / "int8.onnx", [pictures(32)])
        logging.getLogger("another").warning("still heard")
    finally:
        root.removeHandler(own)
    assert text.getvalue() == "still heard\n"
    assert root.handlers == kept
    assert root.filters == []
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx", "scratch", source.name]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("layer", ["first", "second", "logits"])
def test_the_layer_to_blame_stands_first(layer: str, tmp_path: Path) -> None:
    """Spoil one layer's quantised weights as an outlier in a channel would, and look who is named."""
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(make_model(), source)
    quantize_onnx(source, target, [pictures(64)], float_until="fed")
    model = onnx.load(target)
    weight = {"first": "w1", "second": "w2", "logits": "w3"}[layer]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == f"{weight}_quantized")
    rounded = (numpy_helper.to_array(tensor) // 32 * 32).astype(np.int8)
    tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    errors = layer_errors(source.read_bytes(), model.SerializeToString(), pictures(16, 3))
    assert errors[0].layer == layer
    assert {row.layer for row in errors} == set(LAYERS)
    assert errors[0].error > 3 * errors[1].error > 0


def test_an_outlier_channel_is_blamed_on_the_layer_that_reads_it(tmp_path: Path) -> None:
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(make_model(outlier=3000.0), source)
    quantize_onnx(source, target, [pictures(64)], float_until="fed")
    errors = layer_errors(source.read_bytes(), target.read_bytes(), pictures(16, 3))
    assert errors[0].layer == "second"
    assert errors[0].error > 10 * errors[1].error
    assert np.abs(answers(target) - answers(source)).max() > 0.2 * np.abs(answers(source)).max()


def test_errors_of_layers_can_be_too_dear(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    quantize_onnx(source, target, [pictures(8)])
    assert layer_errors(source.read_bytes(), target.read_bytes(), pictures(8), seconds=0.0) == []
    assert layer_errors(source.read_bytes(), target.read_bytes(), pictures(8), seconds=60.0) != []


def test_what_cannot_be_quantised(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    with pytest.raises(InputError, match="no pictures to calibrate with"):
        quantize_onnx(source, target, [])
    with pytest.raises(InputError, match="no tensor 'nothing'"):
        quantize_onnx(source, target, [pictures(4)], float_until="nothing")
    with pytest.raises(InputError, match="no layer to quantise"):
        quantize_onnx(source, target, [pictures(4)], float_until="probabilities")
    with pytest.raises(InputError, match="no such file"):
        quantize_onnx(tmp_path / "none.onnx", target, [pictures(4)])
    model = make_model()
    model.graph.node[3].name = ""
    onnx.save(model, tmp_path / "unnamed.onnx")
    with pytest.raises(InputError, match="without a name"):
        quantize_onnx(tmp_path / "unnamed.onnx", target, [pictures(4)])
    assert not target.exists()


def test_reduced_range_uses_seven_bits(source: Path, tmp_path: Path) -> None:
    quantize_onnx(source, tmp_path / "int8.onnx", [pictures(8)], reduce_range=True)
    model = onnx.load(tmp_path / "int8.onnx")
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert weights
    assert all(np.abs(numpy_helper.to_array(tensor).astype(int)).max() <= 64 for tensor in weights)


@pytest.mark.parametrize("rule", ["percentile", "entropy", "mse"])
def test_other_rules_clip_outliers_and_answer_alike(rule: str, source: Path, tmp_path: Path) -> None:
    report = quantize_onnx(source, tmp_path / "a.onnx", [pictures(64)], float_until="fed", rule=rule)
    assert (report.method, report.layers, report.float_layers) == (rule, LAYERS, ())
    reference, found = answers(source), answers(tmp_path / "a.onnx")
    assert 0 < np.abs(found - reference).max() < 0.1 * np.abs(reference).max()
    quantize_onnx(source, tmp_path / "b.onnx", [pictures(64)], float_until="fed")
    assert (tmp_path / "a.onnx").read_bytes() != (tmp_path / "b.onnx").read_bytes()
    with pytest.raises(InputError, match="unknown rule"):
        quantize_onnx(source, tmp_path / "c.onnx", [pictures(4)], rule="best")


def test_layers_stay_in_float_where_asked(source: Path, tmp_path: Path) -> None:
    report = quantize_onnx(source, tmp_path / "a.onnx", [pictures(32)], float_until="fed", keep_float=["second"])
    assert (report.layers, report.float_layers) == (("first", "logits"), ("second",))
    # Its input is not rounded either, and the ReLU that was folded into that rounding is there again.
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    made = {name: node for node in model.graph.node for name in node.output}
    second = next(node for node in model.graph.node if node.name == "second")
    assert made[second.input[0]].op_type == "Relu"
    assert second.input[1] == "w2"
    assert np.abs(answers(tmp_path / "a.onnx") - answers(source)).max() < 0.05 * np.abs(answers(source)).max()
    with pytest.raises(InputError, match="no layer 'nowhere'"):
        quantize_onnx(source, tmp_path / "b.onnx", [pictures(4)], float_until="fed", keep_float=["nowhere"])


def test_the_layer_that_hurts_has_the_least_signal_to_noise(tmp_path: Path) -> None:
    onnx.save(make_model(outlier=100.0), tmp_path / "float.onnx")
    quantize_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", [pictures(64)], float_until="fed")
    rows = layer_errors((tmp_path / "float.onnx").read_bytes(), (tmp_path / "int8.onnx").read_bytes(), pictures(32))
    assert rows[0].layer == "second"
    assert rows[0].snr_db == min(row.snr_db for row in rows) < 40
    quantize_onnx(
        tmp_path / "float.onnx", tmp_path / "kept.onnx", [pictures(64)], float_until="fed", keep_float=["second"]
    )
    errors = [
        np.abs(answers(tmp_path / f"{n}.onnx") - answers(tmp_path / "float.onnx")).max() for n in ("int8", "kept")
    ]
    assert errors[1] < errors[0] / 10
