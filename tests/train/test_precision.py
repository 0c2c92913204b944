"""Precision: what is chosen, the loss scaler against torch's own, compilation where it pays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from danlu.core.errors import InputError
from danlu.train import measure
from danlu.train.precision import LossScaler, choose_precision
from tests.train.helpers import run_tiny

CPU = torch.device("cpu")


def test_tf32_is_refused_where_there_is_none() -> None:
    with pytest.raises(InputError, match="tf32 is a format of NVIDIA GPUs"):
        choose_precision("tf32", CPU)
    assert choose_precision("fp16", CPU) == ("fp16", "asked for")


def test_the_scaler_follows_torchs_grad_scaler() -> None:
    """The same scales and the same gradients over steps of which some overflow."""
    ours, theirs = LossScaler(2.0**10), torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    ours.PATIENCE = 3  # type: ignore[misc]
    mine, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([other], lr=1.0)
    for step in range(20):
        factor = float("inf") if step in (2, 9, 10) else 0.5 + step
        assert ours.scale == theirs.get_scale()
        (mine.sum() * factor * ours.scale).backward()
        finite = ours.unscale([mine])
        assert mine.grad is not None
        optimizer.zero_grad()
        theirs.scale(other.sum() * factor).backward()
        theirs.unscale_(optimizer)
        assert other.grad is not None
        assert finite == (step not in (2, 9, 10))
        if finite:
            assert torch.equal(mine.grad, other.grad)
        theirs.step(optimizer)
        theirs.update()
        mine.grad = None


def test_an_overflowing_step_is_left_out_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a scale far too large the first steps overflow; then it learns as float32 does."""
    monkeypatch.setattr("danlu.train.plan.LossScaler", lambda: LossScaler(2.0**40))
    run = run_tiny(tmp_path / "run", overrides={"precision": "fp16", "epochs": 3})
    epochs = [entry for entry in run.read_log() if entry["kind"] == "epoch"]
    assert epochs[-1]["validation"]["accuracy"] > 0.6
    assert run.read_config()["effective"]["machine"]["precision"] == "fp16"


def test_compilation_is_chosen_where_it_saves_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that compiled steps take less of; the compiler itself is not run."""
    times = {"plain": 0.02, "compiled": 0.01}
    monkeypatch.setattr(measure, "step_probe", lambda training, compiled=False: lambda: None)
    monkeypatch.setattr(measure, "time_steps", lambda step, candidates: {1: times["compiled"]})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    training = type("T", (), {"total_steps": 1000})()
    training.total_steps = 10_000
    assert measure.choose_compile(training, times["plain"])[0] is True  # type: ignore[arg-type]
    training.total_steps = 100  # two seconds: compiling is not even tried
    monkeypatch.setattr(measure, "step_probe", None)
    assert measure.choose_compile(training, times["plain"])[0] is False  # type: ignore[arg-type]
    monkeypatch.setattr(measure, "step_probe", lambda training, compiled=False: lambda: None)
    times["compiled"] = 0.0199
    training.total_steps = 10**6
    pays, why, seconds = measure.choose_compile(training, times["plain"])  # type: ignore[arg-type]
    assert (pays, seconds) == (False, 0.02)
    assert "not compiled" in why


def test_a_compiler_that_fails_is_said_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(measure, "step_probe", lambda training, compiled=False: fails)
    training = type("T", (), {"total_steps": 1000})()
    found = measure.choose_compile(training, 0.5)  # type: ignore[arg-type]
    assert found == (False, "torch.compile failed: no C++ compiler", 0.5)


def test_a_compiled_run_takes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled without code generation, which takes minutes: what is tested is that weights and names stay."""
    compiled: list[str] = []
    original = nn.Module.compile

    def compile_eagerly(self: nn.Module) -> None:
        compiled.append(type(self).__name__)
        original(self, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    plain = run_tiny(tmp_path / "plain", overrides={"epochs": 1})
    run = run_tiny(tmp_path / "compiled", overrides={"epochs": 1, "compile": True})
    assert compiled == ["LeNet5"]
    losses = [[entry["loss"] for entry in one.read_log() if entry["kind"] == "step"] for one in (plain, run)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
