"""Threads and epochs are measured once, on a copy, and written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from danlu.train import measure, resume, start
from danlu.train.loop import Training
from danlu.train.recipes import RECIPES
from tests.train.helpers import hashes, run_tiny


def _clock(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> Callable[[], None]:
    """Return a step that takes ``seconds[n]`` with n threads on the clock, without spending it; let it be measured."""
    clock, threads = [0.0], [1]
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(measure, "_candidates", lambda: sorted(seconds))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: threads.__setitem__(0, n))

    def step() -> None:
        clock[0] += seconds[threads[0]]

    monkeypatch.setattr(start, "step_probe", lambda training: step)
    return step


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.041, 2: 0.0217}, 2),
        ({1: 0.041, 2: 0.120}, 1),
        ({1: 0.0220, 2: 0.0217}, 1),
        ({1: 0.08, 4: 0.03, 8: 0.029}, 4),
    ],
)
def test_the_fastest_count_and_fewer_when_it_hardly_matters(
    seconds: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = _clock(monkeypatch, seconds)
    threads, why, found = measure.choose_threads(step, None, on_processor=True)
    assert threads == chosen
    assert found == pytest.approx(seconds[chosen])
    for count, value in seconds.items():
        assert f"{count}: {value * 1e3:.1f} ms" in why
    assert measure.choose_threads(step, 7, on_processor=True) == (7, "asked for", None)


def test_candidates_keep_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert measure._candidates() == [1, 4, 8]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert measure._candidates() == [1, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert measure._candidates() == [1, 4, 8]


def test_what_was_measured_is_written_down_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _clock(monkeypatch, {1: 0.02, 2: 0.01})
    run = run_tiny(tmp_path / "run", threads=None, overrides={"epochs": 1})
    config = run.read_config()
    assert config["effective"]["machine"]["threads"] == 2
    assert config["requested"]["threads"] is None
    assert "1: 20.0 ms, 2: 10.0 ms" in config["why"]["threads"]
    monkeypatch.setattr(start, "choose_threads", lambda *given: pytest.fail("measured again"))
    (run.path / "record.json").write_text('{"schema": 1}', encoding="utf-8")  # as if killed before the very end
    resume(run.path)
    assert run.read_record()["train"]["epochs"] == 1


def test_measuring_leaves_the_training_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run_tiny(tmp_path / "plain", overrides={"epochs": 1})
    monkeypatch.setattr(measure, "_candidates", lambda: [1, 1])
    measured = run_tiny(tmp_path / "measured", threads=None, overrides={"epochs": 1})
    assert "median time of a step" in measured.read_config()["why"]["threads"]
    assert hashes(measured) == hashes(plain)


RECIPE_EPOCHS = RECIPES.get("digits-lenet5")(1259).epochs


@pytest.mark.parametrize(
    ("step", "budget", "epochs", "reason"),
    [
        (0.05, 8.5, 8, "an epoch takes about 1.0 s of the budget of 8.5 s"),
        (1.0, 2.0, 1, "one epoch is the least"),
        (0.0001, 60.0, 4 * RECIPE_EPOCHS, f"at most 4 times the recipe's {RECIPE_EPOCHS}"),
    ],
)
def test_a_budget_chooses_the_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float, budget: float, epochs: int, reason: str
) -> None:
    _clock(monkeypatch, {1: step})
    monkeypatch.setattr(Training, "run_to_end", lambda self: None)
    monkeypatch.setattr("danlu.train.start.finish", lambda training: None)
    overrides = {"budget": budget, "batch_size": 64}
    monkeypatch.setattr("tests.train.helpers.TINY", {})
    run = run_tiny(tmp_path / "run", overrides=overrides)
    config = run.read_config()
    assert config["effective"]["train"]["epochs"] == epochs
    assert config["effective"]["train"]["budget"] == budget
    assert reason in config["why"]["epochs"]


def test_a_budget_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.train.helpers.TINY", {})
    begin = time.monotonic()
    run = run_tiny(tmp_path / "run", overrides={"budget": 1.0})
    assert time.monotonic() - begin < 30
    assert run.read_record()["train"]["epochs"] >= 1
