"""The pre-activation network of 20 layers that the tables of hysts/pytorch_image_classification vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from danlu.papers.kinds import Attempt, Measured
from danlu.papers.small import Fit, fit_and_test

__all__ = ["build_preact20", "preact20"]


def build_preact20(channels: int, classes: int) -> nn.Module:
    """Return the network of full pre-activation with three blocks a stage: 0.27 M parameters."""
    from danlu.models.vision.preact_resnet import FirstPreActivation, PreActivation, PreActResNet

    return PreActResNet(
        first=FirstPreActivation, block=PreActivation, blocks=3, num_classes=classes, in_channels=channels
    )


def preact20(
    attempt: Attempt,
    augment: Sequence[Mapping[str, Any]] = (),
    smoothing: float = 0.0,
    epochs: int = 200,
    batch: int = 128,
    lr: float = 0.1,
    schedule: str = "cosine",
) -> Measured:
    """Return the test error of one line of the tables: random crops and flips, then ``augment``."""
    how = Fit(epochs=epochs, batch=batch, lr=lr, weight_decay=1e-4, schedule=schedule)
    crop = ({"name": "pad_crop", "padding": 4}, *(() if attempt.row.data == "mnist" else ({"name": "flip"},)))
    return fit_and_test(attempt, build_preact20, how, augment=(*crop, *augment), smoothing=smoothing)
