"""What is minimised for one label a picture: softmax or sigmoid, focal, classes weighted by how rare they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from danlu.core.errors import InputError
from danlu.core.settings import Settings

__all__ = ["LossSettings", "class_weights", "label_losses"]


class LossSettings(Settings):
    """How far logits are from labels.

    Attributes:
        kind: ``softmax``: cross-entropy over classes that exclude one another; ``sigmoid``: the sum over classes of the
            binary cross-entropy of "it is this class" (Beyer et al. 2020, Wightman et al. 2021).
        focal: γ of Lin et al. 2017: a term of probability p for what is true counts (1 - p)^γ times; 0: not at all.
        class_weights: each picture's loss times its class's weight. ``inverse``: pictures / (classes · pictures of the
            class); ``effective``: (1 - β) / (1 - βⁿ) for n pictures of the class, scaled to a mean of 1 over classes
            (Cui et al. 2019); or K numbers in the order of the classes.
        beta: β of ``effective``.
    """

    kind: Literal["softmax", "sigmoid"] = "softmax"
    focal: float = Field(default=0.0, ge=0.0, le=20.0)
    class_weights: Literal["none", "inverse", "effective"] | tuple[float, ...] = "none"
    beta: float = Field(default=0.999, ge=0.0, lt=1.0)

    @field_validator("class_weights")
    @classmethod
    def _weights(cls, value: str | tuple[float, ...]) -> str | tuple[float, ...]:
        if not isinstance(value, str) and (min(value, default=0.0) < 0.0 or sum(value) <= 0.0):
            raise ValueError("weights must not be negative, and not all 0")
        return value


def class_weights(settings: LossSettings, labels: Sequence[int] | Tensor, classes: int) -> Tensor | None:
    """Return the weight of each class, float32 [K], or None where all weigh the same.

    Args:
        settings: how they are weighted.
        labels: of the training split; those below 0 are no class. A class without pictures weighs what one with a
            single picture does: nothing is ever multiplied by it.
        classes: K.

    Raises:
        InputError: given weights that are not K.
    """
    how = settings.class_weights
    if how == "none":
        return None
    if not isinstance(how, str):
        if len(how) != classes:
            raise InputError(f"{len(how)} weights for {classes} classes", where="loss.class_weights")
        return torch.tensor(how, dtype=torch.float32)
    known = torch.as_tensor(labels)
    counts = torch.bincount(known[known >= 0], minlength=classes).double().clamp(min=1)
    if how == "inverse":
        return (counts.sum() / (classes * counts)).float()
    weights = (1 - settings.beta) / (1 - settings.beta**counts)
    return (weights * classes / weights.sum()).float()


def label_losses(
    logits: Tensor, label: Tensor, settings: LossSettings, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Return the loss of each picture [B].

    Args:
        logits: float [B, K].
        label: int64 [B], each a class.
        settings: kind and γ.
        smoothing: ε of Szegedy et al. 2015: the target is 1 - ε on the label plus ε / K everywhere.
        weights: [K], of the classes.
    """
    classes = logits.shape[1]
    target = F.one_hot(label, classes).to(logits.dtype) * (1 - smoothing) + smoothing / classes
    if settings.kind == "softmax":
        log_p = logits.log_softmax(dim=1)
        losses = -(target * log_p).sum(dim=1)
        if settings.focal:
            p = log_p.gather(1, label[:, None]).squeeze(1).exp()
            losses = (1 - p).clamp(min=0) ** settings.focal * losses
    else:
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # [B, K]
        if settings.focal:
            p = logits.sigmoid()
            # The probability given to what is true: p on the label, 1 - p elsewhere.
            each = (target * (1 - p) + (1 - target) * p) ** settings.focal * each
        losses = each.sum(dim=1)
    return losses if weights is None else losses * weights.to(losses)[label]
