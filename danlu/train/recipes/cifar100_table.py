"""CIFAR-100 as the much-used table of 43 networks is trained: 200 epochs, rate divided by 5 three times."""

from __future__ import annotations

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import StepSettings
from danlu.train.settings import TrainConfig

__all__ = ["cifar100_table"]

_EPOCHS, _WARM = 200, 1


def cifar100_table(samples: int) -> TrainConfig:
    """danlu train cifar100 --model resnet18 --recipe cifar100-table

    Expected: 75.61 % by the README of weiaicunzai/pytorch-cifar100; ours stand in the ledger.
    Cost: 200 epochs: 30 PFLOP for ResNet-18.
    Hardware: one GPU.
    """
    # Shares of what follows the warm-up.
    milestones = tuple((epoch - _WARM) / (_EPOCHS - _WARM) for epoch in (60, 120, 160))
    return TrainConfig(
        epochs=_EPOCHS,
        batch_size=128,
        optimizer=SgdSettings(lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4),
        schedule=StepSettings(warmup=_WARM / _EPOCHS, milestones=milestones, factor=0.2, by_epoch=True),
        augment=({"name": "pad_crop", "padding": 4}, {"name": "flip"}, {"name": "rotate", "degrees": 15.0}),
    )


RECIPES.register("cifar100-table", cifar100_table, __name__, title="CIFAR-100 as its table of 43 networks: 200 epochs")
