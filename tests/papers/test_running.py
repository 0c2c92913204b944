"""Rows run seed by seed, go on where they stopped, and are never averaged over what differs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from danlu import cli
from danlu.core.errors import CheckFailed, InputError
from danlu.core.files import read_json
from danlu.papers import running
from danlu.papers.kinds import Attempt, Measured, NotRunnable, OutOfTime, figure_of
from danlu.papers.rows import find_paper, read_results
from danlu.papers.running import reproduce
from danlu.papers.states import table
from tests.papers.papers import COUNTED, make_paper, row


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    find_paper.cache_clear()


def test_two_seeds_are_trained_recorded_and_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    (first,) = reproduce("some", row="first", seeds=1, out=tmp_path / "out", threads=1, device="cpu")
    assert (first["verdict"], first["n"], first["partial"]) == ("reproduced", 1, True)
    assert "partial: 1 of 2 seeds" in first["words"]
    (both,) = reproduce("some", row="first", out=tmp_path / "out", threads=1, device="cpu")
    assert (both["n"], both["partial"]) == (2, False)
    entry = read_results(tmp_path / "out" / "some")["rows"]["first"]
    values = [run["value"] for run in entry["runs"]]
    assert [run["seed"] for run in entry["runs"]] == [0, 1]
    assert both["ours"] == pytest.approx(sum(values) / 2) == pytest.approx(entry["mean"])
    assert entry["runs"][0]["facts"]["epochs"] == 2
    assert len(entry["runs"][0]["data_hash"]) == 64
    environment = read_results(tmp_path / "out" / "some")["environments"][entry["runs"][0]["environment"]]
    assert environment["device"] == "cpu"
    assert environment["torch"]
    with monkeypatch.context() as patch:
        patch.setattr(running, "measure", None)  # nothing is trained
        reproduce("some", row="first", out=tmp_path / "out", threads=1, device="cpu")
    assert not (tmp_path / "papers" / "some" / "result.json").exists()  # what is shipped is not touched


def test_a_budget_pauses_inside_a_training_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_paper(tmp_path / "papers", monkeypatch, row("first", seeds=1))
    where: dict[str, Any] = {"out": tmp_path / "out", "threads": 1, "device": "cpu"}
    calls = iter(["before the first step"])

    def spent(attempt: Attempt) -> None:
        if next(calls, None) is None:
            raise OutOfTime("the time is over; the same command goes on from here")

    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "check_time", spent)
        (stopped,) = reproduce("some", row="first", budget=1.0, **where)
    assert stopped["verdict"] == "not run"
    assert "the same command goes on" in stopped["why"]
    (folder,) = (tmp_path / "out" / "some" / "first").glob("seed-0-*")
    assert '"epoch": 0' in (folder / "log.jsonl").read_text(encoding="utf-8")
    assert not read_json(folder / "record.json").get("train")
    (done,) = reproduce("some", row="first", **where)
    assert done["n"] == 1
    assert read_json(folder / "record.json")["train"]["resumed"]
    entry = read_results(tmp_path / "out" / "some")["rows"]["first"]
    assert "unfinished" not in entry
    (whole,) = reproduce("some", row="first", out=tmp_path / "other", threads=1, device="cpu")
    assert whole["ours"] == done["ours"]  # bit for bit what an uninterrupted run gives


def test_the_time_is_over_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = make_paper(tmp_path / "papers", monkeypatch)
    now = time.monotonic()
    Attempt(paper, paper.rows[0], 0, tmp_path, deadline=now + 60).check_time()
    Attempt(paper, paper.rows[0], 0, tmp_path).check_time()
    with pytest.raises(OutOfTime, match="goes on from here"):
        Attempt(paper, paper.rows[0], 0, tmp_path, deadline=now).check_time()


def fake(monkeypatch: pytest.MonkeyPatch, values: dict[int, float], data_hash: str = "a" * 64) -> list[int]:
    """Measure without training: the value of each seed, and the seeds that were asked for."""
    asked: list[int] = []

    def measured(attempt: Attempt) -> Measured:
        asked.append(attempt.seed)
        if attempt.seed not in values:
            raise NotRunnable("no such seed here")
        return Measured(values[attempt.seed], data_hash)

    monkeypatch.setattr(running, "measure", measured)
    return asked


def out_of_time(attempt: Attempt) -> Measured:
    raise OutOfTime("the time is over")


def test_a_changed_recipe_is_run_anew_and_called_stale_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    asked = fake(monkeypatch, {0: 5.0, 1: 5.2})
    reproduce("some", row="first", out=tmp_path / "out")
    state = table(["some"], tmp_path / "out")[0]
    assert state.stale == ()
    assert asked == [0, 1]
    find_paper.cache_clear()
    other = row("first", overrides={**row("first")["overrides"], "optimizer.lr": 0.01})
    make_paper(tmp_path / "papers", monkeypatch, other, COUNTED)
    state = table(["some"], tmp_path / "out")[0]
    assert state.stale == ("optimizer.lr",)
    assert "stale: optimizer.lr changed since" in state.words
    monkeypatch.setattr("danlu.papers.running.measure", out_of_time)
    reproduce("some", row="first", seeds=1, out=tmp_path / "out")
    assert table(["some"], tmp_path / "out")[0].stale == ("optimizer.lr",), "what was measured is lost"
    asked = fake(monkeypatch, {0: 5.0, 1: 5.2})
    reproduce("some", row="first", seeds=1, out=tmp_path / "out")
    assert asked == [0]
    assert table(["some"], tmp_path / "out")[0].stale == ()


def test_changed_code_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.papers import depends

    make_paper(tmp_path / "papers", monkeypatch)
    fake(monkeypatch, {0: 5.0, 1: 5.2})
    reproduce("some", row="first", out=tmp_path / "out")
    real = depends._text
    for module, stale in (("danlu.train.step", ("the code",)), ("danlu.models.vision.lenet", ("the code",))):
        monkeypatch.setattr(depends, "_text", lambda m, it=module: real(m) + (b"#" if m == it else b""))
        assert table(["some"], tmp_path / "out")[0].stale == stale
    monkeypatch.setattr(depends, "_text", lambda m: real(m) + (b"#" if m == "danlu.models.vision.vgg" else b""))
    assert table(["some"], tmp_path / "out")[0].stale == ()


def test_a_row_in_other_words_is_not_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    fake(monkeypatch, {0: 5.0, 1: 5.2})
    reproduce("some", row="first", out=tmp_path / "out")
    find_paper.cache_clear()
    make_paper(tmp_path / "papers", monkeypatch, row("first", title="Another title", published=4.0, tolerance=0.1))
    (state,) = table(["some"], tmp_path / "out")
    assert (state.stale, state.verdict) == ((), "missed")


def test_a_seed_that_cannot_be_run_keeps_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    fake(monkeypatch, {0: 5.0})
    (document,) = reproduce("some", row="first", out=tmp_path / "out")
    assert (document["n"], document["partial"], document["why"]) == (1, True, "no such seed here")


def test_seeds_of_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    fake(monkeypatch, {0: 5.0})
    reproduce("some", row="first", seeds=1, out=tmp_path / "out")
    fake(monkeypatch, {1: 5.0}, data_hash="b" * 64)
    with pytest.raises(CheckFailed, match="other data"):
        reproduce("some", row="first", out=tmp_path / "out")
    assert table(["some"], tmp_path / "out")[0].n == 1


def test_further_seeds_are_compared_with_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    fake(monkeypatch, {0: 5.0, 1: 5.2})
    reproduce("some", row="first", out=tmp_path / "out", record=True)
    assert (tmp_path / "papers" / "some" / "result.json").exists()
    fake(monkeypatch, {7: 5.1, 8: 5.3})
    (near,) = reproduce("some", row="first", seed=7, out=tmp_path / "near")
    assert near["inside"] is True
    fake(monkeypatch, {7: 25.0, 8: 25.5})
    (far,) = reproduce("some", row="first", seed=7, out=tmp_path / "far")
    assert far["inside"] is False


def test_counts_need_one_run_and_no_tolerance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    (document,) = reproduce("some", row="counted", out=tmp_path / "out")
    assert (document["ours"], document["verdict"], document["n"]) == (61706, "reproduced", 1)
    assert "unverified value" in document["words"]


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    assert cli.main(["reproduce", "run", "some", "--row", "counted", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "reproduced"
    assert cli.main(["reproduce", "table", "--out", str(tmp_path / "out")]) == 0
    assert "reproduced" in capsys.readouterr().out
    assert cli.main(["reproduce", "list", "some"]) == 0
    assert "counted" in capsys.readouterr().out
    assert cli.main(["reproduce", "run", "some", "--row", "frist"]) == 2
    assert "did you mean: first" in capsys.readouterr().err
    assert cli.main(["reproduce", "run", "smoe"]) == 2
    assert "did you mean: some" in capsys.readouterr().err
    fake(monkeypatch, {})
    assert cli.main(["reproduce", "run", "some", "--row", "first", "--out", str(tmp_path / "none")]) == 1


def test_a_damaged_result_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_paper(tmp_path / "papers", monkeypatch)
    (tmp_path / "papers" / "some" / "result.json").write_text('{"schema": 99}', encoding="utf-8")
    with pytest.raises(InputError, match="newer"):
        table(["some"])
    (tmp_path / "papers" / "some" / "result.json").write_text('{"schema": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="has no section 'environments'"):
        table(["some"])


def test_accuracy_in_the_unit_of_the_table() -> None:
    assert figure_of("test error %", 0.9905, 10_000) == 0.95
    assert figure_of("test errors", 0.9905, 10_000) == 95.0
    assert figure_of("test accuracy %", 0.9405, 10_000) == 94.05
    assert figure_of("test accuracy", 0.9252, 10_000) == 0.9252
    with pytest.raises(ValueError, match="does not follow"):
        figure_of("parameters", 0.5, 2)
