"""Fashion-MNIST with LeNet-5 to 90 % in as little time as it takes."""

from __future__ import annotations

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import OneCycleSettings
from danlu.train.settings import TrainConfig

__all__ = ["fashion_mnist_90"]


def fashion_mnist_90(samples: int) -> TrainConfig:
    """danlu train fashion-mnist --model lenet5 --recipe fashion-mnist-90

    Expected: `benchmarks/train.json` has test accuracy and time over five seeds.
    Cost: 7 epochs.
    Hardware: two processor cores with AVX512-BF16.
    """
    return TrainConfig(
        epochs=7,
        batch_size=128,
        optimizer=SgdSettings(lr=0.15, momentum=0.9, weight_decay=5e-4),
        schedule=OneCycleSettings(),
        augment=({"name": "flip"},),
    )


RECIPES.register("fashion-mnist-90", fashion_mnist_90, __name__, title="Fashion-MNIST to 90 % with LeNet-5, fast")
