"""Small networks of four kinds, hardly trained, as open runs on a few of the digits: what compression is tested on."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danlu.core.records import RunFolder
from danlu.core.settings import Settings
from danlu.data.load import Data, load_data
from danlu.data.sample import Subset
from danlu.models import MODELS
from danlu.tasks.classification import Classification
from danlu.tasks.preprocess import Preprocess, PreprocessSettings
from danlu.tasks.trained import Trained
from tests.deploy.trained_runs import described, fit_network

# Name of the network -> (the side of its pictures, whether the narrow twin is meant).
NETWORKS = {
    "lenet5": (32, False),
    "resnet20": (8, False),
    "mobilenet_v2_cifar": (12, True),
    "vit_b_16": (16, True),
}


@functools.cache
def few_digits() -> Data:
    """Return the digits with 96 training, 48 validation and 48 test pictures."""
    data = load_data("digits")
    parts = {name: Subset(data.split(name), np.arange(count)) for name, count in SIZES.items()}
    return replace(data, **parts)  # type: ignore[arg-type]


SIZES = {"train": 96, "validation": 48, "test": 48}


def network_run(name: str, folder: Path, steps: int = 4) -> Trained:
    """Return a network of :data:`NETWORKS` in ``folder``, trained for ``steps`` batches."""
    side, is_twin = NETWORKS[name]
    data = few_digits()
    torch.manual_seed(0)
    variant = MODELS.get(name)
    model = (variant.twin() if is_twin else variant).build(num_classes=10, in_channels=1)
    settings = PreprocessSettings(
        picture_size=(8, 8),
        input_size=(side, side),
        fit="none" if side == 8 else "pad",
        channels=1,
        mean=data.mean,
        std=data.std,
    )
    fit_network(model, settings, data, steps)
    config = described(data, name, settings)
    config["effective"]["train"] = {"batch_size": 32, "epochs": 1}
    if is_twin:
        config["effective"]["model"]["twin"] = True
    return Trained(
        model=model.eval(),
        preprocess=Preprocess(settings).eval(),
        task=Classification(data.classes),
        classes=data.classes,
        config=config,
        run=RunFolder(folder),
        weights_hash="0" * 64,
        model_name=name,
        which="best",
    )


def quick(settings: type[Settings], prefix: str = "") -> dict[str, Any]:
    """Return overrides that make any method short: one epoch, one round, wherever it counts them."""
    found: dict[str, Any] = {}
    for name, field in settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            found |= quick(inner, f"{prefix}{name}.")
        elif name.endswith(("epochs", "rounds")):
            found[prefix + name] = 1
        elif name == "measure":  # exports twice to take the time
            found[prefix + name] = False
    return found
