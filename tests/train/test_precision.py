"""Precision: what is chosen, the loss scaler against torch's own, compilation where it pays."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from danlu.core.errors import InputError, Stopped
from danlu.core.records import new_run_folder
from danlu.train import measure, resume
from danlu.train.loop import Training
from danlu.train.parallel import rank_state
from danlu.train.precision import LossScaler, choose_precision
from danlu.train.start import choose
from tests.train.helpers import curve, digits, hashes, run_tiny

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


def test_other_ranks_are_given_all_that_a_checkpoint_holds(tmp_path: Path) -> None:
    overrides = {"precision": "fp16", "epochs": 1, "ema": 0.9, "optimizer.name": "adamw"}
    plan = choose(digits(), model="lenet5", recipe=None, overrides=overrides, seed=0, device="cpu")[0]
    training = plan.build(digits(), new_run_folder(tmp_path / "run", "digits", "lenet5"))
    training.save()
    (folder,) = training.run.checkpoints.glob("step-*")
    held = {*load_file(folder / "weights.safetensors"), *load_file(folder / "optimizer.safetensors")}
    given = {name for part in rank_state(training) for name in part}
    assert {name.removeprefix("raw:") for name in held} == given
    assert {"scaler/scale", "scaler/good_steps"} <= given


def test_steps_left_out_are_counted_and_listed_also_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where gradients overflow is set by hand, in float32: half precision is slow on a processor."""
    overflowing, numbers, stop_at = (2, 4, 7, 30), [0], [5]
    step, unscale = Training.do_step, LossScaler.unscale

    def do_step(training: Training, batch: Any, lr: float, number: int) -> Any:
        numbers[0] = number
        if number in stop_at:
            signal.raise_signal(signal.SIGTERM)
        return step(training, batch, lr, number)

    def overflow(self: LossScaler, parameters: Any) -> bool:
        parameters = list(parameters)
        if numbers[0] in overflowing:
            parameters[0].grad.fill_(float("inf"))
        return unscale(self, parameters)

    monkeypatch.setattr("danlu.train.step.autocast", lambda device, precision: contextlib.nullcontext())
    monkeypatch.setattr(Training, "do_step", do_step)
    monkeypatch.setattr(LossScaler, "unscale", overflow)
    with pytest.raises(Stopped):
        run_tiny(tmp_path / "parts", overrides={"precision": "fp16"})
    stop_at.clear()
    parts, run = resume(tmp_path / "parts"), run_tiny(tmp_path / "run", overrides={"precision": "fp16"})
    for one in (parts, run):
        listed = [(row["epoch"], row["steps"]) for row in one.read_log() if row.get("what") == "left out"]
        assert listed == [(0, 3), (1, 1)]
        assert one.read_record()["train"]["left_out"] == 4
    assert caplog.text.count("4 of 38 steps were left out") == 2
    assert hashes(parts) == hashes(run)
    assert curve(parts) == curve(run)


def test_a_scaler_of_an_earlier_version_has_left_out_nothing() -> None:
    scaler = LossScaler()
    old = {"scaler/scale": torch.tensor(8.0), "scaler/good_steps": torch.tensor(3.0), "momentum/w": torch.ones(1)}
    scaler.load(old)
    assert (scaler.scale, scaler.left_out, list(old)) == (8.0, 0, ["momentum/w"])
    with pytest.raises(KeyError):
        scaler.load({"scaler/scale": torch.tensor(8.0)})


def test_no_step_is_left_out_in_other_precisions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_tiny(tmp_path / "run", overrides={"epochs": 1})
    assert run.read_record()["train"]["left_out"] == 0
    assert "left out" not in caplog.text


@pytest.mark.parametrize(("budget", "pays"), [(None, True), (60.0, False), (10_000.0, True)])
def test_compilation_is_chosen_for_the_steps_that_the_budget_buys(
    monkeypatch: pytest.MonkeyPatch, budget: float | None, pays: bool
) -> None:
    """200 s by the recipe; of a budget of 60 s compiling alone would take a good part."""
    monkeypatch.setattr(measure, "step_probe", lambda training, compiled=False: lambda: None)
    monkeypatch.setattr(measure, "time_steps", lambda step, candidates: dict.fromkeys(candidates, 0.01))
    config = SimpleNamespace(budget=budget, batch_size=10, epochs=10)
    training = SimpleNamespace(total_steps=10_000, steps_per_epoch=1000, config=config, selects=False)
    assert measure.choose_compile(training, 0.02)[0] is pays  # type: ignore[arg-type]


def test_compilation_is_chosen_where_it_saves_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that compiled steps take less of; the compiler itself is not run."""
    times = {"plain": 0.02, "compiled": 0.01}
    monkeypatch.setattr(measure, "step_probe", lambda training, compiled=False: lambda: None)
    monkeypatch.setattr(measure, "time_steps", lambda step, candidates: {1: times["compiled"]})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    training = SimpleNamespace(total_steps=10_000, config=SimpleNamespace(budget=None))
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
    training = SimpleNamespace(total_steps=1000, config=SimpleNamespace(budget=None))
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
