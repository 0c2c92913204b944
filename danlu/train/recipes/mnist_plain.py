"""Pictures as they are and nothing that regularises but a little decay: for the old tables of MNIST."""

from __future__ import annotations

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import CosineSettings
from danlu.train.settings import TrainConfig

__all__ = ["mnist_plain"]


def mnist_plain(samples: int) -> TrainConfig:
    """danlu train mnist --model lenet_300_100 --recipe mnist-plain

    Expected: stands in the ledger, with LeNet-300-100 and LeNet-5.
    Cost: 20 epochs, one to three minutes.
    Hardware: two processor cores.
    """
    return TrainConfig(
        epochs=20,
        batch_size=128,
        optimizer=SgdSettings(lr=0.05, momentum=0.9, weight_decay=5e-5),
        schedule=CosineSettings(warmup=0.05),
        augment=(),
    )


RECIPES.register("mnist-plain", mnist_plain, __name__, title="MNIST without augmentation, 20 epochs")
