"""Training on all the data, when everything is chosen: nothing is selected, and no figure of validation stands."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu import single
from danlu.compress import compress
from danlu.core.errors import InputError, Stopped
from danlu.core.records import RunFolder
from danlu.data.sample import ArrayDataset, Joined, joined
from danlu.deploy.artifact import read_artifact
from danlu.deploy.export import export
from danlu.evaluate import evaluate
from danlu.report import build_report
from danlu.tasks.trained import open_trained
from danlu.train import resume
from danlu.train.loop import Training
from danlu.train.preview import preview
from danlu.train.tune import tune
from tests.train.helpers import TINY, curve, digits, hashes, run_tiny

ALL: dict[str, Any] = {"train_on": "train+validation"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_tiny(tmp_path_factory.mktemp("all") / "run", overrides=ALL)


def test_every_picture_of_both_splits_is_trained_on(whole: RunFolder) -> None:
    data = digits()
    steps = (len(data.train) + len(data.validation)) // TINY["batch_size"]
    assert steps > len(data.train) // TINY["batch_size"]
    assert whole.read_record()["train"]["steps"] == steps * TINY["epochs"]
    assert preview(data, model="lenet5", overrides={**TINY, **ALL})["steps"] == steps * TINY["epochs"]


def test_the_record_says_so_and_the_last_weights_are_taken(whole: RunFolder) -> None:
    train = whole.read_record()["train"]
    assert (train["trained_on"], train["best"], train["best_epoch"]) == ("train+validation", None, None)
    assert all(entry["validation"] == {} for entry in whole.read_log() if entry["kind"] == "epoch")
    pointers = json.loads((whole.checkpoints / "pointers.json").read_text(encoding="utf-8"))
    assert pointers["best"] == pointers["last"]
    trained = open_trained(whole.path)
    assert (trained.which, trained.trained_on) == ("last", "train+validation")
    assert evaluate(trained, digits(), "test", write=False)["results"]["test"]["accuracy"]["value"] > 0.5


def test_no_figure_of_validation_is_taken(whole: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trained on train and validation"):
        evaluate(whole.path, digits(), "validation")
    with pytest.raises(InputError, match="compression chooses by the validation split"):
        compress(whole.path, "prune", data=digits(), device="cpu", threads=1)
    found = export(whole.path, digits(), out=tmp_path, int8=False)
    assert found["parity"]["fp32"]["validation"]["accuracy_a"] is None
    assert found["parity"]["fp32"]["validation"]["passed"]
    assert found["parity"]["fp32"]["test"]["accuracy_a"] > 0.5
    assert read_artifact(tmp_path / "model.onnx").split == {
        "seed": 0,
        "test_given": digits().test_given,
        "trained_on": "train+validation",
    }
    with pytest.raises(InputError, match="give --split test"):
        single.evaluate_any(tmp_path / "model.onnx", "digits", "validation")
    evaluate(whole.path, digits(), "test")
    text = build_report(whole).read_text(encoding="utf-8")
    assert "no figure of validation stands" in text
    assert "the last weights, none selected" in text


def test_it_is_resumed_bit_for_bit(whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training.do_step

    def stopped(training: Training, batch: Any, lr: float, number: int) -> Any:
        if number == 25:
            signal.raise_signal(signal.SIGTERM)
        return step(training, batch, lr, number)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "do_step", stopped)
        with pytest.raises(Stopped):
            run_tiny(tmp_path / "run", overrides=ALL)
    run = resume(tmp_path / "run")
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)


def test_what_needs_validation_is_refused(in_tmp: Path) -> None:
    with pytest.raises(InputError, match="patience = 3 stops by validation"):
        run_tiny(in_tmp / "run", overrides={**ALL, "patience": 3})
    for overrides, space in (
        (ALL, {"epochs": {"choices": [1, 2]}}),
        ({}, {"train_on": {"choices": ["train", "train+validation"]}}),
    ):
        with pytest.raises(InputError, match="a search selects by validation"):
            tune(digits(), space=space, model="lenet5", overrides=overrides, pruner="none")
    assert list(in_tmp.iterdir()) == []


def test_joined_data_sets_are_one_after_the_other() -> None:
    first, second = digits().validation, digits().test
    assert isinstance(first, ArrayDataset)
    assert isinstance(second, ArrayDataset)
    fast, slow = joined(first, second), Joined(first, second)
    assert isinstance(fast, ArrayDataset)
    for one in (fast, slow):
        assert len(one) == len(first) + len(second)
        assert list(one.ids) == [*first.ids, *second.ids]
        assert one.labels.tolist() == [*first.labels.tolist(), *second.labels.tolist()]
        for place in (0, len(first) - 1, len(first), len(one) - 1):
            part, at = (first, place) if place < len(first) else (second, place - len(first))
            assert np.array_equal(np.asarray(one[place].picture), part.pictures[at])
            assert one[place].targets == part[at].targets
    with pytest.raises(ValueError, match="must be the same"):
        joined(first, replace_classes(second))


def replace_classes(dataset: ArrayDataset) -> ArrayDataset:
    return ArrayDataset(dataset.pictures[:, :4], dataset.labels, dataset.ids, [f"other {n}" for n in range(10)])
