"""What is minimised for one label a picture: softmax or sigmoid, focal, classes weighted by how rare they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.core.errors import InputError
from danlu.tasks.loss_settings import LossSettings

__all__ = ["class_weights", "label_losses", "sigmoid_losses"]


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
        losses = _binary(logits, target, settings.focal)
    return losses if weights is None else losses * weights.to(losses)[label]


def sigmoid_losses(logits: Tensor, target: Tensor, focal: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """Return the loss of each picture [B]: the sum over classes of the binary cross-entropies.

    Args:
        logits: float [B, K].
        target: float [B, K] in [0, 1].
        focal: γ of Lin et al. 2017.
        smoothing: ε: targets are moved towards one half, to t (1 - ε) + ε / 2.
    """
    return _binary(logits, target * (1 - smoothing) + smoothing / 2, focal)


def _binary(logits: Tensor, target: Tensor, focal: float) -> Tensor:
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # [B, K]
    if focal:
        p = logits.sigmoid()
        # The probability given to what is true: p on the label, 1 - p elsewhere.
        missed = target * (1 - p) + (1 - target) * p
        # At 0 the slope of a power below 1 is infinite, and infinity times 0 is no number.
        each = missed.clamp(min=torch.finfo(missed.dtype).tiny) ** focal * each
    return each.sum(dim=1)
