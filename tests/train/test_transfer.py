"""Transfer: what belongs to a stage, what stays frozen bit for bit, what a file of weights gave, exact resume."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from danlu.core.errors import InputError, Stopped
from danlu.core.records import RunFolder
from danlu.core.settings import apply_overrides
from danlu.models import create_model
from danlu.models.weights import save_weights
from danlu.train import resume
from danlu.train.loop import Training
from danlu.train.settings import TrainConfig, TransferSettings
from danlu.train.transfer import HEAD, Transfer, load_fitting, stage_parameters
from tests.train.helpers import curve, hashes, run_tiny

RESNET = {"model": "resnet20", "overrides": {"epochs": 1, "batch_size": 256}}


def last_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    import json

    pointers = json.loads((run.checkpoints / "pointers.json").read_text(encoding="utf-8"))
    return load_file(run.checkpoints / pointers["last"] / "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "picture"), [("lenet5", (1, 32, 32)), ("resnet20", (3, 16, 16)), ("resnet18", (3, 64, 64))]
)
def test_every_parameter_belongs_to_one_stage_or_the_head(name: str, picture: tuple[int, int, int]) -> None:
    network = create_model(name)
    found = stage_parameters(network, picture)
    assert list(found) == [*(stage.name for stage in network.stages), HEAD]
    every = [parameter for names in found.values() for parameter in names]
    assert sorted(every) == sorted(name for name, _ in network.named_parameters())
    assert len(every) == len(set(every))
    assert all(not parameter.is_meta for parameter in network.parameters())


def test_the_stages_of_resnet20() -> None:
    found = stage_parameters(create_model("resnet20"), (3, 16, 16))
    assert found["stem"] == ["stem_conv.weight", "stem_norm.weight", "stem_norm.bias"]
    assert found[HEAD] == ["classifier.weight", "classifier.bias"]
    assert all(name.startswith("stage2.") for name in found["stage2"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save_weights(create_model("resnet20", num_classes=7, in_channels=1), path)
    return path


@pytest.mark.parametrize("ema", [None, 0.9])
def test_frozen_tensors_stay_bit_identical(weights: Path, tmp_path: Path, ema: float | None) -> None:
    overrides = {**RESNET["overrides"], "transfer.freeze": 3, "ema": ema, "max_norm": 50.0, "l1": 1e-5}
    run = run_tiny(tmp_path / "run", model="resnet20", weights=weights, overrides=overrides)
    start, end = load_file(weights), last_weights(run)
    for name, value in end.items():
        if name.startswith(("stem", "stage1", "stage2")):
            assert torch.equal(value, start[name]), name
    assert any(not torch.equal(value, start[name]) for name, value in end.items() if name.startswith("stage3"))
    assert (
        "106 tensors matched" in run.read_config()["why"]["weights"] or "matched" in run.read_config()["why"]["weights"]
    )
    assert "2 of another shape: classifier.weight, classifier.bias" in run.read_config()["why"]["weights"]


def test_a_run_gives_the_weights_of_its_best_checkpoint(weights: Path, tmp_path: Path) -> None:
    first = run_tiny(tmp_path / "first", model="resnet20", weights=weights, overrides=RESNET["overrides"])
    overrides = {**RESNET["overrides"], "transfer.freeze": "body"}
    second = run_tiny(tmp_path / "second", model="resnet20", weights=first.path, overrides=overrides)
    start, end = last_weights(first), last_weights(second)
    assert all(torch.equal(value, end[name]) for name, value in start.items() if name.startswith("stage"))


def test_only_the_head_learns(weights: Path, tmp_path: Path) -> None:
    overrides = {**RESNET["overrides"], "transfer.freeze": "body"}
    run = run_tiny(tmp_path / "run", model="resnet20", weights=weights, overrides=overrides)
    start, end = load_file(weights), last_weights(run)
    for name, value in end.items():
        assert name.startswith("classifier") or torch.equal(value, start[name]), name
    assert float(end["classifier.bias"].abs().max()) > 0


def _transfer(**settings: Any) -> Transfer:
    return Transfer(create_model("resnet20"), (3, 16, 16), TransferSettings(**settings))


def test_unfreezing_goes_down_from_the_head() -> None:
    transfer = _transfer(freeze="body", unfreeze_every=2)
    frozen = [transfer.begin(epoch) for epoch in range(9)]
    assert frozen[0] == frozen[1] == ["stem", "stage1", "stage2", "stage3"]
    assert frozen[2] == ["stem", "stage1", "stage2"]
    assert frozen[7] == ["stem"]
    assert frozen[8] == []
    assert all(p.requires_grad for p in transfer.network.parameters())
    assert all(module.training for module in transfer.network.modules())
    assert _transfer(freeze=2, unfreeze_every=1).begin(1) == ["stem"]


def test_norms() -> None:
    transfer = _transfer(freeze=1)
    transfer.begin(0)
    assert [norm.training for norm in transfer.norms][:3] == [False, True, True]
    transfer = _transfer(freeze_norms=True)
    transfer.begin(0)
    assert not any(norm.training for norm in transfer.norms)
    assert transfer.network.training


def test_rates_fall_with_depth() -> None:
    scales = _transfer(lr_decay=0.5).scales()
    assert scales["classifier.bias"] == 1.0
    assert scales["stage3.0.conv1.weight"] == 0.5
    assert scales["stem_conv.weight"] == 0.5**4


def test_rates_reach_the_optimiser(tmp_path: Path, weights: Path) -> None:
    """A rate of almost nothing below the head: only the head moves."""
    overrides = {**RESNET["overrides"], "transfer.lr_decay": 1e-12, "optimizer.weight_decay": 0.0}
    run = run_tiny(tmp_path / "run", model="resnet20", weights=weights, overrides=overrides)
    start, end = load_file(weights), last_weights(run)
    assert torch.allclose(end["stage3.0.conv1.weight"], start["stage3.0.conv1.weight"], atol=1e-9)
    assert torch.equal(end["stem_conv.weight"], start["stem_conv.weight"])


def test_what_fits_in_part(weights: Path, tmp_path: Path) -> None:
    network = create_model("resnet32", num_classes=7, in_channels=1)
    head = stage_parameters(network, (1, 16, 16))[HEAD]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=r"missing stage1\.3\.conv1\.weight"):
        load_fitting(network, weights, head, partial=False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    loaded = load_fitting(network, weights, head, partial=True)
    assert set(loaded.missing) == {name for name in before if name.split(".")[1:2] in (["3"], ["4"])}
    assert loaded.unexpected == loaded.reshaped == []
    assert torch.equal(network.state_dict()["stem_conv.weight"], load_file(weights)["stem_conv.weight"])
    assert "missing: stage1.3.conv1.weight" in loaded.text()
    with pytest.raises(InputError, match="another architecture"):
        load_fitting(create_model("lenet5"), weights, [], partial=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"transfer.freeze": -1}, "freeze = -1"),
        ({"transfer.freeze": "head"}, "transfer.freeze"),
        ({"transfer.unfreeze_every": 2}, "nothing to unfreeze"),
        ({"transfer.lr_decay": 1.5}, "transfer.lr_decay = 1.5"),
    ],
)
def test_what_does_not_fit_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_overrides(TrainConfig(), overrides)


def test_more_stages_than_there_are() -> None:
    with pytest.raises(InputError, match=r"transfer\.freeze = 9: the network has 4 stages"):
        _transfer(freeze=9)


def test_interrupted_while_unfreezing_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With accumulation, Lookahead, clipping and Adam beside it: the state of all of them goes through a checkpoint."""
    overrides = {
        "epochs": 3,
        "transfer.freeze": 2,
        "transfer.unfreeze_every": 1,
        "transfer.lr_decay": 0.7,
        "accumulate": 2,
        "lookahead": 5,
        "clip": 0.1,
        "clip_by": "adaptive",
        "optimizer.name": "adamw",
        "optimizer.lr": 0.002,
        "schedule.name": "sgdr",
        "schedule.t_0": 1,
    }
    whole = run_tiny(tmp_path / "whole", overrides=overrides)
    real = Training.do_step

    def stopping(self: Training, batch: Any, lr: float, step: int) -> Any:
        losses = real(self, batch, lr, step)
        if step == 27:
            import signal

            signal.raise_signal(signal.SIGTERM)
        return losses

    monkeypatch.setattr(Training, "do_step", stopping)
    with pytest.raises(Stopped):
        run_tiny(tmp_path / "cut", overrides=overrides)
    monkeypatch.undo()
    again = resume(tmp_path / "cut")
    assert hashes(again) == hashes(whole)
    assert curve(again) == curve(whole)


@pytest.mark.parametrize(("key", "value"), [("transfer.freeze", "body"), ("transfer.partial", True)])
def test_what_is_for_given_weights_is_refused_without(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InputError, match="is for given weights"):
        run_tiny(tmp_path / "run", overrides={key: value})
    assert not (tmp_path / "run").exists()


def test_the_first_stage_stops_before_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate falls to nothing within its own epochs, then it stays bit for bit, also after a stop in between."""
    overrides = {"epochs": 3, "batch_size": 256, "transfer.stop_first": 1, "schedule.name": "linear", "keep": 4}
    seen: list[tuple[float, float]] = []
    step = Training.do_step

    def watched(training: Training, batch: Any, lr: float, number: int) -> Any:
        seen.append((lr, training.optimizer.scales["stem_conv.weight"]))
        return step(training, batch, lr, number)

    monkeypatch.setattr(Training, "do_step", watched)
    run = run_tiny(tmp_path / "run", model="resnet20", overrides=overrides)
    epoch = run.read_record()["train"]["steps"] // 3
    seen = seen[-3 * epoch :]
    for number, (lr, scale) in enumerate(seen):
        assert lr == pytest.approx(0.05 * (1 - number / (3 * epoch)))
        assert lr * scale == pytest.approx(0.05 * max(0.0, 1 - number / epoch))
    after = {n: load_file(run.checkpoints / f"step-{n * epoch:06d}" / "weights.safetensors") for n in (1, 2, 3)}
    assert all(torch.equal(after[1][name], after[3][name]) for name in after[1] if name.startswith("stem_"))
    assert not torch.equal(after[2]["classifier.weight"], after[3]["classifier.weight"])

    def stopping(training: Training, batch: Any, lr: float, number: int) -> Any:
        if number == epoch - 2:
            signal.raise_signal(signal.SIGTERM)
        return step(training, batch, lr, number)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "do_step", stopping)
        with pytest.raises(Stopped):
            run_tiny(tmp_path / "stopped", model="resnet20", overrides=overrides)
    assert hashes(resume(tmp_path / "stopped")) == hashes(run)


def test_what_the_network_keeps_fixed_stays_fixed() -> None:
    """The whitening filters of airbench are no weights to learn, whatever transfer freezes and lets go again."""
    network = create_model("airbench94")
    fixed = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert "whitening.weight" in fixed
    transfer = Transfer(network, (3, 32, 32), TransferSettings(stop_first=1))
    for epoch, frozen in ((0, set[str]()), (1, {"whitening.bias"})):
        transfer.begin(epoch)
        assert {n for n, p in network.named_parameters() if not p.requires_grad} == fixed | frozen
    with pytest.raises(InputError, match="stop_first has nothing to stop"):
        apply_overrides(TrainConfig(), {"transfer.stop_first": 2, "transfer.freeze": 1})
