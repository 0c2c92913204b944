"""The settings of a training run: frozen, checked, every default visible."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from danlu.core.settings import Settings

__all__ = ["OptimizerSettings", "ScheduleSettings", "TrainConfig"]


class OptimizerSettings(Settings):
    """Stochastic gradient descent with momentum.

    Attributes:
        lr: the peak learning rate.
        momentum: share of the last update that is kept.
        nesterov: Nesterov's form of momentum.
        weight_decay: pulls weights to zero; not applied to biases and norms.
    """

    name: Literal["sgd"] = "sgd"
    lr: float = Field(default=0.1, gt=0.0)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0.0)

    @model_validator(mode="after")
    def _agree(self) -> OptimizerSettings:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class ScheduleSettings(Settings):
    """The learning rate over the steps: a linear rise, then half a cosine down.

    Attributes:
        warmup: share of all steps that rise.
        final: learning rate at the end, as a share of the peak.
    """

    name: Literal["cosine"] = "cosine"
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)
    final: float = Field(default=0.0, ge=0.0, le=1.0)


class TrainConfig(Settings):
    """How a network is trained.

    Attributes:
        epochs: passes over the training split; of each, what does not fill a last batch is left for another epoch.
        batch_size: pictures a step.
        optimizer: see :class:`OptimizerSettings`.
        schedule: see :class:`ScheduleSettings`.
        label_smoothing: share of the target spread over all classes.
        augment: augmentations in order, each ``{"name": NAME, setting: value, …}``.
        precision: ``bf16`` computes convolutions and matrix products in bfloat16; ``auto`` does so where the processor
            or GPU has it.
        channels_last: keep pictures and weights in the order B, H, W, C in memory.
        ema: decay of a moving average of the weights that is evaluated and kept instead of them; None: no average.
        clip: largest norm of the gradient; None: not clipped.
        checkpoint_seconds: a checkpoint is written at the end of each epoch and at least this often within one.
        keep: how many of the last checkpoints stay, beside the best.
        budget: seconds of training to fit ``epochs`` to, measured before the first step; None: ``epochs`` as they are.
        picture_size: height and width pictures are brought to; None: chosen by the data and the network.
    """

    epochs: int = Field(default=20, ge=1, le=100_000)
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    augment: tuple[dict[str, Any], ...] = ()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    clip: float | None = Field(default=None, gt=0.0)
    checkpoint_seconds: float = Field(default=600.0, ge=0.0)
    keep: int = Field(default=2, ge=1)
    budget: float | None = Field(default=None, gt=0.0)
    picture_size: int | None = Field(default=None, ge=8, le=4096)
