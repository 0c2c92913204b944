"""Checkpoints: round trip, what is kept, what a killed process leaves, damage found and named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from danlu.core.errors import InputError
from danlu.train.checkpoint import Checkpoints
from danlu.train.state import Best, State, Tally

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(4)}


def _best(step: int) -> Best:
    return Best(epoch=step // 10, step=step, metric="accuracy", value=0.1 + 0.2, loss=1 / 3)


def _save(checkpoints: Checkpoints, step: int, best: int | None = None) -> None:
    state = State(step=step, best=None if best is None else _best(best), sums={"loss": 0.1 + 0.2})
    checkpoints.save(state, WEIGHTS, {"momentum/w": WEIGHTS["w"] * 2})


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    (tmp_path / "checkpoints").mkdir()
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def _pointers(checkpoints: Checkpoints) -> dict[str, object]:
    return json.loads((checkpoints.folder / "pointers.json").read_text(encoding="utf-8"))


def test_round_trip_keeps_every_bit(checkpoints: Checkpoints) -> None:
    _save(checkpoints, 7, best=7)
    found = checkpoints.load("last")
    assert found.name == "step-000007"
    assert torch.equal(found.weights["w"], WEIGHTS["w"])
    assert found.weights["n"].dtype == torch.int64
    assert torch.equal(found.optimizer["momentum/w"], WEIGHTS["w"] * 2)
    assert found.state == State(step=7, best=_best(7), sums={"loss": 0.1 + 0.2})
    assert checkpoints.load("best").name == "step-000007"
    assert set(os.listdir(checkpoints.folder)) == {"step-000007", "pointers.json"}
    assert set(os.listdir(checkpoints.folder / "step-000007")) == {
        "weights.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    }


def test_the_last_two_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    for step in (0, 10, 20, 30, 40):
        _save(checkpoints, step, best=10 if step else None)
    assert checkpoints.names() == ["step-000010", "step-000030", "step-000040"]
    assert _pointers(checkpoints) == {"schema": 1, "best": "step-000010", "last": "step-000040"}


def test_the_best_of_the_one_before_the_last_is_kept_too(checkpoints: Checkpoints) -> None:
    """A resume may fall back to it when the last one is damaged, and then needs its best."""
    for step, best in ((10, 10), (20, 10), (30, 10), (40, 40)):
        _save(checkpoints, step, best=best)
    assert checkpoints.names() == ["step-000010", "step-000030", "step-000040"]


def test_names_sort_by_number(checkpoints: Checkpoints) -> None:
    for step in (999_999, 1_000_000):
        _save(checkpoints, step)
    assert checkpoints.names() == ["step-999999", "step-1000000"]
    assert checkpoints.newest_good().state.step == 1_000_000  # type: ignore[union-attr]


def test_writing_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    _save(checkpoints, 10)
    _save(checkpoints, 10, best=10)
    assert checkpoints.load("step-000010").state.best == _best(10)
    assert not list(checkpoints.folder.glob(".*"))


def test_what_a_kill_leaves_is_cleaned(checkpoints: Checkpoints) -> None:
    _save(checkpoints, 10)
    _save(checkpoints, 20)
    folder = checkpoints.folder
    (folder / ".step-000030.123.part").mkdir()
    (folder / ".step-000030.123.part" / "weights.safetensors").write_bytes(b"half")
    (folder / ".step-000005.123.gone").mkdir()
    (folder / ".pointers.json.123.part").write_bytes(b"{")
    (folder / ".step-000010.123.old").mkdir()
    os.replace(folder / "step-000020", folder / ".step-000020.123.old")  # killed between the two renames
    checkpoints.clean()
    assert checkpoints.names() == ["step-000010", "step-000020"]
    assert not list(folder.glob(".*"))
    assert checkpoints.newest_good().name == "step-000020"  # type: ignore[union-attr]


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_b5_b6_damage_is_named_and_the_one_before_is_taken(
    checkpoints: Checkpoints, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    _save(checkpoints, 10)
    _save(checkpoints, 20)
    path = checkpoints.folder / "step-000020" / file
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[-3 if file.endswith(".safetensors") else data.index(b"20")] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(InputError) as caught:
        checkpoints.load("step-000020")
    assert "step-000020" in str(caught.value)
    found = checkpoints.newest_good()
    assert found is not None
    assert found.name == "step-000010"
    assert "step-000020 is damaged, going back to step-000010" in caplog.text
    assert checkpoints.names() == ["step-000010"]
    assert (checkpoints.folder / "damaged-000020").is_dir()


def test_all_damaged_is_an_error_and_nothing_is_moved(checkpoints: Checkpoints) -> None:
    for step in (10, 20):
        _save(checkpoints, step)
        (checkpoints.folder / f"step-0000{step}" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="all 2 checkpoints are damaged"):
        checkpoints.newest_good()
    assert checkpoints.names() == ["step-000010", "step-000020"]


def test_a_folder_under_another_name_is_refused(checkpoints: Checkpoints) -> None:
    _save(checkpoints, 10)
    os.replace(checkpoints.folder / "step-000010", checkpoints.folder / "step-000099")
    with pytest.raises(InputError, match="holds step 10"):
        checkpoints.load("step-000099")


@pytest.mark.parametrize("name", ["../x", "step-000011", "", "/etc", "step-000010/../step-000010"])
def test_names_that_are_no_checkpoint(checkpoints: Checkpoints, name: str) -> None:
    _save(checkpoints, 10)
    with pytest.raises(InputError, match="has no checkpoint"):
        checkpoints.load(name)


def test_a_newer_schema_is_refused(checkpoints: Checkpoints) -> None:
    _save(checkpoints, 10)
    path = checkpoints.folder / "step-000010" / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"schema": 1', '"schema": 2'), encoding="utf-8")
    with pytest.raises(InputError, match="schema 2 is newer"):
        checkpoints.load("step-000010")


def test_weights_in_any_memory_order_are_written_alike(tmp_path: Path) -> None:
    plain = torch.arange(24.0).reshape(1, 2, 3, 4)
    hashes = []
    for number, weights in enumerate((plain, plain.to(memory_format=torch.channels_last))):
        checkpoints = Checkpoints(tmp_path / str(number), keep=1)
        checkpoints.folder.mkdir()
        checkpoints.save(State(step=1), {"w": weights}, {})
        manifest = json.loads((checkpoints.folder / "step-000001/manifest.json").read_text(encoding="utf-8"))
        hashes.append(manifest["files"]["weights.safetensors"])
    assert hashes[0] == hashes[1]


def test_sums_do_not_depend_on_where_they_were_cut() -> None:
    names = ("loss", "correct", "labelled")
    rows = torch.rand(37, 3) * 7
    whole, parts = Tally(), Tally()
    whole.add(names, rows)
    for start, stop in ((0, 5), (5, 6), (6, 37)):
        parts = Tally(json.loads(json.dumps(parts.sums)))
        parts.add(names, rows[start:stop])
    assert whole.sums == parts.sums
    assert set(whole.means()) == {"loss", "accuracy"}
    assert Tally().means() == {}


def test_a_state_with_unknown_keys_is_refused() -> None:
    document = State(step=3).to_json()
    assert State.from_json(document, "here") == State(step=3)
    with pytest.raises(InputError, match="surprise"):
        State.from_json({**document, "surprise": 1}, "here")
    with pytest.raises(InputError, match="step"):
        State.from_json({key: value for key, value in document.items() if key != "step"}, "here")
