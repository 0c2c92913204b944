"""Trained to be coded: while it trains, a network pays for the bits that its weights will take in the file.

After Oktay, Ballé, Singh, Shrivastava, "Scalable Model Compression by Entropy Penalized Reparameterization", ICLR 2020,
and Wiedemann et al., "DeepCABAC", 2019. Every weight is a whole number of steps, ŵ = Δ·round(w/Δ); the gradient passes
the rounding unchanged (straight through) and the step Δ of each tensor learns (Esser et al., "Learned Step Size
Quantization", ICLR 2020). The loss is the task's, or that of the uncompressed network's soft answers (Hinton et al.
2015), plus ``rate`` times the bits. A weight's bits are those of an ideal coder that has seen the whole tensor: what
its level costs by how often each level comes, and what its place costs by how many weights its row and column have.
Between two levels the cost is a straight line, so that its slope pulls towards the cheaper one. Weights of few
neighbours are dear: whole rows and columns die. No threshold, mask or number of clusters has to be chosen.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.compress import METHODS
from danlu.compress.base import Compressed, Method, Subject
from danlu.compress.codings import Hint
from danlu.compress.prune import retraining
from danlu.compress.retrain import Hooks, retrain, validate
from danlu.compress.share import bake, replace_weight
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.settings import Settings
from danlu.tasks.classification import Batch, Classification
from danlu.train.optimizer_settings import AdamSettings, OptimizerSettings

__all__ = ["Entropy", "EntropySettings", "Stepped", "soft_loss"]

_MOST_LEVELS = 127


class EntropySettings(Settings):
    """How a network is trained to be coded.

    Attributes:
        rate: what is minimised is loss + rate · bits / weights, with the loss in nats.
        ramp: share of the training in which ``rate`` rises from nothing.
        settle: share of the training, its end, in which zeros stay zero and the price is no longer paid.
        step: where each tensor's step begins, in standard deviations of its values.
        epochs: of training.
        optimizer: of that training.
        soft: share of the loss that is the distance to the uncompressed network's answers.
        temperature: these are softened by.
        biases: whether biases are coded too; norms never are.
        refresh: the ideal coder is asked anew after so many steps.
    """

    rate: float = Field(default=0.1, ge=0.0)
    ramp: float = Field(default=0.3, ge=0.0, le=1.0)
    settle: float = Field(default=0.2, ge=0.0, lt=1.0)
    step: float = Field(default=0.5, gt=0.0)
    epochs: int = Field(default=20, ge=1, le=10_000)
    optimizer: OptimizerSettings = AdamSettings(lr=1e-3)
    soft: float = Field(default=0.7, ge=0.0, le=1.0)
    temperature: float = Field(default=3.0, gt=0.0)
    biases: bool = True
    refresh: int = Field(default=50, ge=1)


class _Steps(torch.autograd.Function):
    """ŵ = Δ·round(w / Δ); straight through to w, and the gradient of learned step sizes to Δ. One pass, few copies."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, step: Tensor) -> Tensor:
        """Return ``latent`` on whole steps."""
        scaled = latent / step
        level = scaled.round().clamp_(-_MOST_LEVELS, _MOST_LEVELS)
        ctx.save_for_backward(level - scaled)
        return level * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of both."""
        (change,) = ctx.saved_tensors
        return gradients[0], torch.dot(gradients[0].flatten(), change.flatten())


class _Pay(torch.autograd.Function):
    """The price of a tensor's bits: only its slope is ever needed in a step, so only that is computed."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, step: Tensor, place: Tensor, more: float) -> Tensor:
        """Return 0; backward is the slope of the bits by ``latent``."""
        ctx.save_for_backward(latent, step, place)
        ctx.more = more
        return latent.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the slope: within one step of zero all of a weight's bits, beyond it those of one level more."""
        latent, step, place = ctx.saved_tensors
        slope = torch.where(latent.abs() < step, place, ctx.more)
        return slope.mul_(latent.sign()).mul_(gradients[0] / step), None, None, None


class Stepped(nn.Module):
    """A parametrisation: whole numbers of a step that learns, and what their bits cost.

    Args:
        weight: what it replaces; its values are where the latent ones begin.
        step: Δ to begin with.

    Attributes:
        place: bits of being there at all, of each weight: its place, and the level it comes to first.
        more: bits of one level further.
        alive: what is not zero for good; None while everything may come back.
    """

    place: Tensor

    def __init__(self, weight: Tensor, step: float) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().clone())
        self.log_step = nn.Parameter(torch.full((), math.log(step), device=weight.device))
        self.register_buffer("place", torch.zeros_like(weight), persistent=False)
        self.more = 0.0
        self.alive: Tensor | None = None
        self.rows = len(weight) if weight.dim() > 1 else 1

    @property
    def step(self) -> Tensor:
        """Δ, positive."""
        return self.log_step.exp()

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight on whole steps."""
        del weight
        found: Tensor = _Steps.apply(self.latent, self.step)
        return found if self.alive is None else found * self.alive

    @torch.no_grad()
    def levels(self) -> Tensor:
        """Return the whole numbers, in float32."""
        level = (self.latent / self.step).round().clamp(-_MOST_LEVELS, _MOST_LEVELS)
        return (level if self.alive is None else level * self.alive) + 0.0

    @torch.no_grad()
    def ask_coder(self) -> float:
        """Learn what an ideal coder would charge for the present levels; return their bits."""
        level = self.levels()
        is_there = (level != 0).reshape(self.rows, -1).float()
        total = float(is_there.sum())
        sizes = level[level != 0].abs()
        # Sizes as a coder sees them, 1 … 127; a size that nobody has is as dear as one that half a weight has.
        counts = torch.bincount(sizes.long(), minlength=_MOST_LEVELS + 1).float()[1:]
        price = -torch.log2((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
        used = max(2, int(sizes.max()) if total else 2)
        # One number for all further levels: the mean rise of the price from 1 to the largest in use.
        self.more = max(0.0, float(price[used - 1] - price[0]) / (used - 1))
        row, column = is_there.sum(1, keepdim=True) + 0.5, is_there.sum(0, keepdim=True) + 0.5
        chance = (row * column / (total + 0.5)).clamp(1e-4, 1 - 1e-4)
        # A sign costs one bit.
        dear = torch.log2((1 - chance) / chance).clamp(min=0.0) + 1.0 + float(price[0])
        self.place.copy_(dear.reshape(self.place.shape))
        absent = -torch.log2(1 - chance)
        levels = float((counts * price).sum()) + total
        return levels + float(torch.where(is_there > 0, -torch.log2(chance), absent).sum())

    def pay(self) -> Tensor:
        """Return 0, with the slope of the bits by the latent values as its gradient."""
        found: Tensor = _Pay.apply(self.latent, self.step.detach(), self.place, self.more)
        return found

    @torch.no_grad()
    def freeze_zeros(self) -> None:
        """Let what is zero now stay zero."""
        self.alive = (self.levels() != 0).float()


class Entropy(Method[EntropySettings]):
    """Quantisation-aware training with a price on the bits of the file."""

    Settings = EntropySettings

    def apply(self, subject: Subject, settings: EntropySettings) -> Compressed:
        """Return the network on whole steps; ``report["epochs"]`` says how size and loss went."""
        teacher = copy.deepcopy(subject.model).eval().requires_grad_(False) if settings.soft else None
        stepped = _replace(subject.model, settings)
        count = sum(one.latent.numel() for one in stepped.values())
        run = _Run(subject, settings, stepped, count, teacher)
        hooks = Hooks(loss=run.loss, penalty=run.penalty, after_step=run.after_step, after_epoch=run.after_epoch)
        config = retraining(subject, settings.epochs, settings.optimizer)
        run.steps = settings.epochs * (len(subject.train) // config.batch_size)
        run.ask()
        retrain(subject, subject.model, config, title="entropy", hooks=hooks)
        hints = {name: Hint(one.step.detach().cpu().reshape(1).numpy()) for name, one in stepped.items()}
        exact = {name: one.levels() * one.step.detach() + 0.0 for name, one in stepped.items()}
        bake(subject.model)
        with torch.no_grad():
            for name, value in exact.items():
                subject.model.get_parameter(name).copy_(value)
        rows = [
            {"name": name, "kept": int((value != 0).sum()), "weights": value.numel(), "step": float(one.step.detach())}
            for (name, value), one in zip(exact.items(), stepped.values(), strict=True)
        ]
        return Compressed(subject.model, subject.edits, {"epochs": run.log, "layers": rows}, hints)


@dataclass
class _Run:
    """What the hooks of one training share."""

    subject: Subject
    settings: EntropySettings
    stepped: dict[str, Stepped]
    count: int
    teacher: nn.Module | None
    steps: int = 1
    done: int = 0

    def __post_init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.bits = 0.0

    def ask(self) -> None:
        self.bits = sum(one.ask_coder() for one in self.stepped.values())

    @property
    def is_settling(self) -> bool:
        return self.done >= (1 - self.settings.settle) * self.steps

    def penalty(self) -> Tensor:
        """Return what brings the slope of rate · bits / weights; the rate rises at first and is 0 in the end."""
        if self.is_settling:
            return torch.zeros((), device=self.subject.device)
        rise = min(1.0, self.done / max(1.0, self.settings.ramp * self.steps))
        paid = torch.stack([one.pay() for one in self.stepped.values()]).sum()
        return rise * self.settings.rate / self.count * paid

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return soft_loss(self.subject.task, model, self.teacher, batch, self.settings.soft, self.settings.temperature)

    def after_step(self, step: int, steps: int) -> None:
        del steps
        was_settling, self.done = self.is_settling, step
        if self.is_settling and not was_settling:
            for one in self.stepped.values():
                one.freeze_zeros()
        elif step % self.settings.refresh == 0 and not self.is_settling:
            self.ask()

    def after_epoch(self, epoch: int, means: dict[str, float]) -> None:
        accuracy = validate(self.subject, self.subject.model)["accuracy"]
        kept = sum(int((one.levels() != 0).sum()) for one in self.stepped.values())
        row = {"epoch": epoch + 1, "loss": means["loss"], "bits": self.bits, "kept": kept, "accuracy": accuracy}
        self.log.append(row)
        message = "entropy: epoch %d, %d weights, about %.0f bytes, validation accuracy %.4f"
        logger.info(message, epoch + 1, kept, self.bits / 8, accuracy)


def soft_loss(
    task: Classification, model: nn.Module, teacher: nn.Module | None, batch: Batch, share: float, temperature: float
) -> dict[str, Tensor]:
    """Return the task's figures with a loss that is partly the distance to a teacher's soft answers.

    Args:
        task: gives the loss against the labels.
        model: a :class:`danlu.tasks.preprocess.PictureModel`.
        teacher: a network that takes preprocessed pictures, in eval mode; None for labels alone.
        batch: of pictures.
        share: of the soft part.
        temperature: T of Hinton, Vinyals, Dean 2015; the soft part is multiplied by T².
    """
    if teacher is None or not share:
        return task.loss(model, batch)
    pictures = model.preprocess(batch.pictures)  # type: ignore[operator]
    outputs = model.network(pictures)  # type: ignore[operator]
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs
    with torch.no_grad():
        target = F.softmax(teacher(pictures) / temperature, dim=1)
    figures = task.loss_of(logits.float(), batch.targets["label"])
    soft = F.kl_div(F.log_softmax(logits / temperature, dim=1), target, reduction="batchmean") * temperature**2
    figures["loss"] = (1 - share) * figures["loss"] + share * soft
    return figures


def _replace(model: nn.Module, settings: EntropySettings) -> dict[str, Stepped]:
    """Put stepped weights in the place of those of convolutions and linear layers, and of their biases."""
    found: dict[str, Stepped] = {}
    for path, layer in list(model.named_modules()):
        if not isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            continue
        for tensor in ("weight", "bias") if settings.biases else ("weight",):
            value = getattr(layer, tensor)
            if not isinstance(value, nn.Parameter):
                continue
            # Biases that are all zero yet begin with the step of their weights.
            spread = float(value.detach().std()) if value.numel() > 1 else 0.0
            spread = spread or float(layer.weight.detach().std()) or 1.0
            name = f"{path}.{tensor}" if path else tensor
            found[name] = Stepped(value, settings.step * spread)
    if not found:
        raise InputError("has no convolution and no linear layer", where=type(model).__name__)
    for name, stepped in found.items():
        replace_weight(model, name, stepped)
    return found


METHODS.register("entropy", Entropy(), __name__, title="trained to be coded: bits are paid for", works_on="network")
