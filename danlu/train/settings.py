"""The settings of a training run: frozen, checked, every default visible."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from danlu.core.settings import Settings
from danlu.tasks.loss_settings import LossSettings
from danlu.train.optimizer_settings import OptimizerSettings, SgdSettings
from danlu.train.schedule import CosineSettings, ScheduleSettings

__all__ = ["InitialiseSettings", "TrainConfig", "TransferSettings"]


class InitialiseSettings(Settings):
    """How weights start.

    Attributes:
        name: ``own``: as the network's file says; ``glorot`` (Glorot & Bengio 2010, uniform, ±√(6 / (in + out)));
            ``he`` (He et al. 2015, normal, √(2 / out·k²) of convolutions, √(2 / in) of linear layers); ``orthogonal``
            (Saxe et al. 2014); ``normal``: of standard deviation ``std``; ``lsuv`` (Mishkin & Matas 2016): orthogonal,
            then each layer scaled until its output on the first batch has variance 1. All set biases to 0.
        std: of ``normal``.
        zero_last_norm: the scale of the last norm of each residual branch starts at 0, so that blocks start as their
            shortcuts (Goyal et al. 2017).
    """

    name: Literal["own", "glorot", "he", "orthogonal", "normal", "lsuv"] = "own"
    std: float = Field(default=0.01, gt=0.0)
    zero_last_norm: bool = False

    @model_validator(mode="after")
    def _agree(self) -> InitialiseSettings:
        if self.std != type(self).model_fields["std"].default and self.name != "normal":
            raise ValueError(f"init.std = {self.std}: init.name = {self.name} has no deviation to set, only normal has")
        return self


class TransferSettings(Settings):
    """What learns, and how fast, when training starts from given weights.

    Attributes:
        freeze: the first so many stages keep their weights and statistics; ``body``: all do, only the head learns.
        unfreeze_every: after every so many epochs one more stage learns, the last one first; None: none does.
        stop_first: the first stage learns in so many epochs only, under the schedule of a training that ends with them
            (Jordan 2024, for the biases of a whitening that is fixed otherwise); None: as long as the others.
        lr_decay: each stage learns at this share of the rate of the one above it.
        freeze_norms: every batch norm keeps its running statistics.
        partial: weights are taken over where they fit, whatever does not.
    """

    freeze: int | Literal["body"] = 0
    unfreeze_every: int | None = Field(default=None, ge=1)
    stop_first: int | None = Field(default=None, ge=1)
    lr_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    freeze_norms: bool = False
    partial: bool = False

    @model_validator(mode="after")
    def _agree(self) -> TransferSettings:
        if self.freeze != "body" and self.freeze < 0:
            raise ValueError(f"freeze = {self.freeze}: must be 0, a number of stages, or 'body'")
        if self.unfreeze_every is not None and self.freeze == 0:
            raise ValueError("unfreeze_every has nothing to unfreeze: give freeze too")
        if self.stop_first is not None and self.freeze != 0:
            raise ValueError(
                f"stop_first has nothing to stop: freeze = {self.freeze} keeps the first stage from the start"
            )
        return self


class TrainConfig(Settings):
    """How a network is trained.

    Attributes:
        epochs: passes over the training split; of each, what does not fill a last batch is left for another epoch.
        train_on: ``train+validation`` trains on the validation pictures too, once all settings are chosen: nothing is
            selected then, the last weights are kept, and no figure of validation is taken.
        batch_size: pictures a step, of all ranks together.
        optimizer: one of :mod:`danlu.train.optimizer_settings`; changing its name starts from that one's defaults.
        schedule: one of :mod:`danlu.train.schedule`; likewise.
        label_smoothing: share of the target spread over all classes.
        loss: see :class:`danlu.tasks.loss_settings.LossSettings`.
        augment: augmentations in order, each ``{"name": NAME, setting: value, …}``.
        repeats: each batch holds each of its samples so many times, differently augmented (Hoffer et al. 2020, Fort et
            al. 2021). An epoch keeps its number of steps, so it draws ``batch_size / repeats`` samples a step and sees
            one in so many of the training split.
        multi_scale: heights and widths in pixels of which each step draws one; its pictures are resized to it on the
            device, after augmentation. Validation keeps the network's own size. Empty: that size in every step too.
        precision: ``bf16`` computes convolutions and matrix products in bfloat16; ``auto`` does so where the processor
            or GPU has it. ``fp16`` does so in half precision with the loss scaled against underflow; ``tf32`` keeps
            float32 and lets a GPU round the factors of products to 10 bits.
        compile: the network goes through ``torch.compile``; ``auto``: where steps measured with it are faster and the
            training is long enough to pay for the compilation.
        recompute: the inside of each block is computed again on the way back instead of being kept (Chen et al. 2016):
            less memory, about a third more time, the same gradients.
        kernels: ``auto``: on a processor, convolutions take the weight gradient that is measured to be the fastest (see
            :mod:`danlu.train.convolution`); ``library``: they do not.
        channels_last: keep pictures and weights in the order B, H, W, C in memory.
        ema: decay of a moving average of the weights that is evaluated and kept instead of them; None: no average.
        accumulate: a step's pictures pass through the network in so many parts, whose gradients add up: for batches
            that do not fit into memory; ``auto``: as many as it takes, by the memory that is free. Batch norm sees the
            parts. When memory runs out in a step, the step is done again in twice as many.
        init: see :class:`InitialiseSettings`.
        clip: largest gradient; None: not clipped.
        clip_by: what ``clip`` limits: the ``norm`` of all gradients, each ``value``, or adaptively (``adaptive``) the
            gradient of each unit relative to its weights (Brock et al. 2021).
        l1: weight of the sum of absolute weights in the loss; not of biases and norms.
        max_norm: largest norm of the weights of a unit (Srivastava et al. 2014); None: not limited.
        lookahead: every so many steps the weights go half the way back (Zhang et al. 2019); None: never.
        transfer: see :class:`TransferSettings`.
        patience: training ends when so many epochs in a row were no better on validation; None: never.
        trackers: where figures go beside the run folder: ``tensorboard``, ``wandb``, ``mlflow``.
        checkpoint_seconds: a checkpoint is written at the end of each epoch and at least this often within one.
        keep: how many of the last checkpoints stay, beside the best.
        budget: seconds of training to fit ``epochs`` to, measured before the first step; None: ``epochs`` as they are.
        picture_size: height and width pictures are brought to; None: chosen by the data and the network.
        parallel: how several processes started by torchrun train: ``ddp``, each with the whole network, or ``fsdp``,
            each with a shard of weights, gradients and optimiser. One process trains the same with either.
        sync_batch_norm: batch norm sees the pictures of all ranks instead of those of its own; CUDA only.
        rank_timeout: seconds after which a rank that does not answer is given up, and training ends.
    """

    epochs: int = Field(default=20, ge=1, le=100_000)
    train_on: Literal["train", "train+validation"] = "train"
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
    optimizer: OptimizerSettings = SgdSettings()
    schedule: ScheduleSettings = CosineSettings()
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    loss: LossSettings = LossSettings()
    augment: tuple[dict[str, Any], ...] = ()
    repeats: int = Field(default=1, ge=1, le=64)
    multi_scale: tuple[int, ...] = ()
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    compile: bool | Literal["auto"] = False
    recompute: bool = False
    kernels: Literal["auto", "library"] = "auto"
    channels_last: bool = True
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    accumulate: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = 1
    init: InitialiseSettings = InitialiseSettings()
    clip: float | None = Field(default=None, gt=0.0)
    clip_by: Literal["norm", "value", "adaptive"] = "norm"
    l1: float = Field(default=0.0, ge=0.0)
    max_norm: float | None = Field(default=None, gt=0.0)
    lookahead: int | None = Field(default=None, ge=1)
    transfer: TransferSettings = TransferSettings()
    patience: int | None = Field(default=None, ge=1)
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    checkpoint_seconds: float = Field(default=600.0, ge=0.0)
    keep: int = Field(default=2, ge=1)
    budget: float | None = Field(default=None, gt=0.0)
    picture_size: int | None = Field(default=None, ge=8, le=4096)
    parallel: Literal["ddp", "fsdp"] = "ddp"
    sync_batch_norm: bool = False
    rank_timeout: float = Field(default=300.0, ge=1.0, le=86_400.0)

    @field_validator("augment", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Take the name of an augmentation for one with its default settings."""
        many = value if isinstance(value, list | tuple) else [value]
        return tuple({"name": one} if isinstance(one, str) else one for one in many)

    @model_validator(mode="after")
    def _agree(self) -> TrainConfig:
        if self.accumulate != "auto" and self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate = {self.accumulate} is more parts than the {self.batch_size} pictures of a batch"
            )
        if self.batch_size % self.repeats:
            raise ValueError(f"repeats = {self.repeats} does not divide the {self.batch_size} pictures of a batch")
        if any(not 8 <= size <= 4096 for size in self.multi_scale):
            raise ValueError(f"multi_scale = {list(self.multi_scale)}: each size is 8 … 4096")
        if self.train_on != "train" and self.patience is not None:
            raise ValueError(f"patience = {self.patience} stops by validation, which train_on = {self.train_on} lacks")
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers = {list(self.trackers)}: one is named twice")
        if self.clip is None and self.clip_by != "norm":
            raise ValueError(f"clip_by = {self.clip_by} clips nothing without clip")
        return self
