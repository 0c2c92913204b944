"""Two real processes under torchrun against one: gradients, checkpoints, stops, and ranks that die or hang."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.launcher.api import LaunchConfig

from danlu.core.environment import launched
from danlu.core.errors import InputError
from danlu.core.records import RunFolder
from danlu.evaluate import evaluate
from danlu.tasks.classification import NO_LABEL, Batch, Classification
from danlu.train import resume
from danlu.train.checkpoint import Checkpoints
from danlu.train.distributed import World
from danlu.train.parallel import check_parallel
from danlu.train.settings import TrainConfig
from danlu.train.step import add_gradients
from tests.train.helpers import curve, digits, hashes, last_step, run_tiny
from tests.train.ranks import AFTER, KINDS, SETTINGS, stop_on, train_as

ROOT = Path(__file__).parents[2]
HERE = ("--standalone", "--nproc-per-node", "2")


@dataclass
class Launch:
    """One start of ``torchrun``; ``told`` is the file of all that it and its ranks print."""

    process: subprocess.Popen[bytes]
    told: Path

    @property
    def text(self) -> str:
        return self.told.read_text(encoding="utf-8", errors="replace")

    def rank(self, rank: int) -> psutil.Process:
        """Return the process of a rank, once it is there."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for child in psutil.Process(self.process.pid).children():
                if child.environ().get("RANK") == str(rank):
                    return child
            time.sleep(0.05)
        raise AssertionError("no such rank")

    def wait_for(self, out: Path, step: int) -> None:
        """Return when there is a checkpoint of at least ``step``."""
        deadline = time.monotonic() + 120
        while last_step(out) < step:
            assert self.process.poll() is None, f"torchrun ended: {self.text}"
            assert time.monotonic() < deadline, f"the run made no progress: {self.text}"
            time.sleep(0.02)

    def end(self, seconds: float) -> None:
        """Wait until it ends by itself."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not ended after {seconds} s: {self.text}")

    def kill(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            self.process.wait()


def torchrun(told: Path, *words: str, before: tuple[str, ...] = (), **variables: str) -> Launch:
    """Start ``torchrun`` with one thread a process."""
    command = [*before, sys.executable, "-m", "torch.distributed.run", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **variables}
    with open(told, "wb") as file:
        return Launch(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT), told)


@dataclass
class Faulty:
    """A run one of whose ranks was killed, then the other stopped as if it hung."""

    launch: Launch
    out: Path
    hung: psutil.Process
    since: float


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    if os.name == "nt":
        pytest.skip("Windows has no SIGSTOP")
    folder = tmp_path_factory.mktemp("faulty")
    out = folder / "run"
    words = ["digits", "--model", "lenet5", "--threads", "1", "--device", "cpu", "--out", str(out)]
    settings = ["epochs=3000", "batch_size=64", "precision=fp32", "checkpoint_seconds=0", "rank_timeout=20"]
    given = [word for pair in settings for word in ("--set", pair)]
    # How long torchrun waits before it kills what hangs; 30 s where that cannot be said.
    patience = ["--shutdown-timeout", "3"] if "shutdown_timeout" in signature(LaunchConfig).parameters else []
    told = folder / "told.txt"
    launch = torchrun(told, *HERE, *patience, "--max-restarts", "1", "-m", "danlu", "train", *words, *given)
    try:
        launch.wait_for(out, 40)
        launch.rank(1).send_signal(signal.SIGKILL)
        step = last_step(out)
        launch.wait_for(out, step + 40)
        hung = launch.rank(1)
        hung.send_signal(signal.SIGSTOP)
        yield Faulty(launch, out, hung, time.monotonic())
    finally:
        launch.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One launch of ``tests/train/ranks.py``, and the same trainings by this process."""
    folder = tmp_path_factory.mktemp("ranks")
    assert "143" in stop_on(0, AFTER, lambda: run_tiny(folder / "alone", overrides=SETTINGS["plain"]))
    launch = torchrun(folder / "told.txt", *HERE, "-m", "tests.train.ranks", str(folder))
    try:
        for name in SETTINGS:
            train_as(name, folder / name)
        launch.end(300)
        assert launch.process.returncode == 0, launch.text
        yield folder
    finally:
        launch.kill()


def test_b55_a_killed_rank_ends_all_and_the_restart_goes_on(faulty: Faulty) -> None:
    """``--max-restarts`` starts ``danlu train`` anew, which goes on from the checkpoint."""
    events = [entry for entry in RunFolder(faulty.out).read_log() if entry.get("what") == "resume"]
    assert [event["ranks"] for event in events] == [2]
    assert events[0]["step"] > 0


def weights(run: Path, which: str = "last") -> dict[str, Tensor]:
    name = json.loads((run / "checkpoints" / "pointers.json").read_text(encoding="utf-8"))[which]
    folder = run / "checkpoints" / name
    return {**load_file(folder / "weights.safetensors"), **load_file(folder / "optimizer.safetensors")}


def difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def told(folder: Path, rank: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / f"told-{rank}.json").read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in KINDS for kind in KINDS[name]])
def test_two_ranks_train_as_one_process_does(folder: Path, name: str, kind: str) -> None:
    """Same weights, optimiser, averages and figures but for rounding; same files."""
    one, two = folder / name, folder / f"{name}-{kind}"
    # A network of nine layers lets rounding grow further than one of five.
    assert difference(weights(one), weights(two)) < (5e-4 if name == "scales" else 2e-5)
    assert sorted(p.name for p in one.rglob("*")) == sorted(p.name for p in two.rglob("*"))
    for alone, shared in zip(curve(RunFolder(one)), curve(RunFolder(two)), strict=True):
        assert alone.keys() == shared.keys()
        for key in ("loss", "step", "lr"):
            assert shared.get(key, 0) == pytest.approx(alone.get(key, 0), abs=1e-5)
        for part in ("train", "validation"):
            assert shared.get(part, {}) == pytest.approx(alone.get(part, {}), abs=1e-5)
    machine = RunFolder(two).read_config()["effective"]["machine"]
    assert machine["ranks"] == 2
    assert "ranks" not in RunFolder(one).read_config()["effective"]["machine"]


def test_a_stop_of_one_rank_stops_all_and_the_resume_is_bit_for_bit(folder: Path) -> None:
    for rank in (0, 1):
        said = told(folder, rank)["stopped ddp"]
        assert said.startswith("Stopped 143: stopped after step")
        assert said == told(folder, 0)["stopped ddp"]
    stopped = RunFolder(folder / "stopped-ddp")
    assert hashes(stopped) == hashes(RunFolder(folder / "plain-ddp"))
    assert curve(stopped) == curve(RunFolder(folder / "plain-ddp"))
    (event,) = (entry for entry in stopped.read_log() if entry.get("what") == "resume")
    assert event["ranks"] == 2
    assert event["step"] >= AFTER


def test_a_checkpoint_of_two_ranks_goes_on_with_one(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Written as shards by FSDP; whole on the disk."""
    run = resume(folder / "stopped-fsdp")
    assert "begun with 2 processes: it goes on with 1, but not bit for bit" in caplog.text
    assert difference(weights(run.path), weights(folder / "plain")) < 2e-5


def test_a_checkpoint_of_one_rank_goes_on_with_two(folder: Path) -> None:
    run = RunFolder(folder / "alone")
    assert difference(weights(run.path), weights(folder / "plain")) < 2e-5
    assert [entry["ranks"] for entry in run.read_log() if entry.get("what") == "resume"] == [2]


def test_a_network_with_batch_norms_is_judged_alike_on_all_ranks(folder: Path) -> None:
    """Running statistics differ from rank to rank; those of rank 0 are kept, judged and averaged."""
    run = RunFolder(folder / "norms")
    evaluate(run.path, digits(), "validation")
    found = run.read_record()["results"]["validation"]
    (logged,) = (entry["validation"] for entry in run.read_log() if entry["kind"] == "epoch")
    for metric in ("accuracy", "cross_entropy"):
        assert found[metric]["value"] == pytest.approx(logged[metric], rel=1e-5)


def test_what_the_ranks_tell_each_other(folder: Path) -> None:
    for rank in (0, 1):
        found = told(folder, rank)["values"]
        assert found["shared"] == {"of": 0, "text": "数据"}
        assert found["sum"] == [2.0, 1.0]
        assert found["most"] == [1, 3]
        # One picture at 1, three at 2; in the second step none has a label.
        assert found["rows"] == [[1.75, 6.0, 4.0], [0.0, 0.0, 0.0]]
        assert found["same"] == [True, False]
    assert told(folder, 0)["values"]["failed"] == "DanluError 70: no space"
    assert told(folder, 1)["values"]["failed"] == "RankFailed 70: rank 0: no space"


def test_a_batch_that_does_not_divide_is_refused_by_all(folder: Path) -> None:
    for rank in (0, 1):
        assert told(folder, rank)["indivisible"].startswith("InputError 2: torchrun: batch_size = 63 does not divide")
    assert not (folder / "never").exists()


@pytest.mark.parametrize(
    ("settings", "device", "message"),
    [
        ({"batch_size": 3, "accumulate": 1}, "cpu", "batch_size=2 or 4"),
        ({"batch_size": 4, "accumulate": 3}, "cpu", "more parts than the 2 pictures of a rank"),
        ({"sync_batch_norm": True}, "cpu", "CUDA only"),
        ({"parallel": "fsdp", "optimizer": {"name": "lamb"}}, "cpu", "whole layers"),
        ({"parallel": "fsdp", "transfer": {"freeze": 1}}, "cpu", "does not freeze"),
    ],
)
def test_what_two_ranks_cannot_do_is_refused(settings: dict[str, Any], device: str, message: str) -> None:
    config = TrainConfig.model_validate(settings)
    check_parallel(config, 1, device)
    with pytest.raises(InputError, match=message):
        check_parallel(config, 2, device)


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_weigh_every_labelled_picture_alike(parts: int) -> None:
    """Two ranks, one after the other: one has two pictures without a label, and the mean over all is the same."""
    task = Classification(["a", "b", "c"])
    label = np.array([0, 1, 2, 0, NO_LABEL, NO_LABEL, 1, 2])
    pictures = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)
    torch.manual_seed(0)
    network = torch.nn.Linear(16, 3)

    def loss(batch: Batch) -> dict[str, Tensor]:
        return task.loss_of(network(batch.pictures.flatten(1).float() / 255), batch.targets["label"])

    def gradient(indices: list[int], world: World) -> Tensor:
        network.zero_grad()
        batch = task.collate(pictures[indices], label[indices], [str(i) for i in indices])
        add_gradients(loss, batch, parts, 0, 0, world=world)
        assert network.weight.grad is not None
        return network.weight.grad.clone()

    class Two(World):
        def sum(self, values: Tensor) -> Tensor:
            return torch.full_like(values, 6.0)

    found = [gradient(list(range(4 * rank, 4 * rank + 4)), Two(rank=rank, size=2)) for rank in (0, 1)]
    torch.testing.assert_close((found[0] + found[1]) / 2, gradient(list(range(8)), World()))


def test_each_rank_has_its_part_and_draws_of_its_own() -> None:
    batch = np.array([5, 3, 8, 1])
    assert [World(rank=rank, size=2).part(batch).tolist() for rank in (0, 1)] == [[5, 3], [8, 1]]
    seen = {tuple(World(rank=rank, size=4).counters(part)) for rank in range(4) for part in range(3)}
    assert len(seen) == 12
    assert World().counters(0) == [], "one process draws as it always did"


def test_validation_is_split_in_step_and_put_in_order() -> None:
    parts = [np.array([k]) for k in range(5)]
    assert [[int(p[0]) for p in World(rank=rank, size=2).rounds(parts)] for rank in (0, 1)] == [[0, 2, 4], [1, 3, 3]]
    assert [int(p[0]) for p in World(rank=2, size=3).rounds(parts[:1])] == [0]


@pytest.mark.parametrize("variables", [("x", "2"), ("2", "2"), ("-1", "2")])
def test_ranks_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, variables: tuple[str, str]) -> None:
    monkeypatch.setenv("RANK", variables[0])
    monkeypatch.setenv("WORLD_SIZE", variables[1])
    with pytest.raises(InputError, match="are no ranks"):
        launched()


def test_b55_a_hung_rank_ends_all_in_bounded_time(faulty: Faulty) -> None:
    """The other gives up after ``rank_timeout`` and says who hangs; torchrun ends the hung one 30 s later."""
    faulty.launch.end(max(5.0, faulty.since + 120 - time.monotonic()))
    assert faulty.launch.process.returncode != 0
    assert "rank 0: rank 1 of 2 died, hangs or cannot be reached" in faulty.launch.text
    assert not faulty.hung.is_running()
    found = Checkpoints(RunFolder(faulty.out).checkpoints, keep=2).newest_good()
    assert found is not None
    assert found.state.resumed == 1


def _hosts() -> Iterator[list[str]]:
    """Make two network namespaces with a cable between them; yield their names."""
    names = [f"danlu-{os.getpid()}-{number}" for number in (0, 1)]
    cable = [f"dl{os.getpid() % 10**8}{letter}" for letter in "ab"]
    done: list[str] = []
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
                pytest.skip("network namespaces cannot be made here (needs root)")
            done.append(name)
        commands = [f"link add {cable[0]} type veth peer name {cable[1]}"]
        for number, name in enumerate(names):
            inside = f"-n {name}"
            commands += [f"link set {cable[number]} netns {name}", f"{inside} link set {cable[number]} name eth0"]
            commands += [f"{inside} addr add 10.77.0.{number + 1}/24 dev eth0", f"{inside} link set eth0 up"]
            commands += [f"{inside} link set lo up"]
        for command in commands:
            if (found := subprocess.run(["ip", *command.split()], capture_output=True, check=False)).returncode:
                pytest.skip(f"ip {command}: {found.stderr.decode().strip()}")
        yield names
    finally:
        for name in done:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[str]]:
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux and the command ip")
    yield from _hosts()


def test_two_hosts_train_together(hosts: list[str], folder: Path) -> None:
    """Two network namespaces with a cable between them: the same weights as two ranks of one machine."""
    words = ["digits", "--model", "lenet5", "--threads", "1", "--device", "cpu", "--epochs", "2", "--out"]
    settings = ["batch_size=64", "optimizer.lr=0.05", "precision=fp32", "clip=1.0"]
    given = [word for pair in settings for word in ("--set", pair)]
    launches = []
    for number, host in enumerate(hosts):
        where = (
            f"--nnodes 2 --nproc-per-node 1 --node-rank {number} --master-addr 10.77.0.1 --master-port 29500".split()
        )
        work = ["-m", "danlu", "train", *words, str(folder / "hosts"), *given]
        before = ("ip", "netns", "exec", host)
        told = folder / f"host-{number}.txt"
        launches.append(torchrun(told, *where, *work, before=before, GLOO_SOCKET_IFNAME="eth0"))
    try:
        for launch in launches:
            launch.end(120)
            assert launch.process.returncode == 0, launch.text
    finally:
        for launch in launches:
            launch.kill()
    assert hashes(RunFolder(folder / "hosts")) == hashes(RunFolder(folder / "plain-ddp"))
