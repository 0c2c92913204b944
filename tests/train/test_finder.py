"""The range test finds a rate that trains, on real digits, and keeps nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

from danlu.train.finder import find_rate, suggest
from danlu.verbs.job import train
from tests.train.helpers import digits, run_tiny


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
