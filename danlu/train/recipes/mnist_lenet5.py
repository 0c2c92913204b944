"""MNIST with LeNet-5."""

from __future__ import annotations

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import CosineSettings
from danlu.train.settings import TrainConfig

__all__ = ["mnist_lenet5"]


def mnist_lenet5(samples: int) -> TrainConfig:
    """danlu train mnist --model lenet5

    Expected: 99.4 % test accuracy (99.40 to 99.43 over three seeds).
    Cost: 8 epochs, half a minute to two minutes.
    Hardware: two processor cores with AVX512-BF16.
    """
    return TrainConfig(
        epochs=8,
        batch_size=128,
        optimizer=SgdSettings(lr=0.1, momentum=0.9, weight_decay=5e-4),
        schedule=CosineSettings(warmup=0.1),
        label_smoothing=0.05,
        augment=({"name": "pad_crop", "padding": 2},),
    )


RECIPES.register("mnist-lenet5", mnist_lenet5, __name__, title="MNIST with LeNet-5", data="mnist", model="lenet5")
