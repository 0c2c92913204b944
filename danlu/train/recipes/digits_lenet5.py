"""The embedded digits with LeNet-5."""

from __future__ import annotations

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import CosineSettings
from danlu.train.settings import TrainConfig

__all__ = ["digits_lenet5"]


def digits_lenet5(samples: int) -> TrainConfig:
    """danlu train digits --model lenet5

    Expected: 99.1 % test accuracy (eight seeds; least 98.3; one picture is 0.28 points). The epoch
    kept is chosen on 179 pictures, too few to tell a lucky epoch from a good one: the moving average
    of the weights is steady from epoch to epoch, and lifts the least of the eight from 97.2 %.
    Cost: 1,560 steps, 10 to 20 s.
    Hardware: two processor cores.
    """
    return TrainConfig(
        epochs=40,
        batch_size=32,
        optimizer=SgdSettings(lr=0.03, momentum=0.9, weight_decay=5e-4),
        schedule=CosineSettings(warmup=0.1),
        label_smoothing=0.1,
        ema=0.99,
        augment=({"name": "pad_crop", "padding": 1},),
    )


RECIPES.register("digits-lenet5", digits_lenet5, __name__, title="digits with LeNet-5", data="digits", model="lenet5")
