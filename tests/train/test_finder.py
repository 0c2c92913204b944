"""The range test finds a rate that trains, on real digits, and keeps nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.core.errors import InputError
from danlu.models import create_model
from danlu.models.weights import save_weights
from danlu.train import finder
from danlu.train.finder import find_rate, suggest
from danlu.train.loop import Training
from danlu.train.measure import step_probe
from danlu.train.plan import Plan
from danlu.train.start import choose, fresh
from danlu.verbs.job import train
from tests.train.helpers import TINY, digits, run_tiny


def test_the_suggested_rate_trains(in_tmp: Path) -> None:
    found = find_rate(digits(), model="lenet5", overrides={"batch_size": 32}, device="cpu", threads=1)
    assert all(a < b for a, b in itertools.pairwise(found["rates"]))
    assert len(found["rates"]) == len(found["losses"])
    assert min(found["losses"]) < 0.7 * found["losses"][0]
    assert 1e-4 < found["suggested"] < 0.3
    run = run_tiny(in_tmp / "run", overrides={"optimizer.lr": found["suggested"], "epochs": 5, "batch_size": 32})
    assert run.read_record()["train"]["best"]["accuracy"] > 0.8
    assert [path.name for path in in_tmp.iterdir()] == ["run"]


def test_what_is_suggested() -> None:
    assert suggest([], []) is None
    assert suggest([0.1, 0.2, 0.4], [2.0, 2.0, 2.1]) is None
    assert suggest([0.1, 0.2, 0.4], [2.0, 1.0, 3.0]) == 0.02


def test_the_verb_draws_it(in_tmp: Path) -> None:
    output = train("digits", find_rate=True)
    assert output.text.count("┤") == 10
    assert "--set optimizer.lr=" in output.text
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("freeze", ["body", 2])
def test_what_is_frozen_in_training_is_frozen_here(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, freeze: object
) -> None:
    """From given weights, of which the frozen stages stay bit for bit while the head moves."""
    torch.manual_seed(3)
    given = create_model("resnet20", num_classes=10, in_channels=1)
    save_weights(given, in_tmp / "start.safetensors")
    seen: list[Training] = []
    monkeypatch.setattr(finder, "fresh", lambda plan, data: seen.append(fresh(plan, data)) or seen[-1])
    monkeypatch.setattr(finder, "STEPS", 3)
    overrides = {**TINY, "transfer.freeze": freeze}
    arguments: dict[str, Any] = {"model": "resnet20", "overrides": overrides, "device": "cpu", "threads": 1}
    find_rate(digits(), weights=in_tmp / "start.safetensors", **arguments)
    after, before = seen[0].model.network.state_dict(), given.state_dict()
    kept = ("stem", "stage1", "stage2", "stage3") if freeze == "body" else ("stem", "stage1")
    for name, value in before.items():
        assert torch.equal(after[name], value) == name.startswith(kept), name
    if freeze == "body":
        with pytest.raises(InputError, match="give --weights"):
            find_rate(digits(), **arguments)


def _training(**overrides: Any) -> Training:
    plan: Plan = choose(digits(), model="resnet20", recipe=None, overrides={**TINY, **overrides}, seed=0, device="cpu")[
        0
    ]
    return fresh(plan, digits())


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({"transfer.freeze": 2}, True),
        # Of epochs that freeze different stages the one that takes the longest is measured: a budget must hold.
        ({"transfer.freeze": 2, "transfer.unfreeze_every": 1, "epochs": 4}, False),
        ({"transfer.stop_first": 1}, False),
        ({}, False),
    ],
)
def test_measured_steps_freeze_what_training_freezes(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], frozen: bool
) -> None:
    training, seen = _training(**settings), []
    step = Training.do_step

    def watched(self: Training, batch: Any, lr: float, number: int) -> Any:
        seen.append(self.model.network)
        return step(self, batch, lr, number)

    monkeypatch.setattr(Training, "do_step", watched)
    before = {name: value.clone() for name, value in training.model.network.state_dict().items()}
    step_probe(training)()
    assert seen[0] is not training.model.network
    assert seen[0].stem_conv.weight.requires_grad is not frozen
    assert torch.equal(seen[0].stem_norm.running_mean, before["stem_norm.running_mean"]) is frozen
    # The run itself is left alone.
    assert all(torch.equal(value, before[name]) for name, value in training.model.network.state_dict().items())
    assert all(parameter.requires_grad for parameter in training.model.network.parameters())
