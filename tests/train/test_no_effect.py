"""What would have no effect is refused and named, instead of being accepted in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.augment import AUGMENTATIONS
from danlu.augment.chain import make_chain
from danlu.augment.pixelwise import Coloured
from danlu.core.errors import InputError
from danlu.core.settings import apply_overrides
from danlu.data.load import Data, PictureInfo
from danlu.data.sample import ArrayDataset
from danlu.models import create_model
from danlu.models.weights import save_weights
from danlu.train.parallel import check_parallel
from danlu.train.settings import TrainConfig
from danlu.train.start import choose
from tests.train.helpers import TINY, digits, run_tiny


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"init.std": 0.1}, "init.std = 0.1: init.name = own has no deviation to set"),
        ({"init.name": "he", "init.std": 0.1}, "init.std = 0.1: init.name = he"),
        ({"loss.beta": 0.9}, "loss.beta = 0.9 is for loss.class_weights = effective"),
        ({"loss.class_weights": "inverse", "loss.beta": 0.9}, "loss.beta = 0.9"),
        ({"trackers": ["wandb", "wandb"]}, "one is named twice"),
    ],
)
def test_settings_that_another_setting_makes_idle(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_overrides(TrainConfig(), overrides)


def test_settings_with_an_effect_are_taken() -> None:
    config = apply_overrides(TrainConfig(), {"init.name": "normal", "init.std": 0.1, "loss.beta": 0.9} | EFFECTIVE)
    assert (config.init.std, config.loss.beta) == (0.1, 0.9)


EFFECTIVE = {"loss.class_weights": "effective"}


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ({"name": "cutout", "size": 9}, "Cutout: size = 9 is more than the 8×8 px"),
        ({"name": "pad_crop", "padding": 8}, "PadCrop: padding = 8 shifts pictures of 8×8 px out of sight"),
        ({"name": "hsv"}, "change nothing of grey pictures; give 0 for both"),
        ({"name": "colour_jitter"}, "change nothing of grey pictures; give 0 for both"),
        *(({"name": name}, "these pictures are grey") for name in ("hue", "saturation", "grayscale", "pca_lighting")),
    ],
)
def test_augmentations_that_change_nothing_or_leave_nothing(augmentation: dict[str, Any], message: str) -> None:
    given = {**TINY, "augment": [augmentation]}
    with pytest.raises(InputError, match=message) as caught:
        choose(digits(), model="lenet5", recipe=None, overrides=given, seed=0, device="cpu")
    assert str(caught.value).startswith("augment[0]")
    make_chain([augmentation]).check_pictures(32, 32, 3)


def test_augmentations_of_grey_pictures_that_do_something_are_taken() -> None:
    chain = [
        {"name": "hsv", "hue": 0, "saturation": 0},
        {"name": "colour_jitter", "hue": 0, "saturation": 0},
        {"name": "cutout", "size": 8},
        {"name": "pad_crop", "padding": 8, "mode": "reflect"},
        {"name": "randaugment"},
    ]
    make_chain(chain).check_pictures(8, 8, 1)


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_what_never_changes_grey_pictures_says_so(name: str) -> None:
    """Found by trying each augmentation of colours or levels on grey pictures, with its default settings."""
    kind = AUGMENTATIONS.get(name)
    made = kind()
    facts = AUGMENTATIONS.index[name]
    if facts.get("partners") or facts.get("in_batch"):
        return
    from danlu.augment.base import Draws

    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 24, 24, 1), dtype=np.uint8))
    moved = make_chain([{"name": name}]).pictures(pictures, Draws(0, 1, np.arange(64)))
    assert (made.fault(24, 24, 1) is not None) >= bool(torch.equal(moved, pictures)), name
    if isinstance(made, Coloured):
        assert torch.equal(moved, pictures)


def test_sync_batch_norm_of_one_process(in_tmp: Path) -> None:
    with pytest.raises(InputError, match="sync_batch_norm: there is one process"):
        run_tiny(in_tmp / "run", overrides={"sync_batch_norm": True})
    assert list(in_tmp.iterdir()) == []
    # A run that several began goes on in one: what it was begun with stays in its settings.
    check_parallel(TrainConfig(sync_batch_norm=True), 1, "cpu")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lookahead": 1000}, "lookahead = 1000 never comes in the"),
        ({"transfer.freeze_norms": True}, "transfer.freeze_norms: the network has no batch norm"),
    ],
)
def test_what_this_network_or_training_has_not(in_tmp: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_tiny(in_tmp / "run", overrides=overrides)
    assert list(in_tmp.iterdir()) == []


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lenet5.safetensors"
    save_weights(create_model("lenet5", num_classes=10, in_channels=1), path)
    return path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"init.name": "he"}, "init.name = he: --weights sets every tensor"),
        ({"init.name": "lsuv"}, "init.name = lsuv scales layers by what the fresh ones give"),
    ],
)
def test_an_initialiser_that_weights_take_the_place_of(
    in_tmp: Path, weights: Path, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_tiny(in_tmp / "run", overrides=overrides, weights=weights)
    assert list(in_tmp.iterdir()) == []


def test_an_initialiser_of_what_weights_lack_is_said(tmp_path: Path, weights: Path) -> None:
    """A head for other classes keeps the fresh values that the initialiser gave it."""
    run = run_tiny(tmp_path / "run", data=_of_three(), overrides={"init.name": "he", "epochs": 1}, weights=weights)
    assert "only for the 2 tensors that --weights does not set" in run.read_config()["why"]["init"]


def _of_three() -> Data:
    def part(dataset: Any) -> ArrayDataset:
        kept = np.flatnonzero(dataset.labels < 3)
        ids = [dataset.ids[index] for index in kept.tolist()]
        return ArrayDataset(dataset.pictures[kept], dataset.labels[kept], ids, ("a", "b", "c"))

    data = digits()
    return replace(
        data,
        classes=("a", "b", "c"),
        train=part(data.train),
        validation=part(data.validation),
        test=part(data.test),
        picture=PictureInfo(8, 8, 1, uniform=True),
    )
