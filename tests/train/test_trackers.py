"""Trackers get what the log holds and cannot stop a training; early stopping; both beside an exact resume."""

from __future__ import annotations

import json
import signal
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from danlu.core.errors import InputError, Stopped
from danlu.core.records import RunFolder
from danlu.train import resume
from danlu.train.loop import Diverged, Training
from danlu.train.trackers import Trackers, WandB, make_trackers, scalars
from tests.train.helpers import curve, hashes, run_tiny


def test_what_of_a_line_is_a_figure() -> None:
    step = {"kind": "step", "step": 3, "epoch": 0, "loss": 0.5, "lr": 0.1}
    epoch = {
        "kind": "epoch",
        "step": 19,
        "epoch": 0,
        "train": {"loss": 0.4},
        "validation": {"loss": 0.3},
        "seconds": 2.0,
    }
    assert dict(scalars(step)) == {"step/loss": 0.5, "step/lr": 0.1}
    assert dict(scalars(epoch)) == {"train/loss": 0.4, "validation/loss": 0.3, "epoch/seconds": 2.0}
    assert dict(scalars({"kind": "event", "what": "resume", "step": 4, "epoch": 0})) == {}


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    found.Reload()
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard_holds_scalars_histograms_pictures_and_graph(tmp_path: Path) -> None:
    run = run_tiny(tmp_path / "run", overrides={"trackers": ["tensorboard"]})
    plain = run_tiny(tmp_path / "plain")
    assert curve(run) == curve(plain), "it changes nothing"
    assert hashes(run) == hashes(plain)
    found = events(run.path / "tensorboard")
    tags = found.Tags()
    assert {"step/loss", "step/lr", "train/loss", "validation/accuracy", "epoch/pictures_per_second"} <= set(
        tags["scalars"]
    )
    assert "c1/weight" in tags["histograms"]
    assert tags["images"] == ["augmented"]
    assert tags["graph"]
    logged = {entry["step"]: entry["loss"] for entry in run.read_log() if entry["kind"] == "step"}
    assert {e.step: pytest.approx(e.value) for e in found.Scalars("step/loss")} == logged


class Recorder:
    """Stands for a tracker's client."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.config: dict[str, Any] = {}
        self.ended = 0
        self.ids: list[str] = []

    def init(self, **arguments: Any) -> Recorder:
        self.config = arguments["config"]
        self.ids.append(arguments["id"])
        return self

    def log(self, figures: dict[str, float], step: int) -> None:
        self.logged.append((step, figures))

    def finish(self) -> None:
        self.ended += 1


def as_wandb(monkeypatch: pytest.MonkeyPatch, recorder: Any) -> None:
    module = types.ModuleType("wandb")
    module.init = recorder.init  # type: ignore[attr-defined]
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_wandb_gets_config_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    as_wandb(monkeypatch, recorder)
    run = run_tiny(tmp_path / "run", overrides={"trackers": ["wandb"]})
    assert recorder.config["train"]["epochs"] == 2
    assert [step for step, figures in recorder.logged if "train/loss" in figures] == [19, 38]
    assert recorder.ended == 1
    assert len(recorder.logged) == len(run.read_log())


def test_trackers_are_ended_however_a_training_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    as_wandb(monkeypatch, recorder)
    overrides = {"trackers": ["wandb"]}
    with pytest.raises(Diverged):
        run_tiny(tmp_path / "diverged", overrides={**overrides, "optimizer.lr": 1e30})
    assert recorder.ended == 1
    _stop_once(tmp_path / "stopped", monkeypatch, "wandb")
    assert recorder.ended == 2

    def enough(training: Training) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        resume(tmp_path / "stopped", after_epoch=enough)
    assert recorder.ended == 3
    with pytest.raises(KeyError):
        run_tiny(tmp_path / "ended", overrides=overrides, after_epoch=enough)
    assert recorder.ended == 4


def test_a_tracker_that_never_began_is_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client might have a session of the caller's."""
    recorder = Recorder()
    as_wandb(monkeypatch, recorder)
    monkeypatch.setattr("danlu.train.start.measure", lambda *given: int("no number"))
    with pytest.raises(ValueError, match="no number"):
        run_tiny(tmp_path / "run", overrides={"trackers": ["wandb"]})
    assert recorder.ended == 0


def test_mlflow_gets_settings_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Any]] = []
    module = types.ModuleType("mlflow")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    module.start_run = lambda **given: told.append(("start", given))  # type: ignore[attr-defined]
    module.search_runs = lambda **given: told.append(("search", given)) or found  # type: ignore[attr-defined]
    module.log_params = lambda values: told.append(("params", values))  # type: ignore[attr-defined]
    module.log_metrics = lambda values, step: told.append(("metrics", (step, values)))  # type: ignore[attr-defined]
    module.end_run = lambda: told.append(("end", None))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    found: list[Any] = []
    overrides = {"trackers": ["mlflow"]}
    identity = run_tiny(tmp_path / "run", overrides=overrides).read_config()["id"]
    assert told[0] == ("start", {"run_name": "run", "tags": {"danlu.id": identity}})
    assert told[1][1]["train.optimizer.lr"] == 0.05
    assert told[-1][0] == "end"
    assert any("validation/accuracy" in value[1] for what, value in told if what == "metrics")


def _stop_once(out: Path, monkeypatch: pytest.MonkeyPatch, tracker: str) -> None:
    step = Training.do_step

    def stopping(training: Training, batch: Any, lr: float, number: int) -> Any:
        if number == 5:
            signal.raise_signal(signal.SIGTERM)
        return step(training, batch, lr, number)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "do_step", stopping)
        with pytest.raises(Stopped):
            run_tiny(out, overrides={"trackers": [tracker], "epochs": 1})


def test_two_runs_of_one_name_have_ids_of_their_own_and_a_resume_keeps_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines each have a ``runs/digits-lenet5-1``: their figures must not flow into one run."""
    recorder = Recorder()
    as_wandb(monkeypatch, recorder)
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
        _stop_once(tmp_path / machine / "run", monkeypatch, "wandb")
    first, second = recorder.ids
    assert first != second
    resume(tmp_path / "one" / "run")
    assert recorder.ids[2] == first == RunFolder(tmp_path / "one" / "run").read_config()["id"]
    # A run of an earlier version has no id of its own and goes on under its name.
    config = RunFolder(tmp_path / "two" / "run").config_path
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text("utf-8")).items() if k != "id"}))
    resume(tmp_path / "two" / "run")
    assert recorder.ids[3] == "run"


def test_mlflow_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    client = mock.MagicMock()
    client.__spec__ = types.SimpleNamespace()
    client.start_run = lambda **given: told.append(given)
    client.search_runs.return_value = [types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))]
    monkeypatch.setitem(sys.modules, "mlflow", client)
    _stop_once(tmp_path / "run", monkeypatch, "mlflow")
    run = resume(tmp_path / "run")
    assert told[1:] == [{"run_id": "abc"}]
    assert run.read_config()["id"] in client.search_runs.call_args.kwargs["filter_string"]


def test_a_tracker_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Recorder):
        def log(self, figures: dict[str, float], step: int) -> None:
            raise ConnectionError("the server went away\nand more")

    as_wandb(monkeypatch, Failing())
    with caplog.at_level("WARNING", logger="danlu"):
        run = run_tiny(tmp_path / "run", overrides={"trackers": ["wandb"]})
    assert run.read_record()["train"]["epochs"] == 2
    said = [line for line in caplog.messages if "wandb" in line]
    assert said == ["wandb is left out from now on: the server went away (ConnectionError)"]


def test_what_is_not_installed_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="mlflow is not installed"):
        make_trackers(("mlflow",))


def test_one_failing_leaves_the_others() -> None:
    class Broken(WandB):
        def log(self, figures: Any, step: int) -> None:
            raise RuntimeError("no")

    class Good(WandB):
        seen = 0

        def log(self, figures: Any, step: int) -> None:
            Good.seen += 1

    trackers = Trackers([Broken(), Good()])
    for step in range(3):
        trackers.entry({"kind": "step", "step": step, "loss": 1.0})
    assert Good.seen == 3
    assert len(trackers.trackers) == 1


def test_stopping_early(tmp_path: Path) -> None:
    """A rate of nothing: no epoch is better than the first."""
    run = run_tiny(tmp_path / "run", overrides={"epochs": 9, "patience": 2, "optimizer.lr": 1e-20})
    epochs = [entry["epoch"] for entry in run.read_log() if entry["kind"] == "epoch"]
    best = run.read_record()["train"]["best_epoch"]
    assert epochs[-1] == best + 2 < 8
    assert run.read_record()["train"]["epochs"] == len(epochs)


def test_stopping_early_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"epochs": 9, "patience": 2, "optimizer.lr": 1e-20}
    whole = run_tiny(tmp_path / "whole", overrides=overrides)
    real = Training.do_step

    def stopping(self: Training, batch: Any, lr: float, step: int) -> Any:
        import signal

        if step == 21:
            signal.raise_signal(signal.SIGTERM)
        return real(self, batch, lr, step)

    monkeypatch.setattr(Training, "do_step", stopping)
    with pytest.raises(Stopped):
        run_tiny(tmp_path / "cut", overrides=overrides)
    monkeypatch.undo()
    again = resume(tmp_path / "cut")
    assert curve(again) == curve(whole)
    assert hashes(again) == hashes(whole)
