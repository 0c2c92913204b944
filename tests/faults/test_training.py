"""Faults in training: kills, signals, full disks, damage, changed data, diverging losses, two runs in one folder."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from danlu.core import files
from danlu.core.errors import InputError, Stopped
from danlu.core.records import RunFolder, open_run_folder
from danlu.data.sample import ArrayDataset, Subset
from danlu.tasks import TASKS
from danlu.tasks.classification import Batch, Classification
from danlu.train import resume
from danlu.train.checkpoint import Checkpoints
from danlu.train.loop import Diverged, Training
from danlu.train.state import State
from tests.train.helpers import SERVER, Child, curve, digits, hashes, last_step, listing, run_tiny, wait_for_step

# A checkpoint after every step: most of the time is spent in writing, so that kills hit the midst of it.
SAVE_ALWAYS = {"checkpoint_seconds": 0.0, "keep": 3}
POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run nobody interrupts."""
    return run_tiny(tmp_path_factory.mktemp("whole") / "run", overrides=SAVE_ALWAYS)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second epoch, with checkpoints of several steps."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    do = Training.do_step

    def do_step(self: Training, batch: Batch, lr: float, number: int) -> Any:
        if number == 24:
            signal.raise_signal(signal.SIGTERM)
        return do(self, batch, lr, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "do_step", do_step)
        with pytest.raises(Stopped, match="the state is saved"):
            run_tiny(out, overrides=SAVE_ALWAYS)
    assert last_step(out) == 25
    return out


@pytest.fixture
def half(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run."""
    return Path(shutil.copytree(stopped, tmp_path / "half"))


def _good(out: Path) -> None:
    """Every checkpoint with a proper name is whole, whatever the process was doing when it was killed."""
    for folder in (out / "checkpoints").glob("step-*"):
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, expected in manifest["files"].items():
            assert files.sha256_file(folder / name) == expected, f"{folder.name}/{name} is not whole"


def _die_at(out: Path, verb: str, place: int) -> None:
    """Train or resume, and be killed within the ``place``-th thing done to the disk; within a write, when half done."""
    count = 0

    def then_die(target: Any, name: str) -> None:
        original = getattr(target, name)

        def act(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == place:
                if name == "write_bytes":
                    original(given[0], given[1][: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **named)

        setattr(target, name, act)

    for target, name in ((Path, "write_bytes"), (os, "replace"), (os, "fsync"), (files.shutil, "rmtree")):
        then_die(target, name)
    if verb == "train":
        run_tiny(out, overrides=SAVE_ALWAYS)
    else:
        resume(out)


@POSIX
def test_b47_kill_9_within_a_save_and_resume_bit_for_bit(tmp_path: Path, whole: RunFolder) -> None:
    """A save does some twenty things to the disk; the process dies at each of them in turn."""
    out = tmp_path / "run"
    for place in (75, *range(24, 42)):
        verb = "resume" if (out / "config.json").exists() else "train"
        process = SERVER.Process(target=_die_at, args=(out, verb, place))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        _good(out)
        assert last_step(out) >= 0
    run = resume(out)
    assert run.read_record()["train"]["resumed"] > 8
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)
    assert not list(run.checkpoints.glob(".*"))
    assert not list(run.path.glob(".*.part"))


@POSIX
def test_b47_kill_9_at_random_moments_and_resume_bit_for_bit(tmp_path: Path, whole: RunFolder) -> None:
    rng = random.Random()  # other moments each time the test runs
    out, verb = tmp_path / "run", "train"
    for _ in range(3):
        child = Child(verb, out, SAVE_ALWAYS)
        wait_for_step(out, max(last_step(out), 0) + rng.randint(1, 5), child)
        time.sleep(rng.random() * 0.03)
        child.signal(signal.SIGKILL)
        code, told = child.end()
        assert code in (0, -signal.SIGKILL), told
        _good(out)
        verb = "resume"
    run = resume(out)
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_b48_a_signal_saves_and_exits(tmp_path: Path, whole: RunFolder, number: signal.Signals, code: int) -> None:
    out = tmp_path / "run"
    child = Child("train", out, SAVE_ALWAYS)
    wait_for_step(out, 3, child)
    child.signal(number)
    found, told = child.end()
    assert found == code, told
    assert "the state is saved" in told
    assert "Traceback" not in told
    run = resume(out)
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)


def _hang_in_a_save(out: Path) -> None:
    """Train, but with a save that never ends once a signal has come; say so by a file."""

    def hang(self: Checkpoints, state: State, *tensors: Any) -> None:
        if state.step:
            (out.parent / "hanging").touch()
            time.sleep(300)
        save(self, state, *tensors)

    save, Checkpoints.save = Checkpoints.save, hang  # type: ignore[method-assign]
    try:
        run_tiny(out, overrides={"epochs": 1000})
    except Stopped as error:
        os._exit(error.exit_code)


@POSIX
def test_b48_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """The process hangs in a save that never ends; the second signal must get through all the same."""
    process = SERVER.Process(target=_hang_in_a_save, args=(tmp_path / "run",))
    process.start()
    assert process.pid is not None
    for awaited in (tmp_path / "run" / "log.jsonl", tmp_path / "hanging"):
        deadline = time.monotonic() + 120
        while not awaited.exists():
            assert time.monotonic() < deadline, f"no {awaited.name}"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    code = process.exitcode
    process.kill()
    assert code == 143


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_b5_b6_a_damaged_checkpoint(
    half: Path, whole: RunFolder, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = half / "checkpoints" / "step-000025" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if damage == "truncated" else data)
    before = listing(half)
    with pytest.raises(InputError, match=r"step-000025.*\n.*mend"):
        resume(half, checkpoint="last")
    assert {**listing(half), ".lock": ""} == {**before, ".lock": ""}
    run = resume(half)
    assert "step-000025 is damaged, going back to step-000024" in caplog.text
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)


def test_b6_a_damaged_best_checkpoint_is_said_and_replaced(half: Path, caplog: pytest.LogCaptureFixture) -> None:
    best = json.loads((half / "checkpoints/pointers.json").read_text(encoding="utf-8"))["best"]
    path = half / "checkpoints" / best / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    run = resume(half)
    assert "the best checkpoint is damaged" in caplog.text
    assert run.read_record()["train"]["best_epoch"] == 1


def test_b10_a_newer_config_is_refused(half: Path) -> None:
    config = json.loads((half / "config.json").read_text(encoding="utf-8"))
    (half / "config.json").write_text(json.dumps({**config, "schema": 2}), encoding="utf-8")
    with pytest.raises(InputError, match="schema 2 is newer"):
        resume(half)


def _subset(train: Any) -> Any:
    return replace(digits(), train=train)


def test_b40_what_cannot_be_trained_on_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    train = digits().train
    assert isinstance(train, ArrayDataset)
    few = Subset(train, np.arange(10))
    none = Subset(train, np.arange(0))
    for data, overrides, message in (
        (_subset(few), {}, "batch size 64 does not fit 10 training pictures"),
        (_subset(none), {}, "the train split is empty"),
        (replace(digits(), validation=none), {}, "the validation split is empty"),
        (replace(digits(), classes=("one",)), {}, "one class only"),
        (digits(), {"batch_size": 100_000}, "batch size 100000 does not fit"),
    ):
        with pytest.raises(InputError, match=message):
            run_tiny(tmp_path / "run", data=data, overrides=overrides)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "lenet"}, "did you mean: lenet5"),
        ({"recipe": "digit-lenet5"}, "did you mean: digits-lenet5"),
        ({"overrides": {"optimizer.lrr": 0.1}}, "did you mean: optimizer.lr"),
        ({"overrides": {"optimizer.lr": -0.1}}, "optimizer.lr = -0.1"),
        ({"overrides": {"augment": [{"name": "flp"}]}}, "did you mean: flip"),
        ({"overrides": {"augment": [{"name": "flip", "probabilty": 1}]}}, "did you mean: probability"),
        ({"overrides": {"picture_size": 64}}, "picture_size = 64"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "cuda:99"}, "no cuda:99 device"),
        ({"threads": 0}, "0 threads"),
    ],
    ids=str,
)
def test_b42_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_tiny(tmp_path / "run", **given)
    assert list(tmp_path.iterdir()) == []


def test_b46_changed_settings_are_shown_and_refused(half: Path) -> None:
    config = json.loads((half / "config.json").read_text(encoding="utf-8"))
    config["effective"]["train"]["optimizer"]["lr"] = 0.5
    (half / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"train\.optimizer\.lr: 0\.\d+ → 0\.5"):
        resume(half)
    assert last_step(half) == 25


def test_b46_other_settings_threads_and_device_are_shown_and_refused(half: Path) -> None:
    with pytest.raises(InputError, match=r"epochs: 2 → 9"):
        resume(half, overrides={"epochs": 9})
    with pytest.raises(InputError, match=r"threads: 1 → 2"):
        resume(half, threads=2)
    with pytest.raises(InputError, match="device: 'cpu' → 'mps'"):
        resume(half, device="mps")
    assert last_step(half) == 25
    resume(half, overrides={"epochs": 2}, threads=1, device="cpu")


def test_b46_changed_data_is_shown_and_refused(half: Path) -> None:
    with pytest.raises(InputError, match=r"hash: '[0-9a-f]+' → 'another'"):
        resume(half, data=replace(digits(), hash="another"))
    with pytest.raises(InputError, match=r"sizes\.train: 1259 → 1000"):
        resume(half, data=replace(digits(), train=Subset(digits().train, np.arange(1000))))
    assert last_step(half) == 25


class DiskUsage(NamedTuple):
    """What ``shutil.disk_usage`` returns."""

    total: int
    used: int
    free: int


def _fill_the_disk(patch: pytest.MonkeyPatch, after: int, number: int) -> None:
    """Let every write of a checkpoint's file fail halfway, as a full disk does, after ``after`` good ones."""
    write, count = Path.write_bytes, 0

    def write_bytes(self: Path, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > after:
            write(self, data[: len(data) // 2])
            raise OSError(number, os.strerror(number), str(self))
        return write(self, data)

    patch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
def test_b49_a_full_disk_keeps_the_old_checkpoints(
    tmp_path: Path, whole: RunFolder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        _fill_the_disk(patch, after=4 * 9 + 2, number=number)
        with pytest.raises(InputError, match="no space left"):
            run_tiny(out, overrides=SAVE_ALWAYS)
    assert not list((out / "checkpoints").glob(".*"))
    assert last_step(out) == 8
    _good(out)
    run = resume(out)
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)


def test_b49_too_little_space_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: DiskUsage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(InputError, match="needs about"):
        run_tiny(tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_b49_too_little_space_for_one_more_stops_before_writing(
    half: Path, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: digest for name, digest in listing(half).items() if name.startswith("checkpoints")}
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda path: DiskUsage(10**9, 10**9 - 1000, 1000))
        with pytest.raises(InputError, match="needs about"):
            resume(half)
    after = {name: digest for name, digest in listing(half).items() if name.startswith("checkpoints")}
    assert after == before
    assert hashes(resume(half)) == hashes(whole)


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to mount")
def test_b49_a_disk_that_is_really_full(tmp_path: Path, whole: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ballast, save = disk / "ballast", Training.save

        def fill(self: Training) -> None:
            if self.state.step == 9:
                with open(ballast, "wb") as file:
                    file.write(b"0" * (files.shutil.disk_usage(disk).free - 300_000))
            save(self)

        monkeypatch.setattr(Training, "save", fill)
        # Without the look ahead, so that the write itself runs into the end of the disk.
        monkeypatch.setattr(files, "check_space", lambda folder, needed: None)
        with pytest.raises(InputError, match="no space left"):
            run_tiny(disk / "run", overrides=SAVE_ALWAYS)
        monkeypatch.undo()
        assert not list((disk / "run/checkpoints").glob(".*"))
        assert last_step(disk / "run") == 8
        ballast.unlink()
        run = resume(disk / "run")
        assert hashes(run) == hashes(whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_b50_a_target_that_cannot_be_written_is_found_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "do_step", lambda *given: pytest.fail("a step was done"))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="a folder is needed"):
        run_tiny(tmp_path / "file" / "run")
    probe = Path.write_bytes

    def refuse(self: Path, data: bytes) -> int:
        if self.name.endswith(".probe"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return probe(self, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        run_tiny(tmp_path / "locked" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class _Poisoned(Classification):
    """Gives a loss that is not finite for the batch in which one sample stands."""

    victim = ""
    value = float("nan")

    def loss(self, model: Any, batch: Batch, draw: object = None) -> dict[str, Any]:
        found = super().loss(model, batch, draw)
        if model.training and self.victim in batch.ids:
            found["loss"] = found["loss"] * self.value
        return found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_b52_a_loss_that_is_not_finite_names_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    victim = digits().train.ids[77]
    monkeypatch.setattr(_Poisoned, "victim", victim)
    monkeypatch.setattr(_Poisoned, "value", value)
    monkeypatch.setattr(TASKS, "get", lambda name: _Poisoned)
    with pytest.raises(Diverged) as caught:
        run_tiny(tmp_path / "run", overrides={"batch_size": 8})
    assert caught.value.exit_code == 1
    assert victim in caught.value.ids
    assert len(caught.value.ids) == 8
    run = RunFolder(tmp_path / "run")
    event = run.read_log()[-1]
    assert event["what"] == "diverged"
    assert event["ids"] == caught.value.ids
    steps = [entry["step"] for entry in run.read_log() if entry["kind"] == "step"]
    assert all(step < event["step"] for step in steps)
    assert last_step(run.path) == 0
    assert json.loads((run.checkpoints / "pointers.json").read_text(encoding="utf-8"))["best"] is None


def test_b52_weights_that_overflow_are_never_stored(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"the loss is (nan|inf)|no longer finite|the validation \w+ is"):
        run_tiny(tmp_path / "run", overrides={"optimizer.lr": 1e30, "schedule.warmup": 0.0, **SAVE_ALWAYS})
    run = RunFolder(tmp_path / "run")
    _good(run.path)
    for folder in run.checkpoints.glob("step-*"):
        from danlu.models.weights import read_verified

        read_verified(folder)  # refuses values that are not finite
    assert run.read_log()[-1]["what"] == "diverged"
    assert "train" not in run.read_record()


def test_b52_weights_broken_by_the_last_step_of_an_epoch_are_not_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training.do_step

    def do_step(self: Training, batch: Batch, lr: float, number: int) -> Any:
        found = original(self, batch, lr, number)
        if number == 18:
            next(self.model.network.parameters()).data.fill_(float("nan"))
        return found

    monkeypatch.setattr(Training, "do_step", do_step)
    with pytest.raises(Diverged, match="weights are no longer finite") as caught:
        run_tiny(tmp_path / "run")
    assert len(caught.value.ids) == 64
    assert last_step(tmp_path / "run") == 0


def test_b56_a_folder_that_is_taken_is_refused(whole: RunFolder) -> None:
    before = listing(whole.path)
    with pytest.raises(InputError, match="exists and is not empty"):
        run_tiny(whole.path)
    assert listing(whole.path) == before


@POSIX
def test_b56_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    """A child holds the run, and is halted there; a second one is refused at once; then the run can be taken over."""
    out = tmp_path / "run"
    child = Child("train", out, {"epochs": 60})
    try:
        wait_for_step(out, 19, child)
        child.signal(signal.SIGSTOP)
        before = listing(out)
        begin = time.monotonic()
        with pytest.raises(InputError, match="another process is working in this run folder"):
            resume(out)
        assert time.monotonic() - begin < 5
        with pytest.raises(InputError, match="exists and is not empty"):
            run_tiny(out)
        assert listing(out) == before
    finally:
        child.signal(signal.SIGKILL)
        child.end()
    with pytest.raises(InputError, match="epochs: 60 → 2"):
        resume(out, overrides={"epochs": 2})


@POSIX
def test_b56_two_starts_at_the_same_moment(tmp_path: Path) -> None:
    children = [Child("train", tmp_path / "run", {"epochs": 1}) for _ in range(2)]
    ends = [child.end() for child in children]
    assert sorted(code for code, _ in ends if code is not None) == [0, 2], ends
    assert open_run_folder(tmp_path / "run").read_record()["train"]["epochs"] == 1


def test_b56_a_folder_taken_between_look_and_lock_is_refused(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runs saw an empty folder; the other one took the lock first and is gone already."""
    monkeypatch.setattr("danlu.train.start.new_run_folder", lambda *given: RunFolder(half))
    before = listing(half)
    with pytest.raises(InputError, match="was taken by another run"):
        run_tiny(half)
    assert {**listing(half), ".lock": ""} == {**before, ".lock": ""}


def test_b57_names_in_any_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "丹炉 的 实验"
    data = replace(digits(), classes=tuple(f"类别 {name} é" for name in digits().classes))
    run = run_tiny(out, data=data, overrides={"epochs": 1})
    assert "类别 0 é" in run.config_path.read_text(encoding="utf-8")
    assert RunFolder(out).read_config()["effective"]["data"]["classes"][0] == "类别 0 é"
