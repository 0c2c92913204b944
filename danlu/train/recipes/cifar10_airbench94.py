"""CIFAR-10 with the network and the optimiser of airbench: most of the way to 94 % in eight epochs."""

from __future__ import annotations

from danlu.train.optimizer_settings import MuonSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import LinearSettings
from danlu.train.settings import TrainConfig

__all__ = ["cifar10_airbench94"]


def cifar10_airbench94(samples: int) -> TrainConfig:
    """danlu train cifar10 --model airbench94

    Expected: the author's script reaches 94.0 % with six views of each test picture (`danlu eval --tta flip+shift`) and
        all 50,000 training pictures; ours keeps a tenth of them for validation.
        Not measured to its end yet.
    Cost: 8 epochs.
    Hardware: two processor cores with AMX, or a GPU.
    """
    return TrainConfig(
        epochs=8,
        batch_size=2000,
        optimizer=MuonSettings(
            lr=0.24,
            weight_decay=0.0,
            momentum=0.6,
            iterations=3,
            rest_lr=0.22,
            head_lr=2.8,
            normalize=True,
        ),
        schedule=LinearSettings(),
        label_smoothing=0.2,
        augment=({"name": "alternating_flip"}, {"name": "pad_crop", "padding": 2}),
    )


RECIPES.register(
    "cifar10-airbench94",
    cifar10_airbench94,
    __name__,
    title="CIFAR-10 with airbench94, eight epochs",
    data="cifar10",
    model="airbench94",
)
