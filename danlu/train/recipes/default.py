"""Any folder of class folders, any network."""

from __future__ import annotations

import math

from danlu.train.optimizer_settings import SgdSettings
from danlu.train.recipes import RECIPES
from danlu.train.schedule import CosineSettings
from danlu.train.settings import TrainConfig

__all__ = ["default"]

# Small folders need many passes, large ones few: the number of steps is what training needs.
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 2_000, 10, 100


def default(samples: int) -> TrainConfig:
    """danlu train FOLDER

    Expected: depends on the pictures.
    Cost: about 2,000 steps, that is 100 epochs of 640 pictures or 10 of 25,600 and more.
    Hardware: any; two cores do a step of ResNet-20 at 64 px in about half a second.
    """
    batch = 16 if samples < 600 else 32 if samples < 3_000 else 64 if samples < 12_000 else 128
    batch = max(2, min(batch, samples // 4))
    epochs = math.ceil(_STEPS / max(1, samples // batch))
    return TrainConfig(
        epochs=min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, epochs)),
        batch_size=batch,
        optimizer=SgdSettings(lr=0.1 * min(1.0, batch / 128) ** 0.5, momentum=0.9, weight_decay=5e-4),
        schedule=CosineSettings(warmup=0.1),
        label_smoothing=0.1,
        augment=({"name": "pad_crop", "padding": 4}, {"name": "flip"}),
    )


RECIPES.register("default", default, __name__, title="any folder, any network")
