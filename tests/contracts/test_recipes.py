"""What every recipe keeps: a docstring with command, expectation, cost and hardware; frozen settings; it runs."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.augment.chain import make_chain
from danlu.core.registry import index_text
from danlu.data.catalog import CATALOG
from danlu.data.load import Data, PictureInfo
from danlu.data.sample import ArrayDataset
from danlu.models import MODELS
from danlu.train import train
from danlu.train.recipes import RECIPES
from danlu.train.settings import TrainConfig
from tests.train.helpers import digits

NAMES = RECIPES.names()


def test_there_are_recipes_and_their_index_is_fresh() -> None:
    assert {"default", "digits-lenet5", "mnist-lenet5", "fashion-mnist-lenet5", "cifar10-resnet20"} <= set(NAMES)
    assert RECIPES.index_path.read_text(encoding="utf-8") == index_text(RECIPES.build_index())


def test_no_two_recipes_are_for_the_same_data_and_model() -> None:
    pairs = [(facts["data"], facts["model"]) for facts in RECIPES.index.values() if "data" in facts]
    assert len(set(pairs)) == len(pairs)
    for data, model in pairs:
        assert data in CATALOG
        assert model in MODELS.index


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_opens_with_command_expectation_cost_and_hardware(name: str) -> None:
    text = inspect.getdoc(RECIPES.get(name)) or ""
    assert text.startswith("danlu train ")
    for part in ("Expected", "Cost", "Hardware"):
        assert re.search(rf"^{part}: \S", text, re.M), f"{name} does not say {part}"
    facts = RECIPES.index[name]
    if "data" in facts:
        assert text.splitlines()[0] == f"danlu train {facts['data']} --model {facts['model']}"


@pytest.mark.parametrize("samples", [2, 40, 500, 1259, 50_000, 2_000_000])
@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_frozen_and_their_augmentations_exist(name: str, samples: int) -> None:
    config = RECIPES.get(name)(samples)
    assert isinstance(config, TrainConfig)
    assert config == RECIPES.get(name)(samples)
    make_chain(config.augment)
    if name == "default":
        assert config.batch_size <= samples
        assert config.epochs >= 10


def _tiny(channels: int, side: int, count: int) -> Data:
    rng = np.random.default_rng(0)

    def split(size: int) -> ArrayDataset:
        pictures = rng.integers(0, 256, (size, side, side, channels), dtype=np.uint8)
        return ArrayDataset(pictures, np.arange(size) % 3, [f"{size}-{i}" for i in range(size)], ("a", "b", "c"))

    return replace(
        digits(),
        classes=("a", "b", "c"),
        train=split(count),
        validation=split(12),
        test=split(12),
        picture=PictureInfo(side, side, channels, uniform=True),
        mean=(0.5,) * channels,
        std=(0.3,) * channels,
    )


SIZES: dict[str, tuple[int, int]] = {"digits": (1, 8), "mnist": (1, 28), "fashion-mnist": (1, 28), "cifar10": (3, 32)}


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_runs_at_tiny_scale(name: str, tmp_path: Path) -> None:
    facts = RECIPES.index[name]
    channels, side = SIZES.get(facts.get("data", ""), (3, 40))
    overrides: dict[str, Any] = {"epochs": 1, "batch_size": 8}
    data = _tiny(channels, side, 24)
    run = train(
        data, model=facts.get("model", "auto"), recipe=name, overrides=overrides, out=tmp_path / "run", threads=1
    )
    effective = run.read_config()["effective"]
    assert effective["recipe"] == name
    config = RECIPES.get(name)(24)
    assert run.read_record()["train"]["steps"] == (3 if config.train_on == "train" else 4)
    assert effective["train"]["augment"] == list(config.augment)
    assert effective["train"]["optimizer"]["lr"] == config.optimizer.lr
