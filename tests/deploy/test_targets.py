"""Exports for other runtimes: folders that answer alike, say what they are, and vanish when they do not agree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from danlu.core.errors import CheckFailed, InputError
from danlu.data.load import Data
from danlu.deploy.artifact import ArtifactInfo
from danlu.deploy.card import unpack_golden
from danlu.deploy.folder import MANIFEST, read_folder
from danlu.deploy.runtimes.openvino import OpenVINO
from danlu.deploy.subjects import FolderSubject, open_subject
from danlu.deploy.targets import export_to
from danlu.deploy.triton import triton_contents
from danlu.evaluate import evaluate
from danlu.single import evaluate_any
from danlu.tasks.trained import Trained
from tests.deploy.trained_runs import save_changed

pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.fixture
def translated(tiny_graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Let export use ``tiny_graph`` instead of translating again; the test may spoil it first."""
    monkeypatch.setattr("danlu.deploy.export.capture", lambda trained: tiny_graph)
    return tiny_graph


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino(tiny: Trained, translated: onnx.ModelProto, data: Data, precision: str) -> None:
    found = export_to(tiny, data, "openvino", precision=precision, threads=1)
    name, ending = ("openvino", "") if precision == "fp32" else ("openvino bf16", ".bf16")
    path = tiny.run.path / f"model.openvino{ending}"
    assert found["artifacts"][name]["file"] == path.name
    assert sorted(file.name for file in path.iterdir()) == ["README.md", MANIFEST, "model.bin", "model.xml"]
    folder = read_folder(path, "openvino")
    assert (folder.info.precision, folder.info.opset, folder.outside) == (precision, 18, ("fitting",))
    assert folder.info.classes == data.classes
    assert folder.info.licence == {"weights": "not stated", "data": "CC BY 4.0"}
    runtime = OpenVINO.load(path, threads=1)
    assert folder.info.golden is not None
    pictures, logits = unpack_golden(folder.info.golden, "golden")
    assert np.abs(runtime.predict(pictures, ["logits"])["logits"] - logits).max() < 1e-4 * np.abs(logits).max()
    executed = found["parity"][name]["executed"]["precision"]
    if precision == "fp32":
        assert executed == runtime.describe()["precision"] == "fp32"
        assert found["parity"][name]["validation"]["relative"] < 1e-5
    else:
        assert executed in ("bf16", "fp32")  # the hint asks; an older processor has no bfloat16
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in card
    assert str(found["parity"][name]["test"]["n"]) in card


SIGNAL_STACK = """
import ctypes, sys
from pathlib import Path
from danlu.deploy.runtimes.openvino import OpenVINO
def registered():
    stack = (ctypes.c_size_t * 3)()
    ctypes.CDLL(None).sigaltstack(None, stack)
    return stack[0]
before = registered()
runtime = OpenVINO.load(Path(sys.argv[1]), threads=1)
during = registered()
del runtime
print(before == during == registered())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO registers a signal stack on Linux only")
def test_openvino_leaves_no_signal_stack(tiny: Trained, translated: onnx.ModelProto, data: Data) -> None:
    export_to(tiny, data, "openvino", threads=1)
    path = tiny.run.path / "model.openvino"
    done = subprocess.run([sys.executable, "-c", SIGNAL_STACK, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]


def test_pictures_of_any_size_and_number(tiny: Trained, translated: onnx.ModelProto, data: Data) -> None:
    export_to(tiny, data, "openvino", threads=1)
    runtime = OpenVINO.load(tiny.run.path / "model.openvino", threads=1)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 20, 13, 1), dtype=np.uint8)
    together = runtime.predict(pictures)["logits"]
    assert together.shape == (5, 10)
    alone = np.concatenate([runtime.predict(one[None])["logits"] for one in pictures])
    assert np.abs(together - alone).max() < 1e-4 * np.abs(together).max()


def test_an_exported_folder_is_evaluated(tiny: Trained, translated: onnx.ModelProto, data: Data) -> None:
    export_to(tiny, data, "openvino", threads=1)
    record = tiny.run.read_record()
    found = evaluate_any(tiny.run.path / "model.openvino", "digits")["results"]["test"]
    assert found["accuracy"]["n"] == len(data.test)
    assert found == evaluate(tiny, data, write=False)["results"]["test"] | {"cross_entropy": found["cross_entropy"]}
    assert tiny.run.read_record() == record


def test_triton(tiny: Trained, translated: onnx.ModelProto, data: Data) -> None:
    export_to(tiny, data, "triton", threads=1)
    path = tiny.run.path / "model.triton"
    config = (path / "config.pbtxt").read_text(encoding="utf-8")
    model = onnx.load(str(path / "1/model.onnx"))
    (given,) = model.graph.input
    assert config.count("{") == config.count("}")
    assert config.count("[") == config.count("]")
    for line in ('backend: "onnxruntime"', f'name: "{given.name}"', "data_type: TYPE_UINT8", "dims: [ -1, -1, 1 ]"):
        assert line in config
    for output in model.graph.output:
        assert f'name: "{output.name}"' in config
    assert config.count("dims: [ 10 ]") == config.count("label_filename") == 2
    # Triton takes the batch for itself, so that the graph must leave it open and `dims` must not name it.
    assert given.type.tensor_type.shape.dim[0].dim_param
    assert (path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(data.classes)
    assert open_subject(path / "1/model.onnx", 1).classes == data.classes


def test_triton_is_told_the_shape_of_an_output(tiny: Trained) -> None:
    info = ArtifactInfo(
        task="classification",
        model="tiny",
        precision="fp32",
        classes=tiny.classes,
        picture_size=(8, 8),
        channels=1,
        outputs=({"name": "activation_maps", "shape": ["batch", 5, 7, "width"]},),
        stages={},
        hashes={},
    )
    config = triton_contents(info, b"")["config.pbtxt"].decode()
    assert 'name: "activation_maps"\n    data_type: TYPE_FP32\n    dims: [ 5, 7, -1 ]\n  }' in config


def spoil(graph: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == "conv2.weight")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))


@pytest.mark.parametrize("to", ["openvino", "triton"])
def test_what_does_not_agree_leaves_nothing(tiny: Trained, translated: onnx.ModelProto, data: Data, to: str) -> None:
    good = export_to(tiny, data, to, threads=1)
    assert good["artifacts"][to]["file"]
    spoil(translated)
    with pytest.raises(CheckFailed, match="at stage 'second'"):
        export_to(tiny, data, to, threads=1)
    assert [path.name for path in tiny.run.path.iterdir()] == ["record.json"]
    record = tiny.run.read_record()
    assert record["artifacts"][to]["file"] is None
    assert not record["parity"][to]["delivered"]


def test_a_runtime_that_is_not_precise_is_refused(
    tiny: Trained, translated: onnx.ModelProto, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hint OpenVINO rounds to bfloat16 where the processor can; then nothing is delivered."""
    monkeypatch.setattr("danlu.deploy.runtimes.openvino._HINTS", {"fp32": "bf16"})
    try:
        export_to(tiny, data, "openvino", threads=1)
    except CheckFailed as error:
        told = str(error)
    else:
        pytest.skip("this processor has no bfloat16")
    assert "silent bf16" in told
    assert not (tiny.run.path / "model.openvino").exists()


def test_refusals(tiny: Trained, data: Data, tmp_path: Path) -> None:
    for to, precision, says in (
        ("openvno", "fp32", "did you mean: openvino"),
        ("ncnn", "int8", "calibration tools"),
        ("web", "bf16", "no bfloat16 kernels"),
        ("onnx", "bf16", "no bfloat16 kernels"),
    ):
        with pytest.raises(InputError, match=says):
            export_to(tiny, data, to, precision=precision, threads=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no folder of an earlier export"):
        export_to(tiny, data, "openvino", out=tmp_path / "mine", threads=1)
    assert (tmp_path / "mine/thesis.txt").exists()


def test_what_another_export_delivered_stays_on_record(tiny: Trained, translated: onnx.ModelProto, data: Data) -> None:
    export_to(tiny, data, "triton", threads=1)
    record = export_to(tiny, data, "openvino", threads=1)
    assert {"triton", "openvino"} <= set(record["artifacts"])
    assert tiny.run.read_record()["artifacts"]["triton"]["file"] == "model.triton"


NCNN = """
import sys
from pathlib import Path
import numpy as np
from danlu.data.load import load_data
from danlu.deploy.parity import parity
from danlu.deploy.runtimes.ncnn import Ncnn
from danlu.deploy.targets import export_to
run, out = Path(sys.argv[1]), Path(sys.argv[2])
data = load_data("digits")
found = export_to(run, data, "ncnn", out=out, threads=1)
assert found["parity"]["ncnn"]["validation"]["relative"] < 1e-4
assert found["parity"]["ncnn"]["executed"]["precision"] == "fp32"
runtime = Ncnn.load(out, threads=1)
pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 13, 1), dtype=np.uint8)
answers = runtime.predict(pictures)
assert answers["logits"].shape == (3, 10)
assert np.allclose(answers["probabilities"].sum(axis=1), 1, atol=1e-5)
again = parity(run, out, data, threads=1)
assert again["passed"] and again["finding"] is None
assert [row["stage"] for row in again["stages"]][4:9] == ["normalise", "c1", "s2", "c3", "s4"]
for wrong in ([b"x"], [out, 0]):
    try:
        Ncnn.load(wrong[0], **({"threads": 0} if len(wrong) > 1 else {}))
    except Exception as error:
        assert type(error).__name__ == "InputError"
    else:
        raise AssertionError(wrong)
print("done")
"""


def test_ncnn_in_a_process_of_its_own(lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A mistake with ncnn's memory ends the process, not the tests."""
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    pytest.importorskip("pnnx", reason="pnnx is not installed")
    # A copy: what is exported is written into the run's record, which others read.
    run = shutil.copytree(lenet[0], tmp_path / "run")
    command = [sys.executable, "-c", NCNN, str(run), str(tmp_path / "model.ncnn")]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[2]
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "done" in ended.stdout


def test_golden_pictures_are_checked(lenet: tuple[Path, dict[str, Any]]) -> None:
    subject = open_subject(lenet[0] / "model.onnx", 1)
    golden = subject.info.golden  # type: ignore[attr-defined]
    pictures, logits = unpack_golden(golden, "golden")
    assert np.abs(subject.logits(pictures) - logits).max() < 1e-5 * np.abs(logits).max()
    for change in (
        {"shape": [2, 8, 8, 9]},
        {"pictures": "no base64"},
        {"logits": [[1.0]]},
        {"pictures": "eJwDAAAAAAE="},
    ):
        with pytest.raises(InputError, match="golden"):
            unpack_golden({**golden, **change}, "golden")


def test_metadata_survives_and_is_json(lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    model = onnx.load(str(lenet[0] / "model.onnx"))
    entries = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert entries["danlu.opset"] == model.opset_import[0].version == 18
    assert set(entries["danlu.licence"]) == {"weights", "data"}
    save_changed(tmp_path / "older.onnx", model)
    del model.metadata_props[:]
    model.metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value=json.dumps(value))
        for key, value in entries.items()
        if key not in ("danlu.opset", "danlu.licence", "danlu.golden", "danlu.digest")
    )
    save_changed(tmp_path / "older.onnx", model)
    older = open_subject(tmp_path / "older.onnx", 1)
    assert older.info.golden is None  # type: ignore[attr-defined]
    assert FolderSubject  # a folder and a file are opened by the same function


def test_openvino_int8(tiny: Trained, translated: onnx.ModelProto, data: Data) -> None:
    """Where the quantiser is part of this version and NNCF is installed."""
    pytest.importorskip("danlu.compress.quantize_openvino", reason="this version has no INT8 for OpenVINO")
    pytest.importorskip("nncf", reason="nncf is not installed")
    found = export_to(tiny, data, "openvino", precision="int8", threads=1)
    folder = read_folder(tiny.run.path / "model.openvino.int8", "openvino")
    assert folder.info.precision == "int8"
    assert len(folder.info.hashes["calibration"]) == 64
    assert "int8" in found["parity"]["openvino int8"]["executed"]["precision"]


def test_the_record_keeps_what_stays_and_says_where_all_lies(
    tiny: Trained, translated: onnx.ModelProto, data: Data, in_tmp: Path
) -> None:
    tiny.run.update_record(export={"quantisation": {"method": "min-max"}, "threads": 7})
    export_to(tiny, data, "openvino", out=Path("elsewhere"), threads=1)
    record = tiny.run.read_record()
    assert record["export"]["quantisation"] == {"method": "min-max"}
    assert record["export"]["threads"] == 1
    assert record["artifacts"]["openvino"]["file"] == str(in_tmp / "elsewhere")
