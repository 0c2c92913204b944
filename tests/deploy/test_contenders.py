"""What a benchmark compares: the precision that ran, every part of the way, cold processes, and what is refused."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from danlu.core.environment import cpu_features
from danlu.core.errors import CheckFailed, InputError
from danlu.data.load import Data
from danlu.deploy import contenders as module
from danlu.deploy import machine
from danlu.deploy.artifact import ArtifactInfo
from danlu.deploy.benchmark import bench, pictures_of
from danlu.deploy.cold import FACTS, cold_facts
from danlu.deploy.contenders import Contender, compare_values, eager_answer, open_contenders, runtime_contender
from danlu.deploy.graph_parts import network_only
from danlu.deploy.machine import Watch, memory_bytes
from danlu.tasks.trained import open_trained
from tests.deploy.trained_runs import save_changed


@pytest.fixture(scope="module")
def pictures(data: Data) -> Any:
    return pictures_of(data, 8, (data.picture.height, data.picture.width), data.picture.channels)


def test_eager_says_what_its_layers_gave(lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    found = bench(lenet[0], data, threads=1, seconds=0.2, batches=(2,), eager=("fp32", "bf16"))
    told = {row["runtime"]: row["precision"] for row in found["rows"]}
    assert told["pytorch eager"] == "fp32"
    assert told["pytorch eager bf16"] == "bf16"
    assert found["executed"]["pytorch eager bf16"]["layers"] == {"bf16": 5}
    differences = {name: executed.get("difference") for name, executed in found["executed"].items()}
    assert differences["pytorch eager"] is None
    assert differences["onnxruntime fp32"] < 1e-5
    assert 3e-4 < differences["pytorch eager bf16"] < 0.1


def test_what_a_runtime_says_is_not_believed(lenet: tuple[Path, dict[str, Any]], pictures: Any) -> None:
    """One that says fp32 and computes in bfloat16 is found by its answers."""
    honest = open_contenders([lenet[0] / "model.onnx", lenet[0] / "model.int8.onnx"], 1)
    _, answer = eager_answer(open_trained(lenet[0]), "bf16")
    weights = honest[0].weights
    liar = Contender("liar", "fp32", answer, {"precision": "fp32"}, weights=weights)
    broken = Contender("nan", "fp32", lambda p: np.full((len(p), 10), np.nan), {}, weights=weights)
    other = Contender("other", "fp32", answer, {}, weights="of another network")
    compare_values([*honest, liar, broken, other], pictures)
    assert [contender.precision for contender in honest] == ["fp32", "int8"]
    assert liar.precision.startswith("fp32 as told, but answers differ by")
    assert broken.precision.startswith("fp32 as told, but answers differ by nan")
    assert other.precision == "fp32"
    assert "difference" not in other.executed


@pytest.mark.skipif("avx512_bf16" not in cpu_features(), reason="the processor has no bfloat16")
def test_openvino_in_bf16_is_shown_as_bf16(lenet: tuple[Path, dict[str, Any]], pictures: Any) -> None:
    pytest.importorskip("openvino")
    from danlu.deploy.runtimes.openvino import OpenVINO

    path = lenet[0] / "model.onnx"
    told = []
    for precision in ("fp32", "bf16"):
        runtime = OpenVINO.load(path, threads=1, precision=precision)
        info = ArtifactInfo.from_metadata(runtime.metadata, str(path))
        told.append(runtime_contender(runtime, info, path))
    compare_values(told, pictures)
    assert told[0].precision == "fp32"
    assert "bf16" in told[1].precision
    assert told[1].executed["difference"] > 1e-4


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_parts_of_the_way_give_the_same_answers(lenet: tuple[Path, dict[str, Any]], pictures: Any, name: str) -> None:
    eager, *artifacts = open_contenders([lenet[0]], 1)
    contender = next(c for c in artifacts if c.source[0].endswith(name) and c.source[0].count(".") == name.count("."))
    for one in (eager, contender):
        span = one.span("network")
        assert span is not None
        logits = np.asarray(span.answer(span.feed(pictures)), dtype=np.float64)
        whole = np.asarray(one.answer(pictures), dtype=np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert np.allclose(probabilities, whole, atol=1e-5)
        files = one.span("files")
        assert files is not None
        named = files.answer(files.feed(pictures))
        # JPEG changes pixels a little, so one class may change.
        assert sum(a == one.classes[b] for a, b in zip(named, whole.argmax(1), strict=True)) >= len(pictures) - 1


def test_parts_are_a_table_of_their_own(lenet: tuple[Path, dict[str, Any]]) -> None:
    model = lenet[0] / "model.onnx"
    found = bench(model, threads=1, seconds=0.2, batches=(1, 4), spans=("network", "files"), cold=1)
    assert [(row["span"], row["batch"]) for row in found["spans"]] == [
        (span, batch) for batch in (1, 4) for span in ("network", "arrays", "files")
    ]
    times = {row["span"]: row["median_ms"] for row in found["spans"] if row["batch"] == 1}
    assert times["arrays"] < times["files"]
    (cold,) = found["cold"]
    assert set(cold) == {"runtime", *FACTS}
    assert all(cold[fact] > 0 for fact in FACTS if fact.endswith("_s"))
    assert len(found["rows"]) == 2


def test_a_part_that_does_not_exist_is_no_network(tiny_graph: onnx.ModelProto) -> None:
    with pytest.raises(ValueError, match="does not come from"):
        network_only(tiny_graph, "logits", "stage.preprocess", (1, 8, 8))


def test_cold_processes_tell_or_fail_loudly(lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (facts,) = cold_facts([(str(lenet[0] / "model.onnx"),)], 1, 1)
    assert list(facts) == list(FACTS)
    if memory_bytes()[0] is not None:
        assert 20 < facts["memory_mb"] <= facts["peak_mb"] < 200
    with pytest.raises(CheckFailed, match=r"none\.onnx: the process that opens it anew failed"):
        cold_facts([(str(tmp_path / "none.onnx"),)], 1, 1)


def test_equal_names_get_their_sources(lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copy(lenet[0] / "model.onnx", tmp_path / "copy.onnx")
    names = [contender.name for contender in open_contenders([lenet[0] / "model.onnx", tmp_path / "copy.onnx"], 1)]
    assert names == [f"onnxruntime fp32 {lenet[0] / 'model.onnx'}", f"onnxruntime fp32 {tmp_path / 'copy.onnx'}"]


def test_other_pictures_are_no_comparison(lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    changed = onnx.load(lenet[0] / "model.onnx")
    next(entry for entry in changed.metadata_props if entry.key == "danlu.picture_size").value = "[9,9]"
    save_changed(tmp_path / "other.onnx", changed)
    with pytest.raises(InputError, match=r"takes pictures of 9×9×1, .* takes 8×8×1"):
        open_contenders([lenet[0] / "model.onnx", tmp_path / "other.onnx"], 1)


def test_mixed_precision_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).to(torch.bfloat16))

    def call() -> None:
        network[1](network[0](torch.zeros(1, 2)).to(torch.bfloat16))

    layers = module._layers_of(network, call)
    assert layers == {"fp32": 1, "bf16": 1}
    assert module._told(layers) == "fp32 1 of 2 layers, bf16 1 of 2 layers"
    assert not network[0]._forward_hooks


def test_others_work_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    own, busy, now = iter([1.0, 3.0]), iter([10.0, 27.0]), iter([0.0, 10.0])
    monkeypatch.setattr(machine, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(machine, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    watch = Watch()
    monkeypatch.undo()
    monkeypatch.setattr(machine, "_own_seconds", lambda: 3.0)
    monkeypatch.setattr(machine, "_busy_seconds", lambda: 27.0)
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: 10.0))
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    assert watch.check(2) == 1.5  # 17 busy seconds, 2 of them ours, in 10
    assert "other work took 1.5 of 2 cores" in caplog.text
    caplog.clear()
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    assert watch.check(2) == 1.5
    assert not caplog.text
    monkeypatch.setattr(machine, "_busy_seconds", lambda: None)
    assert watch.check(2) is None


def test_memory_is_told_in_bytes() -> None:
    now, highest = memory_bytes()
    for value in (now, highest):
        assert value is None or 10**7 < value < 10**12
    assert now is None or highest is None or now <= highest * 1.01
    assert not math.isnan(float(highest or 0))
