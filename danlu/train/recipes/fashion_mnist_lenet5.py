"""Fashion-MNIST with LeNet-5."""

from __future__ import annotations

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import CosineSettings
from danlu.train.settings import TrainConfig

__all__ = ["fashion_mnist_lenet5"]


def fashion_mnist_lenet5(samples: int) -> TrainConfig:
    """danlu train fashion-mnist --model lenet5

    Expected: 90.9 ± 0.3 % test accuracy (three seeds; standard deviation).
    Cost: 12 epochs, half a minute to three minutes.
    Hardware: two processor cores with AVX512-BF16.
    """
    return TrainConfig(
        epochs=12,
        batch_size=128,
        optimizer=SgdSettings(lr=0.05, momentum=0.9, weight_decay=5e-4),
        schedule=CosineSettings(warmup=0.1),
        augment=({"name": "flip"},),
    )


RECIPES.register(
    "fashion-mnist-lenet5",
    fashion_mnist_lenet5,
    __name__,
    title="Fashion-MNIST with LeNet-5",
    data="fashion-mnist",
    model="lenet5",
)
