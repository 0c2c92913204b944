"""Small networks with a few digits to compress them on; nothing is trained, so that tests take a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from danlu.compress.base import Subject
from danlu.data.load import load_data
from danlu.data.sample import Subset
from danlu.models import MODELS
from danlu.tasks.classification import Classification
from danlu.tasks.preprocess import PreprocessSettings
from danlu.train.settings import TrainConfig


def subject(name: str = "lenet5", count: int = 96, twin: bool = True) -> Subject:
    """A network with random weights and norms that saw the digits, and ``count`` digits of each split."""
    data = load_data("digits")
    variant = MODELS.get(name)
    variant = variant.twin() if twin else variant
    torch.manual_seed(0)
    model = variant.build(num_classes=10, in_channels=1)
    side = variant.input[1:]
    settings = PreprocessSettings(
        picture_size=(8, 8),
        input_size=(side[0], side[1]),
        fit="none" if side == (8, 8) else "resize",
        channels=1,
        mean=(0.3,),
        std=(0.37,),
    )
    rng = np.random.default_rng(0)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            size = module.num_features
            with torch.no_grad():
                module.running_mean.copy_(torch.from_numpy(rng.normal(size=size) * 0.1))  # type: ignore[union-attr]
                module.running_var.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, size)))  # type: ignore[union-attr]
                # Some scales are below zero, as they are in trained networks.
                module.weight.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, size) * rng.choice([1, 1, 1, -1], size)))
    for parameter in model.parameters():
        if not parameter.any():  # layers that start at zero would hide what lies before them
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape)) * 0.05))
    task = Classification(data.train.classes)
    effective: dict[str, Any] = {
        "data": {"name": "digits", "source": "digits", "hash": data.hash, "classes": list(task.classes), "seed": 0},
        "task": "classification",
        "model": {"name": name, "num_classes": 10, "in_channels": 1, "twin": twin},
        "preprocess": settings.model_dump(mode="json"),
        "seed": 0,
    }
    return Subject(
        model=model.eval(),
        build=effective["model"],
        edits=(),
        preprocess=settings,
        task=task,
        train=Subset(data.train, np.arange(count, dtype=np.int64)),
        validation=Subset(data.validation, np.arange(min(count, len(data.validation)), dtype=np.int64)),
        settings=TrainConfig(batch_size=32),
        effective=effective,
        seed=0,
        device=torch.device("cpu"),
        threads=1,
        name=name,
        weights_hash="0" * 64,
    )
