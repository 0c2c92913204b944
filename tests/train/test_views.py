"""What changes how often, at what size and mixed with what a sample is seen: mixing, repeats, several sizes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.core.errors import InputError, Stopped
from danlu.core.records import RunFolder
from danlu.core.settings import make_settings
from danlu.tasks.classification import Classification
from danlu.tasks.preprocess import PictureModel, Preprocess, PreprocessSettings
from danlu.train import resume
from danlu.train.batches import make_batch
from danlu.train.loop import Training
from danlu.train.measure import step_probe
from danlu.train.plan import Plan
from danlu.train.scale import AtScale, at_scale, typical_scale
from danlu.train.settings import TrainConfig
from danlu.train.start import choose
from tests.train.helpers import TINY, curve, digits, hashes, run_tiny


def _plan(**overrides: Any) -> Plan:
    model = overrides.pop("model", "lenet5")
    given = {**TINY, "augment": [], **overrides}
    return choose(digits(), model=model, recipe=None, overrides=given, seed=0, device="cpu")[0]


def _training(**overrides: Any) -> Training:
    return _plan(**overrides).build(digits(), RunFolder(Path()))


def _batch(training: Training, count: int = 12, epoch: int = 0) -> Any:
    indices = np.arange(100, 100 + count)
    return make_batch(training, indices, training.train.loader.pictures(indices), epoch)


def test_the_batch_carries_what_was_mixed() -> None:
    plain = _batch(_training())
    assert set(plain.targets) == {"label"}
    mixed = _batch(_training(augment=[{"name": "mixup"}]))
    assert set(mixed.targets) == {"label", "partner_label", "share"}
    assert mixed.targets["share"].dtype == torch.float32
    assert torch.equal(mixed.targets["label"], plain.targets["label"])
    assert sorted(mixed.targets["partner_label"].tolist()) == sorted(plain.targets["label"].tolist())
    other = _batch(_training(augment=[{"name": "mixup"}]), epoch=1)
    assert not torch.equal(other.targets["partner_label"], mixed.targets["partner_label"])


def test_validation_is_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[bool, list[set[str]]] = {True: [], False: []}
    original = Classification.loss

    def loss(self: Classification, model: nn.Module, batch: Any, draw: object = None) -> Any:
        seen[torch.is_grad_enabled()].append(set(batch.targets))
        return original(self, model, batch, draw)

    monkeypatch.setattr(Classification, "loss", loss)
    run_tiny(tmp_path / "run", overrides={"epochs": 1, "augment": [{"name": "cutmix"}]})
    assert seen[True] == [{"label", "partner_label", "share"}] * 19
    assert seen[False]
    assert all(targets == {"label"} for targets in seen[False])


def test_mosaic_is_refused_for_pictures_with_one_label(tmp_path: Path) -> None:
    for name in ("mosaic", "copy_paste"):
        with pytest.raises(InputError, match=r"augment\[0\].*no label would be right(.|\n)*mixup or cutmix"):
            run_tiny(tmp_path / "run", overrides={"augment": [{"name": name}]})
    assert not (tmp_path / "run").exists()


def test_each_sample_is_in_the_batch_so_many_times_and_differently() -> None:
    training = _training(repeats=4, augment=[{"name": "pad_crop", "padding": 3}])
    assert training.steps_per_epoch == _training().steps_per_epoch == 19
    assert training.samples_a_step == 16
    batch = _batch(training, 16)
    assert len(batch) == 64
    views = batch.pictures.reshape(4, 16, -1)
    assert batch.ids == training.train.ids(np.arange(100, 116)) * 4
    assert torch.equal(batch.targets["label"].reshape(4, 16), batch.targets["label"][:16].expand(4, 16))
    for sample in range(16):
        assert len({bytes(view.numpy().tobytes()) for view in views[:, sample]}) >= 3
    # The first view of each is the one it has without repeats.
    assert torch.equal(
        _batch(_training(augment=[{"name": "pad_crop", "padding": 3}]), 16).pictures, batch.pictures[:16]
    )


def test_an_epoch_of_repeats_sees_a_part_of_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = Training.do_step

    def do_step(self: Training, batch: Any, lr: float, step: int) -> Any:
        seen.extend(batch.ids)
        return original(self, batch, lr, step)

    monkeypatch.setattr(Training, "do_step", do_step)
    run = run_tiny(tmp_path / "run", overrides={"epochs": 1, "repeats": 2})
    assert len(seen) == 19 * 64
    assert len(set(seen)) == 19 * 32
    assert {seen.count(one) for one in set(seen)} == {2}
    assert run.read_record()["train"]["steps"] == 19


def test_the_picture_of_the_first_batch_has_its_size_with_repeats(tmp_path: Path) -> None:
    sizes = []
    for repeats in (1, 4):
        run = run_tiny(tmp_path / f"{repeats}", overrides={"epochs": 1, "repeats": repeats})
        with Image.open(run.pictures / "augmented.png") as picture:
            sizes.append(picture.size)
    assert sizes[0] == sizes[1]


def test_settings_that_do_not_agree() -> None:
    with pytest.raises(InputError, match="repeats = 3 does not divide"):
        make_settings(TrainConfig, {"repeats": 3, "batch_size": 64}, "here")
    with pytest.raises(InputError, match="multi_scale"):
        make_settings(TrainConfig, {"multi_scale": [4]}, "here")


class _Seen(nn.Module):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x)
        return x.mean(dim=(2, 3))


def _seeing() -> tuple[PictureModel, _Seen]:
    settings = PreprocessSettings(
        picture_size=(16, 16), input_size=(16, 16), fit="none", channels=3, mean=(0.4,) * 3, std=(0.2,) * 3
    )
    seen = _Seen()
    return PictureModel(Preprocess(settings), seen), seen


def test_pictures_are_resized_bilinearly() -> None:
    model, seen = _seeing()
    pictures = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = model.preprocess(pictures)
    for size in (16, 24, 40):
        AtScale(model, size)(pictures)
        expected = F.interpolate(whole, size=(size, size), mode="bilinear", align_corners=False)
        torch.testing.assert_close(seen.given[-1], expected)
    AtScale(model, 8)(pictures)
    # Half the size: a triangle of weights 1, 3, 3, 1 along each side, away from the border.
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = torch.einsum("bcyx,y,x->bc", whole[:, :, 3:7, 5:9], weights, weights)
    torch.testing.assert_close(seen.given[-1][:, :, 2, 3], expected)


def test_each_step_draws_one_size_from_the_seed() -> None:
    model, _ = _seeing()
    config = TrainConfig(multi_scale=(8, 12, 16))

    def sizes(seed: int) -> list[int]:
        found = [at_scale(model, config, seed, step) for step in range(300)]
        return [one.size for one in found if isinstance(one, AtScale)]

    drawn = sizes(0)
    assert {size: round(drawn.count(size), -2) for size in set(drawn)} == {8: 100, 12: 100, 16: 100}
    assert sizes(0) == drawn
    assert sizes(1) != drawn
    assert at_scale(model, TrainConfig(), 0, 0) is model
    assert typical_scale(TrainConfig(multi_scale=(8, 16, 24))).multi_scale == (16,)
    assert typical_scale(TrainConfig()).multi_scale == ()


class _Odd(nn.Module):
    """Takes even sizes only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] % 2:
            raise RuntimeError("odd")
        return x


def test_sizes_the_network_does_not_take_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"lenet5 takes pictures of 32×32 px only"):
        run_tiny(tmp_path / "run", overrides={"multi_scale": [32, 40]})
    with pytest.raises(InputError, match=r"airbench94 takes no pictures below 17 px"):
        _plan(model="airbench94", multi_scale=[32, 16])
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:
        patch.setattr("danlu.train.scale.create_model", lambda *_, **__: _Odd())
        with pytest.raises(InputError, match=r"resnet20 does not take 11×11 px: odd(.|\n)*leave 11 out"):
            _plan(model="resnet20", multi_scale=[8, 11])
    assert _plan(model="resnet20", multi_scale=[8, 12]).config.multi_scale == (8, 12)


def test_trained_in_several_sizes_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow network would do; what counts is that a resumed run draws the sizes of the whole one."""
    features: dict[str, Any] = {
        "model": "resnet20",
        "overrides": {"epochs": 1, "batch_size": 256, "multi_scale": [8, 10, 12], "augment": [{"name": "mixup"}]},
    }
    drawn: list[int] = []
    forward = AtScale.forward

    def noting(self: AtScale, pictures: Any) -> Any:
        drawn.append(self.size)
        return forward(self, pictures)

    monkeypatch.setattr(AtScale, "forward", noting)
    whole = run_tiny(tmp_path / "whole", **features)
    steps = list(drawn)
    assert len(steps) == 4
    assert len(set(steps)) > 1
    original = Training.do_step

    def do_step(self: Training, batch: Any, lr: float, number: int) -> Any:
        if number == 1:
            monkeypatch.setattr(Training, "do_step", original)
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, lr, number)

    monkeypatch.setattr(Training, "do_step", do_step)
    drawn.clear()
    with pytest.raises(Stopped):
        run_tiny(tmp_path / "parts", **features)
    run = resume(tmp_path / "parts")
    assert drawn == steps
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)


def test_the_probe_of_a_step_has_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    training = _training(model="resnet20", batch_size=32, repeats=2, multi_scale=[24, 8, 16])
    found: list[tuple[int, int]] = []
    original = AtScale.forward

    def forward(self: AtScale, pictures: Any) -> Any:
        found.append((len(pictures), self.size))
        return original(self, pictures)

    monkeypatch.setattr(AtScale, "forward", forward)
    drawn = at_scale(training.model, training.config, 0, 0)
    assert isinstance(drawn, AtScale)
    assert drawn.size != 16, "the first step would be a typical one anyway"
    step_probe(training)()
    assert found == [(32, 16)]
    assert training.config.multi_scale == (24, 8, 16)
