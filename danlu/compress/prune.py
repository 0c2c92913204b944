"""Magnitude pruning with retraining: small weights are taken away, the others learn again, and so on.

Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", 2015: train, remove the
connections of least weight, train what is left, repeat. The removed weights stay zero (a mask is held after every
step). How much each layer loses is given by one threshold for all (``global``), or by each layer's sensitivity
(``sensitivity``): the layer alone is pruned further and further until validation accuracy falls by ``drop``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from danlu.compress import METHODS
from danlu.compress.base import Compressed, Method, Subject, check_layers, weighted_layers
from danlu.compress.retrain import Hooks, retrain, validate
from danlu.core.log import logger
from danlu.core.settings import Settings
from danlu.train.optimizer_settings import AdamSettings, OptimizerSettings
from danlu.train.schedule import CosineSettings
from danlu.train.settings import TrainConfig

__all__ = ["Prune", "PruneSettings", "apply_masks", "hold", "magnitude_masks", "retraining", "sensitivities"]

# Shares kept at which a layer's sensitivity is looked for, the gentlest first.
_LEVELS = (0.8, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)


class PruneSettings(Settings):
    """How a network is pruned.

    Attributes:
        keep: share of all weights of convolutions and linear layers that is kept in the end.
        by: ``global``: one threshold for all layers, on |weight| divided by the layer's standard deviation; ``layer``:
            the same share in each; ``sensitivity``: shares in the proportion of what each layer stands alone.
        drop: the accuracy on validation a layer alone may lose, in points, for ``sensitivity``.
        layers: share kept by name of the weight, in place of what ``by`` gives.
        rounds: how often some are removed and the rest trained; the shares fall geometrically.
        epochs: of retraining in each round.
        optimizer: of retraining.
    """

    keep: float = Field(default=0.1, gt=0.0, le=1.0)
    by: Literal["global", "layer", "sensitivity"] = "global"
    drop: float = Field(default=1.0, gt=0.0)
    layers: dict[str, float] = Field(default_factory=dict)
    rounds: int = Field(default=4, ge=1, le=1000)
    epochs: int = Field(default=2, ge=0, le=10_000)
    optimizer: OptimizerSettings = AdamSettings(lr=1e-3)

    @model_validator(mode="after")
    def _agree(self) -> PruneSettings:
        wrong = {name: share for name, share in self.layers.items() if not 0 < share <= 1}
        if wrong:
            raise ValueError(f"layers = {wrong}: each share is above 0 and at most 1")
        return self


class Prune(Method[PruneSettings]):
    """Magnitude pruning, iterated with retraining."""

    Settings = PruneSettings

    def apply(self, subject: Subject, settings: PruneSettings) -> Compressed:
        """Return the pruned network; ``report["layers"]`` says what each layer kept."""
        model, weights = subject.model, weighted_layers(subject.model)
        check_layers(settings.layers, weights, "prune")
        found = sensitivities(subject, settings.drop) if settings.by == "sensitivity" else {}
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        rounds: list[dict[str, Any]] = []
        for number in range(1, settings.rounds + 1):
            share = settings.keep ** (number / settings.rounds)
            wanted = {name: kept ** (number / settings.rounds) for name, kept in settings.layers.items()}
            masks = magnitude_masks(weights, share, settings.by, wanted, found)
            apply_masks(weights, masks)
            if settings.epochs:
                config = retraining(subject, settings.epochs, settings.optimizer)
                hooks = Hooks(after_step=hold(weights, masks))
                retrain(subject, model, config, title=f"prune, round {number} of {settings.rounds}", hooks=hooks)
            kept = sum(int(mask.sum()) for mask in masks.values())
            accuracy = validate(subject, model)["accuracy"]
            rounds.append({"kept": kept, "accuracy": accuracy})
            logger.info("prune: round %d keeps %d weights, validation accuracy %.4f", number, kept, accuracy)
        report = {"rounds": rounds, "sensitivities": found, "layers": _kept(masks)}
        return Compressed(model, subject.edits, report)


def retraining(subject: Subject, epochs: int, optimizer: OptimizerSettings) -> TrainConfig:
    """Return the settings of a retraining: the run's own augmentation and batches, a cosine without warm-up."""
    batch = min(subject.settings.batch_size, len(subject.train))
    update = {"epochs": epochs, "optimizer": optimizer, "schedule": CosineSettings(warmup=0.0), "batch_size": batch}
    return subject.settings.model_copy(update=update)


def magnitude_masks(
    weights: dict[str, Tensor],
    share: float,
    by: str = "global",
    wanted: dict[str, float] | None = None,
    sensitivity: dict[str, float] | None = None,
) -> dict[str, Tensor]:
    """Return what is kept: bool tensors, true where |weight| is among the largest.

    Args:
        weights: name -> weight.
        share: of all weights, kept.
        by: ``global``, ``layer`` or ``sensitivity``, see :class:`PruneSettings`.
        wanted: shares of single layers, in place of the rule's.
        sensitivity: share each layer can be brought to alone; for ``sensitivity``.
    """
    wanted, sensitivity = dict(wanted or {}), sensitivity or {}
    free = {name: weight.detach() for name, weight in weights.items() if name not in wanted}
    if by == "global" and free:
        scores = {name: weight.abs() / weight.std().clamp(min=1e-12) for name, weight in free.items()}
        kept = _most(torch.cat([score.flatten() for score in scores.values()]), share)
        parts = dict(zip(scores, torch.split(kept, [score.numel() for score in scores.values()]), strict=True))
        return {
            name: _at_least_one(parts[name].view_as(w), w) if name in free else _largest(w, wanted[name])
            for name, w in weights.items()
        }
    if by == "sensitivity" and free:
        wanted |= _balanced({name: (sensitivity[name], weight.numel()) for name, weight in free.items()}, share)
    return {name: _largest(weight, wanted.get(name, share)) for name, weight in weights.items()}


def _balanced(layers: dict[str, tuple[float, int]], share: float) -> dict[str, float]:
    """Return shares in the proportion of the sensitivities, none above 1, that keep ``share`` of all weights."""
    total, low, high = sum(count for _, count in layers.values()), 0.0, 1e6
    for _ in range(100):
        factor = (low + high) / 2
        kept = sum(min(1.0, factor * alone) * count for alone, count in layers.values())
        low, high = (factor, high) if kept < share * total else (low, factor)
    return {name: min(1.0, high * alone) for name, (alone, _) in layers.items()}


def _largest(weight: Tensor, share: float) -> Tensor:
    return _at_least_one(_most(weight.detach().abs().flatten(), share).view_as(weight), weight)


def _at_least_one(mask: Tensor, weight: Tensor) -> Tensor:
    """Keep the largest weight of a layer that would lose all: a layer of zeros cuts the network in two."""
    if not mask.any():
        mask.view(-1)[weight.detach().abs().argmax()] = True
    return mask


def _most(scores: Tensor, share: float) -> Tensor:
    """Return which of ``scores`` [N] are the largest ``share``; of equal ones the first, and none that are zero."""
    kept = max(1, round(share * scores.numel()))
    limit = scores.kthvalue(scores.numel() - kept + 1).values
    mask, equal = scores > limit, scores == limit
    mask |= equal & (equal.cumsum(0) <= kept - mask.sum())
    return mask & (scores > 0)


@torch.no_grad()
def apply_masks(weights: dict[str, Tensor], masks: dict[str, Tensor]) -> None:
    """Set to zero what the masks do not keep."""
    for name, weight in weights.items():
        weight.mul_(masks[name])
        # -0.0 is another bit pattern than 0.0.
        weight.add_(0.0)


def hold(weights: dict[str, Tensor], masks: dict[str, Tensor]) -> Any:
    """Return an ``after_step`` hook that keeps removed weights at zero, whatever the optimiser did."""

    def after_step(step: int, total: int) -> None:
        del step, total
        apply_masks(weights, masks)

    return after_step


def sensitivities(subject: Subject, drop: float) -> dict[str, float]:
    """Return the least share of each layer's weights at which it alone costs at most ``drop`` points on validation."""
    model, weights = subject.model, weighted_layers(subject.model)
    least = validate(subject, model)["accuracy"] - drop / 100
    found = {}
    for name, weight in weights.items():
        before, found[name] = weight.detach().clone(), 1.0
        for share in _LEVELS:
            with torch.no_grad():
                weight.copy_(before * _largest(before, share))
            if validate(subject, model)["accuracy"] < least:
                break
            found[name] = share
        with torch.no_grad():
            weight.copy_(before)
        logger.info("prune: %s alone may be brought to %.0f %%", name, 100 * found[name])
    return found


def _kept(masks: dict[str, Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "weights": mask.numel(), "kept": int(mask.sum()), "share": float(mask.float().mean())}
        for name, mask in masks.items()
    ]


METHODS.register(
    "prune", Prune(), __name__, title="small weights are removed, the others trained again", works_on="network"
)
