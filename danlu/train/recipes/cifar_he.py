"""CIFAR-10 as He et al. 2015 train on it: 64,000 steps, section 4.2."""

from __future__ import annotations

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import StepSettings
from danlu.train.settings import TrainConfig

__all__ = ["cifar_he"]


def cifar_he(samples: int) -> TrainConfig:
    """danlu train cifar10 --model resnet20 --recipe cifar-he

    Expected: 91.25 % by table 6 of the paper; ours stand in the ledger.
    Cost: 182 epochs: 2 PFLOP for ResNet-20.
    Hardware: one GPU, or hours on two processor cores.
    """
    return TrainConfig(
        epochs=182,
        batch_size=128,
        optimizer=SgdSettings(lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4),
        schedule=StepSettings(milestones=(0.5, 0.75)),
        augment=({"name": "pad_crop", "padding": 4}, {"name": "flip"}),
    )


RECIPES.register("cifar-he", cifar_he, __name__, title="CIFAR as He et al. 2015: 64,000 steps")
