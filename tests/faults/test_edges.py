"""Faults at the edges of a run: before its first step, and between its last step and its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.core import files
from danlu.core.errors import InputError
from danlu.tasks.trained import open_trained
from danlu.train import resume
from danlu.train.loop import Training
from danlu.train.signals import StopRequest
from danlu.verbs import job
from tests.train.helpers import run_tiny


def test_a_best_checkpoint_lost_after_the_last_epoch_is_replaced_by_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the last save and the record, and the best checkpoint damaged: no epoch is left to replace it."""
    validate = Training._validate

    def worse_each_epoch(self: Training, stop: StopRequest) -> dict[str, float]:
        return {**validate(self, stop), "accuracy": 0.9 - 0.1 * self.state.epoch}

    monkeypatch.setattr(Training, "_validate", worse_each_epoch)
    run = run_tiny(tmp_path / "run")
    pointers = json.loads((run.checkpoints / "pointers.json").read_text(encoding="utf-8"))
    assert pointers["best"] != pointers["last"]
    weights = run.checkpoints / pointers["best"] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    record = run.read_record()
    del record["train"]
    files.write_json(run.record_path, record)
    found = resume(run.path).read_record()["train"]
    assert found["best_epoch"] == 1
    assert found["best"]["accuracy"] == pytest.approx(0.9 - 0.1 * 2)
    assert open_trained(run.path).which == "best"


def test_no_folder_is_left_when_the_disk_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs about"):
        run_tiny(tmp_path / "run", overrides={"keep": 10**9})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_run_hides_no_other_in_the_list(tmp_path: Path) -> None:
    run_tiny(tmp_path / "good", overrides={"epochs": 1})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"schema": 1}')
    rows = job.runs_list(tmp_path).document
    assert [Path(row["run"]).name for row in rows] == ["bad", "good"]
    assert "damaged" in rows[0]["artifacts"]
    assert rows[1]["model"] == "lenet5"
