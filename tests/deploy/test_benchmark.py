"""The benchmark: fair, bounded, and honest about what was executed."""

from __future__ import annotations

import gc
import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.core.errors import InputError
from danlu.core.records import RunFolder
from danlu.data.load import Data
from danlu.deploy import benchmark, machine
from danlu.deploy.benchmark import bench
from danlu.deploy.contenders import Contender
from danlu.deploy.machine import load_average
from danlu.deploy.subjects import threads_of
from danlu.tasks.trained import Trained


def test_a_run_is_measured_in_every_form(lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    threads = torch.get_num_threads()
    found = bench(lenet[0], data, threads=1, seconds=1.0)
    assert torch.get_num_threads() == threads
    assert gc.isenabled()
    names = ["pytorch eager", "onnxruntime fp32", "onnxruntime int8"]
    assert [(row["runtime"], row["batch"]) for row in found["rows"]] == [(n, b) for b in (1, 32) for n in names]
    assert {row["runtime"]: row["precision"] for row in found["rows"]} == dict(
        zip(names, ["fp32", "fp32", "int8"], strict=True)
    )
    for row in found["rows"]:
        known = [row[key] for key in ("median_ms", "p90_ms", "p99_ms") if row[key] is not None]
        assert known[0] > 0
        assert known == sorted(known)
        assert row["pictures_per_second"] == pytest.approx(1000 * row["batch"] / row["median_ms"])
    pairs = [("pytorch eager", "onnxruntime fp32"), ("pytorch eager", "onnxruntime int8")]
    pairs.append(("onnxruntime fp32", "onnxruntime int8"))
    assert [(r["a"], r["b"]) for r in found["ratios"]] == pairs * 2
    assert all(0 < r["low"] <= r["median"] <= r["high"] for r in found["ratios"])
    assert found["threads"] == 1
    assert all(entry["threads"] == 1 for entry in found["executed"].values())
    assert found["executed"]["onnxruntime int8"]["layers"] == {"int8": 5}
    record = json.loads((lenet[0] / "record.json").read_text(encoding="utf-8"))
    assert record["benchmark"] == found


def test_an_artifact_alone_is_measured(lenet: tuple[Path, dict[str, Any]]) -> None:
    found = bench(lenet[0] / "model.int8.onnx", threads=1, seconds=0.2, batches=(3,))
    assert [(row["runtime"], row["precision"], row["batch"]) for row in found["rows"]] == [
        ("onnxruntime int8", "int8", 3)
    ]
    assert found["ratios"] == []
    assert found["settings"]["pictures"] == "noise"


def test_only_delivered_artifacts_are_measured(lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(lenet[0], run)
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    record["artifacts"]["int8"]["file"] = None
    (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
    threads = torch.get_num_threads()
    found = bench(run, threads=threads + 1, seconds=0.2, batches=(1,))
    assert torch.get_num_threads() == threads
    assert found["executed"]["onnxruntime fp32"]["threads"] == threads + 1
    assert [row["runtime"] for row in found["rows"]] == ["pytorch eager", "onnxruntime fp32"]
    (run / "record.json").unlink()
    alone = bench(RunFolder(run), threads=1, seconds=0.2, batches=(1,))
    assert [row["runtime"] for row in alone["rows"]] == ["pytorch eager"]
    assert alone["ratios"] == []


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"repeats": 5}, {"seconds": 0}, {"batches": ()}, {"batches": (0,)}])
def test_bad_settings(lenet: tuple[Path, dict[str, Any]], wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"benchmark|--threads"):
        bench(lenet[0], **wrong)


def test_threads_are_those_training_found_best(tiny: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.deploy.subjects.usable_cores", lambda: 4)
    assert threads_of(tiny) == threads_of(None) == 4
    for found, used in ((3, 3), (16, 4), (0, 4), ("many", 4)):
        config = {"effective": {**tiny.config["effective"], "machine": {"threads": found}}}
        assert threads_of(replace(tiny, config=config)) == used
        assert threads_of(replace(tiny, config=config), 7) == 7


def test_a_busy_machine_is_on_record(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (2.0, 0.0, 0.0), raising=False)
    assert load_average() == 1.0
    assert caplog.messages == []
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (9.0, 0.0, 0.0), raising=False)
    assert load_average() == 4.5
    assert "busy" in caplog.text


def runner(name: str, seconds: float, log: list[str]) -> Contender:
    def answer(pictures: Any) -> None:
        log.append(name)
        time.sleep(seconds)

    return Contender(name, "fp32", answer, {})


def test_repeats_are_interleaved_and_rotate() -> None:
    log: list[str] = []
    runners = [runner("a", 0.001, log), runner("b", 0.002, log)]
    benchmark.measure_in_turn(runners, np.zeros((4, 1, 1, 1), np.uint8), seconds=60, repeats=8)
    warm, burst = benchmark._WARMUP, benchmark._BURST
    assert log[: 2 * warm] == ["a"] * warm + ["b"] * warm
    turns = log[2 * warm :: burst + 1]
    assert turns == ["a", "b", "b", "a"] * 4
    assert [len(runner.bursts[4, "arrays"]) for runner in runners] == [8, 8]
    ratio = benchmark._ratio(runners[0], runners[1], (4, "arrays"))
    assert 0.2 < ratio["median"] < 1  # b takes longer, so it is less than once as fast as a
    assert ratio["repeats"] == 8


@pytest.mark.parametrize(("calls", "known"), [(9, (False, False)), (10, (True, False)), (99, (True, False)),
                                              (100, (True, True))])  # fmt: skip
def test_percentiles_need_enough_calls(calls: int, known: tuple[bool, bool]) -> None:
    """Of 30 calls the 99th percentile is nearly the slowest one."""
    measured = runner("a", 0.0, [])
    measured.bursts[1, "arrays"] = [[0.001 * (1 + i)] for i in range(calls)]
    row = benchmark.row_of(measured, (1, "arrays"))
    assert (row["p90_ms"] is not None, row["p99_ms"] is not None) == known
    assert row["calls"] == calls
    assert row["median_ms"] == pytest.approx((calls + 1) / 2)
    if known[1]:
        assert row["p99_ms"] == pytest.approx(math.ceil(0.99 * calls))


def test_slow_networks_get_fewer_repeats_but_enough() -> None:
    log: list[str] = []
    runners = [runner("slow", 0.01, log)]
    benchmark.measure_in_turn(runners, np.zeros((1, 1, 1, 1), np.uint8), seconds=0.001, repeats=60)
    assert [len(times) for times in runners[0].bursts[1, "arrays"]] == [1] * benchmark._LEAST_REPEATS
    assert len(log) == benchmark._WARMUP + 2 * benchmark._LEAST_REPEATS
