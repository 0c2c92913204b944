"""A dry run says what training would choose, draws its schedule, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from danlu import terminal
from danlu.core.errors import InputError
from danlu.train.preview import preview
from danlu.train.schedule import CosineSettings, learning_rate
from danlu.verbs.job import train
from tests.train.helpers import TINY, digits, run_tiny


def test_it_is_what_training_does(tmp_path: Path) -> None:
    found = preview(digits(), model="lenet5", overrides=TINY, device="cpu")
    run = run_tiny(tmp_path / "run")
    effective = run.read_config()["effective"]
    for key in ("train", "model", "preprocess", "data"):
        assert found["effective"][key] == effective[key]
    logged = {entry["step"]: entry["lr"] for entry in run.read_log() if entry["kind"] == "step"}
    assert {step + 1: rate for step, rate in enumerate(found["learning_rates"])} == pytest.approx(logged)
    assert found["steps"] == 38
    assert found["learning_rates"][5] == learning_rate(5, 38, 0.05, CosineSettings(warmup=0.1), 2)


def test_the_verb_trains_nothing(in_tmp: Path) -> None:
    output = train("digits", set=["schedule.name=sgdr", "schedule.t_0=10"], show_schedule=True)
    assert "highest   0.03" in output.text
    assert output.text.count("┤") == 10
    assert len(output.document["learning_rates"]) == output.document["steps"]
    output = train("digits", model="resnet20", epochs=3, dry_run=True)
    assert "resnet20" in output.text
    assert "asked for" in output.text
    assert output.document["effective"]["train"]["epochs"] == 3
    assert list(in_tmp.iterdir()) == []


def test_it_refuses_what_training_refuses(in_tmp: Path) -> None:
    with pytest.raises(InputError, match="did you mean: schedule"):
        train("digits", set=["shedule.name=step"], dry_run=True)


def test_a_curve() -> None:
    assert terminal.curve([], 10, 2) == "nothing"
    assert terminal.curve([0.0, 0.0], 10, 2).split("\n") == ["0 ┤", "0 ┤"]
    lines = terminal.curve([0.0, 1.0, 2.0, 4.0], 10, 2).split("\n")
    assert lines == ["4 ┤   █", "0 ┤ ▄██"]
    assert max(len(line) for line in terminal.curve([float(n) for n in range(1000)]).split("\n")) <= 72 + 8


@pytest.mark.parametrize(
    "values", [{"recompute": True}, {"loss.class_weights": [1, 2, 3]}, {"init.zero_last_norm": True}]
)
def test_what_training_would_refuse_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        preview(digits(), model="lenet5", overrides=values)
