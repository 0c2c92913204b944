"""CIFAR as Huang et al. 2017 train DenseNets on it, section 4.2."""

from __future__ import annotations

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import StepSettings
from danlu.train.settings import TrainConfig

__all__ = ["cifar_dense"]


def cifar_dense(samples: int) -> TrainConfig:
    """danlu train cifar10 --model densenet_bc_100_12 --recipe cifar-dense

    Expected: 95.49 % by table 2 of the paper; ours stand in the ledger.
    Cost: 300 epochs: 23 PFLOP for DenseNet-BC-100-12.
    Hardware: one GPU.
    """
    return TrainConfig(
        epochs=300,
        batch_size=64,
        optimizer=SgdSettings(lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=StepSettings(milestones=(0.5, 0.75)),
        augment=({"name": "pad_crop", "padding": 4}, {"name": "flip"}),
    )


RECIPES.register("cifar-dense", cifar_dense, __name__, title="CIFAR as Huang et al. 2017: 300 epochs")
