"""Memory: what a step keeps, what happens when it runs out, blocks that are computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from danlu.core.errors import CheckFailed, InputError
from danlu.models import create_model
from danlu.tasks.classification import Classification
from danlu.train import measure, memory, step
from danlu.train.batches import make_batch
from danlu.train.distributed import World
from danlu.train.loop import Training
from danlu.train.memory import Statistics, blocks, is_out_of_memory, kept_bytes, parts_for, recompute
from danlu.train.start import choose, fresh
from danlu.train.step import takes_one
from tests.train.helpers import TINY, curve, digits, hashes, run_tiny


def test_what_is_kept_is_counted() -> None:
    layers = nn.Sequential(nn.Linear(10, 20), nn.Sigmoid(), nn.Linear(20, 5))
    x = torch.zeros(8, 10)
    outputs = []
    kept = kept_bytes(lambda: outputs.append(layers(x)))
    # The input, and what the sigmoid gives; transposed weights are views of weights, which do not count.
    assert kept == 4 * (8 * 10 + 8 * 20)


@pytest.mark.parametrize(
    ("picture", "pictures", "free", "parts"), [(10, 64, 1000, 1), (10, 64, 800, 2), (10, 64, 100, 16), (10, 6, 1, 6)]
)
def test_parts(picture: int, pictures: int, free: int, parts: int) -> None:
    assert parts_for(picture, pictures, free) == parts


def test_auto_takes_as_many_parts_as_the_memory_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_bytes", lambda device: 4 * 2**20)
    run = run_tiny(tmp_path / "run", overrides={"epochs": 1, "accumulate": "auto"})
    config = run.read_config()
    parts = config["effective"]["train"]["accumulate"]
    assert parts in (2, 4, 8, 16)
    assert f"a batch of 64 in {parts} parts" in config["why"]["accumulate"]
    given = run_tiny(tmp_path / "given", overrides={"epochs": 1, "accumulate": parts})
    assert hashes(run) == hashes(given)


def test_free_memory_and_peak_are_known_here() -> None:
    device = torch.device("cpu")
    free, peak = memory.free_bytes(device), memory.peak_bytes(device)
    assert free is None or free > 2**20
    assert peak is None or peak > 2**20


def _short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """Let the loss of more than ``most`` pictures at once run out of memory in training; return the sizes seen."""
    original, seen = Classification.loss, []

    def loss(self: Classification, model: nn.Module, batch: Any, draw: object = None) -> dict[str, Tensor]:
        if model.training:
            seen.append(len(batch))
            if len(batch) > most:
                raise error
        return original(self, model, batch, draw)

    monkeypatch.setattr(Classification, "loss", loss)
    return seen


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")],
    ids=["device", "processor"],
)
def test_when_memory_runs_out_the_batch_is_cut_and_the_effective_batch_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    given = run_tiny(tmp_path / "given", overrides={"accumulate": 4})
    seen = _short_of_memory(monkeypatch, 16, error)
    run = run_tiny(tmp_path / "run")
    assert curve(run)[1:] == curve(given)[1:]
    assert "a batch of 64 is computed in 4 parts from now on" in caplog.text
    events = [entry for entry in run.read_log() if entry["kind"] == "event"]
    assert [(event["what"], event["parts"]) for event in events] == [("out of memory", 2), ("out of memory", 4)]
    # Two tries; then every step of both epochs in four parts of 16.
    assert seen == [64, 32] + [16] * (4 * 2 * 19)


def test_other_errors_and_a_single_picture_too_large_are_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    seen = _short_of_memory(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        run_tiny(tmp_path / "run", overrides={"batch_size": 4})
    assert seen == [4, 2, 1]


def test_when_memory_runs_out_in_validation_its_batch_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = run_tiny(tmp_path / "given")
    original, seen = Classification.loss, []

    def loss(self: Classification, model: nn.Module, batch: Any, draw: object = None) -> dict[str, Tensor]:
        if not model.training:
            seen.append(len(batch))
            if len(batch) > 60:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, model, batch, draw)

    monkeypatch.setattr(Classification, "loss", loss)
    run = run_tiny(tmp_path / "run")
    count = len(digits().validation)
    assert count == 179
    # Two tries, each given up at its first piece; then twice four pieces of at most 45.
    assert seen == [179, 89, *[44, 45, 45, 45] * 2]
    said = "the validation takes 45 pictures at once from now on"
    assert caplog.text.count(said) == 1
    events = [entry for entry in run.read_log() if entry["kind"] == "event"]
    assert [event["what"] for event in events] == ["out of memory"] * 2
    assert events[-1]["reason"] == said
    for one, other in zip(curve(run), curve(given), strict=True):
        assert one.pop("validation", {}) == pytest.approx(other.pop("validation", {}), rel=1e-6)
        assert one == other


def test_a_single_picture_too_large_in_validation_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = Classification.loss, []

    def loss(self: Classification, model: nn.Module, batch: Any, draw: object = None) -> dict[str, Tensor]:
        if not model.training:
            seen.append(len(batch))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, model, batch, draw)

    monkeypatch.setattr(Classification, "loss", loss)
    with pytest.raises(torch.OutOfMemoryError):
        run_tiny(tmp_path / "run", overrides={"epochs": 1})
    assert seen[-1] == 1


def test_memory_may_run_out_while_kernels_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _short_of_memory(monkeypatch, 16, torch.OutOfMemoryError("CUDA out of memory"))
    run = run_tiny(tmp_path / "run", overrides={"epochs": 1, "kernels": "auto"})
    config = run.read_config()
    assert config["effective"]["machine"]["kernels"] == {}
    assert "memory ran out while they were measured" in config["why"]["kernels"]
    assert run.read_record()["train"]["epochs"] == 1
    training = fresh(choose(digits(), model="lenet5", recipe=None, overrides=TINY, seed=0, device="cpu")[0], digits())
    _fail_with(monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        measure.measure_kernels(training)


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def loss(*given: object) -> dict[str, Tensor]:
        raise error

    monkeypatch.setattr(Classification, "loss", loss)


@pytest.mark.parametrize(
    ("size", "parts", "mend"),
    [(1, 1, r"batch_size=2 or more$"), (16, 16, r"accumulate=8$"), (5, 4, r"batch_size=8 or more, or accumulate=2$")],
)
def test_a_part_of_one_picture_is_refused_where_a_batch_norm_cannot_take_it(
    tmp_path: Path, size: int, parts: int, mend: str
) -> None:
    """At the end of ResNet-18 a picture of 32 px is one value a channel; in ResNet-20 it is 64."""
    overrides = {"batch_size": size, "accumulate": parts, "epochs": 1}
    with pytest.raises(InputError, match=mend):
        run_tiny(tmp_path / "run", model="resnet18", overrides=overrides)
    assert not (tmp_path / "run").exists()
    for model in ("resnet20", "lenet5"):
        choices = {"model": model, "recipe": None, "overrides": {**TINY, **overrides}, "seed": 0, "device": "cpu"}
        before = fresh(choose(digits(), **choices)[0], digits())
        assert all(value.device.type == "cpu" for value in before.model.state_dict().values())


def test_a_frozen_batch_norm_takes_a_part_of_one_picture() -> None:
    frozen = {**TINY, "batch_size": 1, "epochs": 1, "transfer.freeze_norms": True}
    plan = choose(digits(), model="resnet18", recipe=None, overrides=frozen, seed=0, device="cpu")[0]
    assert takes_one(fresh(plan, digits()))


@pytest.mark.parametrize(("size", "most"), [(8, [8, 4, 2]), (6, [6, 3, 2]), (5, [5, 2])])
def test_what_runs_out_of_memory_is_not_cut_into_single_pictures_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, size: int, most: list[int]
) -> None:
    overrides = {**TINY, "batch_size": size}
    plan = choose(digits(), model="resnet18", recipe=None, overrides=overrides, seed=0, device="cpu")[0]
    training = fresh(plan, digits())
    training.model.train()
    indices = np.arange(size)
    batch = make_batch(training, indices, training.train.loader.pictures(indices), 0)
    seen = _short_of_memory(monkeypatch, 1, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        step.gradients(training, batch, 0)
    assert seen == most


def test_parts_chosen_by_free_memory_are_not_single_pictures_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_bytes", lambda device: 1)
    given = {**TINY, "batch_size": 7, "accumulate": "auto"}
    for model, parts in (("resnet18", 3), ("resnet20", 7)):
        plan = choose(digits(), model=model, recipe=None, overrides=given, seed=0, device="cpu")[0]
        assert measure.choose_parts(fresh(plan, digits()))[0] == parts


@pytest.mark.parametrize("name", ["resnet20", "densenet_bc_100_12", "resnet18"])
def test_blocks_computed_again_give_the_same_gradients_and_statistics(name: str) -> None:
    plain = create_model(name, num_classes=10).train()
    again = create_model(name, num_classes=10).train()
    again.load_state_dict(plain.state_dict())
    assert recompute(again) == len(blocks(plain)) > 2
    x = torch.randn(4, 3, 32, 32)
    kept = []
    for network in (plain, again):
        torch.manual_seed(3)
        outputs: list[Tensor] = []
        kept.append(kept_bytes(lambda network=network, outputs=outputs: outputs.append(network(x))))
        outputs[0].square().mean().backward()
    assert kept[1] < 0.75 * kept[0]
    for (key, one), (_, other) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad), key
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in plain.state_dict().items())


def test_a_run_with_recomputed_blocks_is_the_same_run(tmp_path: Path) -> None:
    small = {"epochs": 1, "batch_size": 256}
    runs = [
        run_tiny(tmp_path / str(again), model="resnet20", overrides={**small, "recompute": again})
        for again in (False, True)
    ]
    assert curve(runs[0]) == curve(runs[1])
    with pytest.raises(InputError, match="lenet5 has no blocks"):
        run_tiny(tmp_path / "lenet", overrides={"recompute": True})


def test_measuring_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs out of memory while it is only tried writes no log and leaves the run's parts alone."""
    states = []
    original = Training.run_to_end

    def run_to_end(self: Training) -> None:
        states.append(self.state.parts)
        original(self)

    monkeypatch.setattr(Training, "run_to_end", run_to_end)
    _short_of_memory(monkeypatch, 32, torch.OutOfMemoryError("CUDA out of memory"))
    run = run_tiny(tmp_path / "run", threads=None, overrides={"epochs": 1})
    assert states == [0]
    assert [entry["what"] for entry in run.read_log() if entry["kind"] == "event"] == ["out of memory"]


def test_an_attempt_that_ran_out_of_memory_leaves_no_trace_in_the_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch norms have taken the batch in when memory runs out; the run is that of smaller parts from the start."""
    small = {"epochs": 1, "batch_size": 256}
    given = run_tiny(tmp_path / "given", model="resnet20", overrides={**small, "accumulate": 4})
    original, seen = Classification.loss, []

    def loss(self: Classification, model: nn.Module, batch: Any, draw: object = None) -> dict[str, Tensor]:
        figures = original(self, model, batch, draw)
        if model.training:
            seen.append(len(batch))
            if len(batch) > 64:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return figures

    monkeypatch.setattr(Classification, "loss", loss)
    run = run_tiny(tmp_path / "run", model="resnet20", overrides=small)
    assert seen[:3] == [256, 128, 64]
    # The optimiser's file too: nothing of the attempts is in the gradients.
    assert hashes(run) == hashes(given)


def test_statistics_are_put_back_bit_for_bit() -> None:
    network = create_model("resnet20", num_classes=10).train()
    network(torch.randn(4, 3, 32, 32))
    statistics = Statistics(network)
    before = {name: value.clone() for name, value in network.named_buffers()}
    statistics.keep()
    network(torch.randn(4, 3, 32, 32))
    assert not any(torch.equal(value, before[name]) for name, value in network.named_buffers())
    statistics.put_back()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    none = Statistics(create_model("lenet5"))
    none.keep()
    none.put_back()


def test_parts_are_chosen_at_the_largest_of_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step at 64 px keeps 64 times what one at 8 px does."""

    def parts(sizes: list[int]) -> int:
        given = {**TINY, "multi_scale": sizes, "accumulate": "auto"}
        plan = choose(digits(), model="resnet20", recipe=None, overrides=given, seed=0, device="cpu")[0]
        return measure.choose_parts(fresh(plan, digits()))[0]

    monkeypatch.setattr(measure, "free_bytes", lambda device: 2**26)
    small, large = parts([8]), parts([64])
    assert small < large
    assert parts([8, 64]) == parts([64, 8]) == large


def test_out_of_memory_among_several_ranks_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = choose(digits(), model="lenet5", recipe=None, overrides={**TINY, "accumulate": 2}, seed=0, device="cpu")[0]
    training = fresh(plan, digits())
    training.world = World(size=2, rank=1)

    def short(*given: object) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "add_gradients", short)
    indices = np.arange(8)
    batch = make_batch(training, indices, training.train.loader.pictures(indices), 0)
    with pytest.raises(CheckFailed, match=r"on rank 1 in step 7; .* wait in the middle .*\n  mend: .*accumulate=4"):
        step.gradients(training, batch, 7)
