"""The search for settings: what is drawn, what is ended early, what a killed worker leaves, who may join."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy

import danlu
import danlu.train.search as room
from danlu import cli
from danlu.core import files
from danlu.core.errors import InputError, Stopped
from danlu.core.records import RunFolder
from danlu.report.importance import importance_chart
from danlu.train import study as studies
from danlu.train.loop import Diverged, Training
from danlu.train.space import Range, load_space
from danlu.train.tune import tune
from tests.train.helpers import SERVER, curve, digits, hashes, last_step, run_tiny, wait_for_step

LR = {"optimizer.lr": {"low": 1e-3, "high": 1.0, "log": True}}
TINY = {"epochs": 2, "batch_size": 64, "precision": "fp32"}


@pytest.fixture(autouse=True)
def _quick_disk() -> Iterator[None]:
    """SQLite flushes the disk some dozens of times a trial; a kill, all that is tested here, loses nothing without."""
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", _no_flush)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", _no_flush)


def _no_flush(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF")


class Mock:
    """Stands for training: a folder with a log whose accuracy is what ``score`` says of (settings, epoch)."""

    def __init__(self, score: Callable[[dict[str, Any], int], float]) -> None:
        self.score = score
        self.trained: list[str] = []
        self.resumed: list[str] = []
        self.told: list[tuple[str, int]] = []
        self.die_at: tuple[str, int] | None = None

    def train(self, data: Any, *, out: Path, overrides: dict[str, Any], **given: Any) -> None:
        self.trained.append(out.name)
        assert not out.exists()
        out.mkdir(parents=True)
        effective = {"train": {"epochs": overrides["epochs"]}, "machine": {"threads": 1}}
        document = {"schema": 1, "requested": {"set": overrides, **given["requested"]}, "effective": effective}
        files.write_json(out / "config.json", document)
        self._epochs(RunFolder(out), overrides, given["after_epoch"])

    def resume(self, out: Path, *, data: Any, after_epoch: Any) -> None:
        self.resumed.append(out.name)
        run = RunFolder(out)
        if "train" not in run.read_record():
            self._epochs(run, run.read_config()["requested"]["set"], after_epoch)

    def _epochs(self, run: RunFolder, settings: dict[str, Any], after_epoch: Any) -> None:
        epochs = settings["epochs"]
        for epoch in range(len(run.read_log()), epochs):
            accuracy = self.score(settings, epoch)
            run.append_log(kind="epoch", epoch=epoch, validation={"accuracy": accuracy, "loss": 1.0}, seconds=1.0)
            self.told.append((run.path.name, epoch))
            if self.die_at == (run.path.name, epoch):
                raise Stopped("stopped", 15)
            trackers, state = SimpleNamespace(tell=lambda *_: None), SimpleNamespace(epoch=epoch + 1)
            after_epoch(SimpleNamespace(run=run, trackers=trackers, state=state, config=SimpleNamespace(epochs=epochs)))
        best = max(entry["validation"]["accuracy"] for entry in run.read_log())
        run.update_record(train={"best": {"accuracy": best, "loss": 1.0}})


@pytest.fixture
def mock(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The higher the learning rate the better, a little more in each epoch."""
    found = Mock(lambda settings, epoch: settings.get("optimizer.lr", 0.1) + 0.001 * epoch)
    monkeypatch.setattr(room, "train", found.train)
    monkeypatch.setattr(room, "resume", found.resume)
    return found


def search(out: Path, **given: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"model": "lenet5", "space": LR, "overrides": {"epochs": 9}, "pruner": "none", **given}
    return tune(digits(), out=out, **arguments)


def settings_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [row["settings"] for row in found["trials"]]


def test_the_grid_covers_all(mock: Mock, tmp_path: Path) -> None:
    space = {
        "optimizer.lr": {"low": 0.01, "high": 1.0, "log": True, "points": 3},
        "batch_size": {"choices": [32, 64]},
        "augment": {"choices": [[], [{"name": "flip"}]]},
    }
    found = search(tmp_path / "grid", space=space, sampler="grid")
    tried = {json.dumps(settings, sort_keys=True) for settings in settings_of(found)}
    assert len(found["trials"]) == len(tried) == 12
    assert {settings["optimizer.lr"] for settings in settings_of(found)} == {0.01, 0.1, 1.0}
    assert [{"name": "flip"}] in [settings["augment"] for settings in settings_of(found)]
    assert found["best"]["settings"]["optimizer.lr"] == 1.0
    assert found["best"]["value"] == pytest.approx(1.008)
    # All done: the same again trains nothing, and tells the same.
    again = search(tmp_path / "grid", space=space, sampler="grid")
    assert (len(mock.trained), mock.resumed) == (12, [])
    assert again == found
    assert set(found["importances"]["values"]) == set(space)
    assert found["importances"]["values"]["optimizer.lr"] > 0.9


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_same_seed_gives_the_same_trials_also_when_started_again(mock: Mock, tmp_path: Path, sampler: str) -> None:
    one = search(tmp_path / "one", sampler=sampler, trials=13, seed=5)
    search(tmp_path / "two", sampler=sampler, trials=6, seed=5)
    two = search(tmp_path / "two", sampler=sampler, trials=13, seed=5)
    assert settings_of(one) == settings_of(two)
    assert len({settings["optimizer.lr"] for settings in settings_of(one)}) == 13
    other = search(tmp_path / "other", sampler=sampler, trials=3, seed=6)
    assert settings_of(other) != settings_of(one)[:3]


def test_tpe_learns_from_the_trials_before(mock: Mock, tmp_path: Path) -> None:
    found = search(tmp_path / "run", trials=24)
    rates = [settings["optimizer.lr"] for settings in settings_of(found)]
    assert sum(rates[16:]) / 8 > 2 * sum(rates[:8]) / 8


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_bad_trials_end_early_and_the_best_does_not(mock: Mock, tmp_path: Path, pruner: str) -> None:
    found = search(tmp_path / "run", sampler="random", pruner=pruner, trials=16)
    ended = [row for row in found["trials"] if row["state"] == "pruned"]
    done = [row for row in found["trials"] if row["state"] == "complete"]
    assert len(ended) + len(done) == 16
    assert len(ended) >= 5
    assert all(row["epochs"] < 9 for row in ended)
    assert all(row["epochs"] == 9 for row in done)
    best = max(found["trials"], key=lambda row: row["settings"]["optimizer.lr"])
    assert best["state"] == "complete"
    assert found["best"]["number"] == best["number"]
    mean = lambda rows: sum(row["settings"]["optimizer.lr"] for row in rows) / len(rows)  # noqa: E731
    assert mean(ended) < mean(done)
    # A pruned run is an ordinary one that stopped after an epoch.
    assert len(RunFolder(tmp_path / "run" / ended[0]["run"]).read_log()) == ended[0]["epochs"]


@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_a_trial_that_was_stopped_goes_on_and_nothing_is_told_twice(mock: Mock, tmp_path: Path, pruner: str) -> None:
    whole = search(tmp_path / "whole", trials=5, pruner=pruner)
    mock.told.clear()
    mock.die_at = ("trial-0002", 0)
    with pytest.raises(Stopped):
        search(tmp_path / "parts", trials=5, pruner=pruner)
    half = files.read_json(tmp_path / "parts" / "tune.json")
    assert [row["number"] for row in half["trials"]] == [0, 1]
    mock.die_at = None
    found = search(tmp_path / "parts", trials=5, pruner=pruner)
    assert mock.resumed == ["trial-0002"]
    assert len(set(mock.told)) == len(mock.told)
    drop = ("seconds", "storage", "folder")
    assert [{k: v for k, v in row.items() if k not in drop} for row in found["trials"]] == [
        {k: v for k, v in row.items() if k not in drop} for row in whole["trials"]
    ]


def test_a_trial_killed_before_its_first_checkpoint_is_trained_anew(mock: Mock, tmp_path: Path) -> None:
    mock.die_at = ("trial-0001", 3)
    with pytest.raises(Stopped):
        search(tmp_path / "run", trials=2)
    (tmp_path / "run" / "trial-0001" / "config.json").unlink()
    mock.die_at = None
    found = search(tmp_path / "run", trials=2)
    assert mock.resumed == []
    assert mock.trained == ["trial-0000", "trial-0001", "trial-0001"]
    assert [row["state"] for row in found["trials"]] == ["complete", "complete"]


def test_a_trial_whose_machine_is_silent_is_done_by_another(
    mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "_GRACE", 1)
    url = f"sqlite:///{(tmp_path / 'shared.db').as_posix()}"
    mock.die_at = ("trial-0001", 3)
    monkeypatch.setattr(room.platform, "node", lambda: "elsewhere")
    with pytest.raises(Stopped):
        search(tmp_path / "there", trials=3, storage=url)
    # What lies there cannot be seen from here.
    os.rename(tmp_path / "there", tmp_path / "gone")
    monkeypatch.setattr(room.platform, "node", lambda: "here")
    mock.die_at = None
    deadline = 40
    while (found := search(tmp_path / "here", trials=3, storage=url)) and deadline:
        if sum(row["state"] == "complete" for row in found["trials"]) == 3:
            break
        deadline -= 1
        room.time.sleep(0.1)
    states = [row["state"] for row in found["trials"]]
    assert sorted(states) == ["complete", "complete", "complete", "retried"]
    first, second = (row["settings"] for row in found["trials"] if row["run"] == "trial-0001")
    assert first == second
    assert mock.trained.count("trial-0001") == 2


def test_a_grid_has_no_more_trials_than_settings(mock: Mock, tmp_path: Path) -> None:
    space = {"optimizer.lr": {"choices": [0.01, 0.1]}}
    with pytest.raises(InputError, match=r"3 trials of a grid of 2(.|\n)*1 to 2"):
        search(tmp_path / "run", trials=3, sampler="grid", space=space)
    assert mock.trained == []


def test_time_over_ends_the_search_and_the_trial_goes_on_later(
    mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    with monkeypatch.context() as patch:
        # Their own clock: the module's is everybody's, and a server in another thread would sleep for hours.
        for module in (room, sys.modules[tune.__module__]):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
        found = search(tmp_path / "run", trials=4, budget=15.0)
    states = [row["state"] for row in found["trials"]]
    assert states[-1] == "running"
    assert len(states) < 4
    found = search(tmp_path / "run", trials=4)
    assert [row["state"] for row in found["trials"]] == ["complete"] * 4
    assert len(mock.resumed) == 1
    assert len(set(mock.told)) == len(mock.told) == 36


def test_what_diverges_or_is_refused_is_listed_with_its_reason(mock: Mock, tmp_path: Path) -> None:
    def score(settings: dict[str, Any], epoch: int) -> float:
        if settings["optimizer.momentum"] == 0.5:
            raise Diverged("the loss is nan", [])
        return 0.5

    mock.score = score
    # Each of these is allowed by itself; Nesterov's form without a momentum is not.
    space = {"optimizer.momentum": {"choices": [0.5, 0.0, 0.9]}, "optimizer.nesterov": {"choices": [True, False]}}
    with pytest.raises(InputError, match="nesterov needs a momentum"):
        search(tmp_path / "refused", space=space, sampler="grid")
    fixed = {"epochs": 2, "optimizer.nesterov": False}
    space = {"optimizer.momentum": {"choices": [0.5, 0.9]}, "batch_size": {"choices": [64, 1000]}}
    found = search(tmp_path / "run", space=space, sampler="grid", overrides=fixed)
    states = {json.dumps(row["settings"], sort_keys=True): row["state"] for row in found["trials"]}
    assert list(states.values()).count("diverged") == 2
    assert list(states.values()).count("complete") == 2
    assert "the loss is nan" in next(row["reason"] for row in found["trials"] if row["state"] == "diverged")
    assert found["best"]["settings"]["optimizer.momentum"] == 0.9


BAD: dict[str, tuple[Any, str]] = {
    "unknown setting": ({"optimizer.lrr": {"low": 0.1, "high": 1}}, "optimizer.lr"),
    "unknown section": ({"optimiser.lr": {"low": 0.1, "high": 1}}, "optimizer.lr"),
    "unknown key": ({"optimizer.lr": {"low": 0.1, "hihg": 1}}, "did you mean: high"),
    "outside its range": ({"optimizer.lr": {"low": -0.1, "high": 1}}, "greater than 0"),
    "a choice it does not take": ({"precision": {"choices": ["fp32", "fp31"]}}, "fp31"),
    "wrong order": ({"optimizer.lr": {"low": 1, "high": 0.1}}, "low < high"),
    "no number": ({"optimizer.lr": {"low": "a", "high": 1}}, "two numbers"),
    "zero on a logarithm": ({"optimizer.weight_decay": {"low": 0, "high": 1.0, "log": True}}, "above 0"),
    "no choices": ({"batch_size": {"choices": []}}, "at least one"),
    "twice the same": ({"batch_size": {"choices": [64, 64]}}, "twice"),
    "both": ({"batch_size": {"choices": [64], "low": 1}}, "leave one of them out"),
    "neither": ({"batch_size": 64}, "neither"),
    "points": ({"optimizer.lr": {"low": 0.1, "high": 1, "points": 1}}, "2 to 1,000"),
    "nothing": ({}, "is no space"),
    "fixed too": ({"epochs": {"choices": [3, 4]}}, "given by --set too"),
}


@pytest.mark.parametrize(("space", "message"), BAD.values(), ids=BAD)
def test_bad_spaces_are_refused_before_anything_is_written(tmp_path: Path, space: Any, message: str) -> None:
    file = tmp_path / "space.json"
    file.write_text(json.dumps(space), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        search(tmp_path / "run", space=file)
    assert str(file) in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_bad_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, message in (
        ({"space": "defualt"}, "did you mean: default"),
        ({"sampler": "tpee"}, "did you mean: tpe"),
        ({"pruner": "ash"}, "did you mean: asha"),
        ({"trials": 0}, "1 or more"),
        ({"sampler": "grid"}, "points"),
        ({"space": {"epochs": {"choices": [1, 2]}}, "pruner": "asha", "overrides": {}}, "--pruner none"),
        ({"storage": "no url"}, "--storage"),
        ({"storage": "sqlite:////no/such/folder/at/all.db"}, "--storage"),
    ):
        with pytest.raises(InputError, match=message):
            search(tmp_path / "run", **given)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'danlu\[tune\]'"):
        search(tmp_path / "run")


def test_a_search_is_only_joined_with_the_same_settings(mock: Mock, tmp_path: Path) -> None:
    search(tmp_path / "run", trials=1)
    with pytest.raises(InputError, match=r"seed: 0 → 1"):
        search(tmp_path / "run", trials=1, seed=1)
    with pytest.raises(InputError, match="holds the search"):
        search(tmp_path / "run", trials=1, study="another")
    (tmp_path / "run" / "study.db").unlink()
    with pytest.raises(InputError, match="a search that is gone"):
        search(tmp_path / "run", trials=1)
    assert mock.trained == ["trial-0000"]


def test_a_password_is_not_written_down() -> None:
    assert "secret" not in studies.shown_url("postgresql+psycopg://me:secret@host/name")


def test_the_known_spaces_are_spaces() -> None:
    config = danlu.train.start.choose_config("default", 1000, {})  # type: ignore[attr-defined]
    for name in ("default", "lr"):
        space = load_space(name)
        space.check(config, {})
        assert space.grid()
    assert Range(0.01, 1.0, log=True, points=3).grid("") == [0.01, 0.1, 1.0]
    assert Range(1, 4).grid("") == [1, 2, 3, 4]


def test_the_importances_are_drawn_as_text() -> None:
    drawn = importance_chart({"method": "PED-ANOVA", "trials": 9, "values": {"a<b": 0.25, "optimizer.lr": 0.75}})
    assert drawn.index("optimizer.lr") < drawn.index("a&lt;b")
    assert "75.0 %" in drawn


def _child(out: Path, trials: int, url: str | None) -> None:
    tune(
        digits(),
        model="lenet5",
        space=LR,
        overrides=TINY,
        trials=trials,
        out=out,
        pruner="none",
        threads=1,
        storage=url,
    )


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_b47_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    """A real process is killed in the midst of its second trial; the same again goes on with it bit for bit."""
    out = tmp_path / "search"
    child = SERVER.Process(target=_child, args=(out, 2, None))
    child.start()
    wait_for_step(out / "trial-0001", 19, SimpleNamespace(process=child))  # type: ignore[arg-type]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert last_step(out / "trial-0001") == 19
    _child(out, 2, None)
    found = files.read_json(out / "tune.json")
    assert [row["state"] for row in found["trials"]] == ["complete", "complete"]
    assert [row["epochs"] for row in found["trials"]] == [2, 2]
    run = RunFolder(out / "trial-0001")
    assert run.read_record()["train"]["resumed"] == 1
    whole = run_tiny(tmp_path / "whole", overrides={**TINY, **found["trials"][1]["settings"]})
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)
    assert found["trials"][1]["value"] == whole.read_record()["train"]["best"]["accuracy"]


def _mocked(out: Path, url: str) -> None:
    found = Mock(lambda settings, epoch: room.time.sleep(0.02) or settings["optimizer.lr"])
    room.train, room.resume = found.train, found.resume  # type: ignore[assignment]
    search(out, trials=8, storage=url, sampler="random")


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_the_folder_may_be_called_anything(mock: Mock, tmp_path: Path) -> None:
    out = tmp_path / "a%20b? c #中文"
    search(out, trials=1)
    assert (out / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_two_processes_share_one_study(tmp_path: Path) -> None:
    url = f"sqlite:///{(tmp_path / 'shared.db').as_posix()}"
    children = [SERVER.Process(target=_mocked, args=(tmp_path / name, url)) for name in ("a", "b")]
    for child in children:
        child.start()
    for child in children:
        child.join(100)
    assert [child.exitcode for child in children] == [0, 0]
    runs = [sorted(path.name for path in (tmp_path / name).glob("trial-*")) for name in ("a", "b")]
    assert len(runs[0] + runs[1]) == len({*runs[0], *runs[1]}) == 8
    assert runs[0]
    assert runs[1]
    # Whoever ends last has seen all.
    counts = [len(files.read_json(tmp_path / name / "tune.json")["ranking"]) for name in ("a", "b")]
    assert max(counts) == 8


def test_the_verb_prints_one_document(in_tmp: Path, mock: Mock, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "digits", "--model", "lenet5", "--space", "lr", "--trials", "5", "--epochs", "3", "--json"]
    assert cli.main([*words, "--pruner", "none"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 5
    assert found["command"].startswith("danlu train digits --model lenet5 --recipe digits-lenet5 --set epochs=3 --set ")
    assert Path(found["folder"]) == Path("runs/tune-digits-lenet5")
    assert files.read_json(Path(found["folder"]) / "tune.json")["best"] == found["best"]
    assert "optimizer.lr" in (Path(found["folder"]) / "importance.svg").read_text(encoding="utf-8")
    assert cli.main([*(word for word in words if word != "--json"), "--pruner", "none"]) == 0
    text = capsys.readouterr().out
    assert found["command"] in text
    assert len(mock.trained) == 5


def test_what_an_epoch_is_followed_by_can_end_a_training(tmp_path: Path) -> None:
    """The hook the search stands on: called after the epoch is saved, and what it raises leaves a run to go on with."""
    seen = []

    def after_epoch(training: Training) -> None:
        seen.append((training.state.epoch, last_step(training.run.path)))
        raise KeyError("enough")

    with pytest.raises(KeyError):
        run_tiny(tmp_path / "parts", after_epoch=after_epoch)
    assert seen == [(1, 19)]
    whole = run_tiny(tmp_path / "whole")
    assert hashes(danlu.train.resume(tmp_path / "parts")) == hashes(whole)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("nothing", "database"),
        ("oracl://host/study", "database"),
        ("sqlite:////no/such/folder/study.db", "unable to open database file"),
    ],
)
def test_a_database_that_cannot_be_leaves_no_folder(in_tmp: Path, mock: Mock, storage: str, message: str) -> None:
    for out in (None, in_tmp / "deep" / "search"):
        with pytest.raises(InputError, match=message):
            tune(digits(), space=LR, model="lenet5", pruner="none", storage=storage, out=out, trials=1)
        assert list(in_tmp.iterdir()) == []
    # A folder that was there stays.
    (in_tmp / "mine").mkdir()
    with pytest.raises(InputError, match=message):
        search(in_tmp / "mine", storage=storage, trials=1)
    assert [path.name for path in in_tmp.iterdir()] == ["mine"]
    assert mock.trained == []


def test_a_damaged_database_is_named_and_left_as_it_is(mock: Mock, tmp_path: Path) -> None:
    out = tmp_path / "search"
    search(out, trials=2)
    whole = (out / "study.db").read_bytes()
    for damaged in (b"no database at all", whole[: len(whole) // 3], whole[:4096] + bytes(len(whole) - 4096)):
        (out / "study.db").write_bytes(damaged)
        with pytest.raises(InputError, match=r"study\.db: the database .*\n  mend: restore it from a copy"):
            search(out, trials=3)
        assert len(mock.trained) == 2
    (out / "study.db").write_bytes(whole)
    found = search(out, trials=3)
    assert [row["state"] for row in found["trials"]] == ["complete"] * 3
    assert mock.trained == ["trial-0000", "trial-0001", "trial-0002"]


def test_a_database_that_another_process_locks(mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not let go in time is said; the same command goes on when it does."""
    out = tmp_path / "search"
    search(out, trials=1)
    monkeypatch.setattr(studies, "_PATIENCE", 0.1)
    other = sqlite3.connect(out / "study.db", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match=r"study\.db: the database .*locked.*\n  mend: run the same command again"):
            search(out, trials=2)
    finally:
        other.close()
    found = search(out, trials=2)
    assert [row["state"] for row in found["trials"]] == ["complete", "complete"]


def test_a_search_that_is_done_is_left_as_it_is(mock: Mock, tmp_path: Path) -> None:
    out = tmp_path / "search"
    first = search(out, trials=3)
    again = search(out, trials=3)
    assert again == first
    assert mock.trained == ["trial-0000", "trial-0001", "trial-0002"]
    assert mock.resumed == []
    assert len(search(out, trials=4)["trials"]) == 4
    assert len(mock.trained) == 4
