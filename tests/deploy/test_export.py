"""Export: delivered whole and proved, or not at all; the stage to blame is named."""

from __future__ import annotations

import copy
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from danlu.core.errors import CheckFailed, InputError
from danlu.core.files import sha256_file
from danlu.data.load import Data
from danlu.deploy.artifact import read_artifact, sealed
from danlu.deploy.capture import capture
from danlu.deploy.export import export
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime
from danlu.models.base import VisionModel
from danlu.tasks.preprocess import Preprocess
from danlu.tasks.trained import Trained, open_trained


def change(graph: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    """Replace the value of one initialiser."""
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).astype(np.float32), name))


def pictures_of(data: Data, count: int) -> Any:
    return np.stack([np.asarray(data.test[i].picture) for i in range(count)])


def test_the_run_folder_gets_both_artifacts_and_the_record(lenet: tuple[Path, dict[str, Any]]) -> None:
    run, found = lenet
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    assert {key: record[key] for key in found} == found
    for name, file in (("fp32", "model.onnx"), ("int8", "model.int8.onnx")):
        facts = found["artifacts"][name]
        assert facts == {
            "file": file,
            "bytes": (run / file).stat().st_size,
            "sha256": sha256_file(run / file),
        }
    assert found["artifacts"]["int8"]["bytes"] < found["artifacts"]["fp32"]["bytes"] / 2
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "model.int8.md",
        "model.int8.onnx",
        "model.md",
        "model.onnx",
        "record.json",
    ]


def test_parity_is_recorded(lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    parity = lenet[1]["parity"]
    for split in ("validation", "test"):
        fp32 = parity["fp32"][split]
        assert fp32["n"] == len(data.split(split))
        assert fp32["passed"]
        assert fp32["flips"] == 0
        assert 0 < fp32["relative"] < 1e-5
        assert fp32["accuracy_a"] == fp32["accuracy_b"] > 0.9
        assert parity["int8"][split]["relative"] > 1e-4
    stages = [
        "decode",
        "colour order",
        "resize",
        "crop",
        "normalise",
        "c1",
        "s2",
        "c3",
        "s4",
        "logits",
        "post-processing",
    ]
    assert [row["stage"] for row in parity["fp32"]["stages"]] == stages
    assert [row["stage"] for row in parity["int8"]["stages"]] == stages
    assert all(row["relative"] < 0.1 for row in parity["int8"]["stages"])
    assert parity["fp32"]["first_bad_stage"] is None
    assert parity["int8"]["delivered"]
    errors = [row["error"] for row in parity["int8"]["layers"]]
    assert errors == sorted(errors, reverse=True)
    assert {row["layer"] for row in parity["int8"]["layers"]} == {"c1", "c3", "c5", "f6", "output"}
    assert parity["in_graph_resize"] is None


def test_the_metadata_says_what_the_file_is(lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    run, found = lenet
    trained = open_trained(run)
    for name in ("fp32", "int8"):
        path = run / found["artifacts"][name]["file"]
        info = read_artifact(path)
        assert (info.precision, info.task, info.model, info.schema) == (name, "classification", "lenet5", 1)
        assert info.classes == data.classes
        assert (info.picture_size, info.channels) == ((8, 8), 1)
        assert [output["name"] for output in info.outputs] == ["logits", "probabilities"]
        assert info.hashes["data"] == data.hash
        assert info.hashes["weights"] == trained.weights_hash
        assert ("calibration" in info.hashes) == (name == "int8")
        assert info.split == {"seed": data.seed, "test_given": False}
        assert path.read_bytes() == sealed(onnx.load(path))
        assert info.parity["validation"]["n"] == len(data.validation)
        made = {out for node in onnx.load(path).graph.node for out in node.output}
        assert list(info.stages) == ["preprocess", "c1", "s2", "c3", "s4"]
        assert set(info.stages.values()) <= made


@pytest.mark.parametrize("batch", [1, 5, 33])
def test_any_batch_size_answers_as_the_network(lenet: tuple[Path, dict[str, Any]], data: Data, batch: int) -> None:
    trained = open_trained(lenet[0])
    pictures = pictures_of(data, batch)
    with torch.inference_mode():
        logits = trained.picture_model(torch.from_numpy(pictures)).numpy()
    found = OnnxRuntime.load(lenet[0] / "model.onnx", threads=1).predict(pictures)
    assert found["logits"].shape == found["probabilities"].shape == (batch, 10)
    assert np.abs(found["logits"] - logits).max() < 1e-4 * np.abs(logits).max()
    assert found["probabilities"].sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert (found["probabilities"].argmax(1) == logits.argmax(1)).all()


def test_no_names_or_paths_of_this_machine(lenet: tuple[Path, dict[str, Any]]) -> None:
    for file in ("model.onnx", "model.int8.onnx"):
        data = (lenet[0] / file).read_bytes()
        model = onnx.load_model_from_string(data)
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert not model.doc_string
        assert not model.graph.doc_string
        assert all(entry.key.startswith("danlu.") for entry in model.metadata_props)
        home, here = os.path.expanduser("~"), str(Path(__file__).parent.parent.parent)
        for trace in (b".py", b"site-packages", b"stack_trace", home.encode() + b"/", here.encode(), "运行".encode()):
            assert trace not in data
        assert model.producer_name == "danlu"


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, lenet: tuple[Path, dict[str, Any]]) -> None:
    """Another process, working folder, hash seed and time: nothing of them is in the file."""
    code = (
        "import logging, sys; from pathlib import Path; from danlu.data.load import load_data; "
        "from danlu.deploy.export import export; "
        "export(Path(sys.argv[1]), load_data('digits'), out=Path('.'), threads=1); "
        "sys.exit(len(logging.getLogger().handlers))"  # the quantiser's advice would install one
    )
    environment = {**os.environ, "PYTHONHASHSEED": "99", "PYTHONPATH": str(Path(__file__).parents[2])}
    record = (lenet[0] / "record.json").read_bytes()
    command = [sys.executable, "-W", "error", "-c", code, str(lenet[0])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    (lenet[0] / "record.json").write_bytes(record)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for file in ("model.onnx", "model.int8.onnx"):
        assert (tmp_path / file).read_bytes() == (lenet[0] / file).read_bytes()


def test_quiet_and_tidy(
    tiny: Trained,
    captured: onnx.ModelProto,
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    handlers, filters = list(logging.getLogger().handlers), list(logging.getLogger().filters)
    export(tiny, data, threads=1)
    assert list(scratch.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger().handlers, logging.getLogger().filters) == (handlers, filters)
    assert sorted(path.name for path in tiny.run.path.iterdir()) == [
        *("model.int8.md", "model.int8.onnx", "model.md", "model.onnx", "record.json")
    ]
    assert torch.get_float32_matmul_precision() == "highest"


def swapped_statistics(graph: onnx.ModelProto) -> None:
    """Feed (x / 255 - std) / mean, as a swap of the two would."""
    change(graph, "preprocess.scale", lambda scale: scale * 1.02)
    change(graph, "preprocess.shift", lambda shift: shift * 0.9)


def small_change(name: str, factor: float = 1.001) -> Callable[[onnx.ModelProto], None]:
    return lambda graph: change(graph, name, lambda value: value * factor)


def not_a_number(graph: onnx.ModelProto) -> None:
    change(graph, "conv2.weight", lambda value: value * np.nan)


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        (swapped_statistics, "normalise"),
        (small_change("conv1.weight"), "first"),
        (small_change("conv2.weight"), "second"),
        (small_change("conv2.bias", 1.1), "second"),
        (small_change("classifier.weight"), "logits"),
        (not_a_number, "second"),
    ],
)
def test_a_planted_fault_is_found_at_its_stage(
    tiny: Trained, captured: onnx.ModelProto, data: Data, fault: Callable[[onnx.ModelProto], None], stage: str
) -> None:
    fault(captured)
    for stale in ("model.onnx", "model.int8.onnx"):
        (tiny.run.path / stale).write_bytes(b"of an earlier export")
    with pytest.raises(CheckFailed, match=f"at stage '{stage}'") as caught:
        export(tiny, data, threads=1)
    assert caught.value.exit_code == 1
    assert [path.name for path in tiny.run.path.iterdir()] == ["record.json"]
    record = tiny.run.read_record()
    assert record["parity"]["fp32"]["first_bad_stage"] == stage
    assert not record["parity"]["fp32"]["validation"]["passed"]
    assert record["artifacts"]["fp32"]["file"] is None
    assert record["artifacts"]["int8"]["file"] is None


def test_really_swapped_statistics_are_found(tiny: Trained, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny.preprocess.settings
    wrong = settings.model_copy(update={"mean": settings.std, "std": settings.mean})
    faulty = replace(tiny, preprocess=Preprocess(wrong).eval())
    monkeypatch.setattr("danlu.deploy.export.capture", lambda trained: capture(faulty))
    with pytest.raises(CheckFailed, match=r"(?s)at stage 'normalise'.*mean or std"):
        export(tiny, data, threads=1)


def test_batch_statistics_are_found(tiny: Trained, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch normalisation that was captured in training mode."""

    def captured_in_train_mode(trained: Trained) -> onnx.ModelProto:
        model: VisionModel = copy.deepcopy(trained.model)
        norm = model.get_submodule("norm1")
        norm.eval = norm.train = lambda mode=True: norm  # type: ignore[assignment, misc, return-value]
        norm.training = True
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(norm, buffer, None)
        return capture(replace(trained, model=model))

    monkeypatch.setattr("danlu.deploy.export.capture", captured_in_train_mode)
    with pytest.raises(CheckFailed, match="at stage 'first'"):
        export(tiny, data, threads=1)


def with_outlier(trained: Trained, factor: float = 3000.0) -> Trained:
    """The same function in float32, but one channel is so large that 8 bits leave nothing for the others."""
    model = copy.deepcopy(trained.model)
    with torch.no_grad():
        norm, conv2 = model.get_submodule("norm1"), model.get_submodule("conv2")
        norm.weight[0] *= factor  # type: ignore[operator, index]
        norm.bias[0] *= factor  # type: ignore[operator, index]
        conv2.weight[:, 0] /= factor  # type: ignore[operator, index]
    return replace(trained, model=model)


def test_int8_that_loses_too_much_is_left_out(tiny: Trained, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny.run.path / "model.int8.onnx").write_bytes(b"of an earlier export")
    unfit = with_outlier(tiny)
    graph = capture(unfit)
    monkeypatch.setattr("danlu.deploy.export.capture", lambda trained: graph)
    found = export(unfit, data, threads=1)
    int8 = found["parity"]["int8"]
    assert found["parity"]["fp32"]["validation"]["passed"]
    assert not int8["delivered"]
    assert int8["validation"]["accuracy_difference"] < -0.005
    assert int8["layers"][0]["layer"] == "conv2"
    assert int8["layers"][0]["error"] > 3 * int8["layers"][1]["error"]
    assert "conv2" in int8["reason"]
    assert found["artifacts"]["int8"]["file"] is None
    assert found["artifacts"]["fp32"]["file"] == "model.onnx"
    assert sorted(path.name for path in tiny.run.path.iterdir()) == ["model.md", "model.onnx", "record.json"]
    with pytest.raises(CheckFailed, match=r"(?s)INT8 is not delivered.*conv2"):
        export(unfit, data, int8=True, threads=1)
    assert (tiny.run.path / "model.onnx").is_file()
    assert not (tiny.run.path / "model.int8.onnx").exists()


def test_int8_can_be_left_out(tiny: Trained, captured: onnx.ModelProto, data: Data) -> None:
    export(tiny, data, int8=True, threads=1)
    assert (tiny.run.path / "model.int8.onnx").exists()
    found = export(tiny, data, int8=False, threads=1)
    assert not (tiny.run.path / "model.int8.onnx").exists()
    assert found["parity"]["int8"] == {"delivered": False, "reason": "not asked for"}


def test_out_names_a_folder_or_a_file(tiny: Trained, captured: onnx.ModelProto, data: Data, tmp_path: Path) -> None:
    found = export(tiny, data, out=tmp_path / "in 这里" / "my net.onnx", threads=1)
    assert found["artifacts"]["int8"]["file"] == str(tmp_path / "in 这里" / "my net.int8.onnx")
    assert read_artifact(tmp_path / "in 这里" / "my net.onnx").precision == "fp32"
    export(tiny, data, out=tmp_path / "there", int8=False, threads=1)
    assert read_artifact(tmp_path / "there" / "model.onnx").precision == "fp32"
    with pytest.raises(InputError, match="INT8 file"):
        export(tiny, data, out=tmp_path / "x.int8.onnx", threads=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        export(tiny, data, out=tmp_path / "file", threads=1)


def test_other_data_and_other_splits_are_refused(tiny: Trained, data: Data) -> None:
    with pytest.raises(InputError, match="hashes differ"):
        export(tiny, replace(data, hash="ab" * 32))
    with pytest.raises(InputError, match="seed 7") as caught:
        export(tiny, replace(data, seed=7))
    assert "--seed 0" in str(caught.value)
    assert list(tiny.run.path.iterdir()) == []


@pytest.mark.parametrize("resealed", [False, True])
def test_a_file_that_answers_differently_is_removed(
    tiny: Trained, captured: onnx.ModelProto, data: Data, monkeypatch: pytest.MonkeyPatch, resealed: bool
) -> None:
    """The disk, or another process, changed what was written."""

    def write_another(path: Path, content: bytes) -> None:
        model = onnx.load_model_from_string(content)
        change(model, "classifier.bias", lambda bias: bias + 1e-4)
        path.write_bytes(sealed(model) if resealed else model.SerializeToString())

    monkeypatch.setattr("danlu.deploy.job.files.write_whole", write_another)
    with pytest.raises(CheckFailed, match="was removed"):
        export(tiny, data, threads=1)
    assert not (tiny.run.path / "model.onnx").exists()


def test_a_network_torch_cannot_translate(tiny: Trained) -> None:
    def features(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"first": x * torch.from_numpy(x.numpy()), "second": x}

    tiny.model.features = features  # type: ignore[method-assign]
    with pytest.raises(CheckFailed, match="tiny cannot be translated to ONNX"):
        capture(tiny)
