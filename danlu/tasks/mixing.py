"""Targets of pictures that were mixed with one another (Mixup, CutMix), and their loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from danlu.tasks.classification import Batch

__all__ = ["mixed_losses", "with_partners"]


def with_partners(batch: Batch, partner: Tensor, share: Tensor) -> Batch:
    """Return ``batch`` with what its pictures were mixed with.

    Args:
        batch: with the target ``label``.
        partner: int64 [B], the place in the batch of each picture's partner.
        share: float32 [B], how much is left of the picture itself.

    Returns:
        the batch with the targets ``partner_label`` int64 [B] and ``share`` float32 [B], so that it can be cut into
        parts: a part needs nothing of the others.
    """
    label = batch.targets["label"]
    more = {"partner_label": label[partner.to(label.device)], "share": share.to(label.device)}
    return replace(batch, targets={**batch.targets, **more})


def mixed_losses(
    loss_of: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]], logits: Tensor, targets: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return share · loss(label) + (1 - share) · loss(partner's label), each a mean over the batch.

    As the softmax's cross-entropy is linear in the target, this is that of the mixed targets (Zhang et al. 2018).

    Args:
        loss_of: (logits [B, K], label [B], weight of each picture's loss [B]) -> figures.
        logits: float32 [B, K].
        targets: see :func:`with_partners`.

    Returns:
        the figures of ``loss_of``. ``correct`` counts the label with the larger share, of equal ones the picture's own:
        an accuracy in training that stays below what validation, which is never mixed, will show.
    """
    label, other, share = targets["label"], targets["partner_label"], targets["share"].to(logits.dtype)
    own, rest = loss_of(logits, label, share), loss_of(logits, other, 1.0 - share)
    figures = {name: own[name] + rest[name] for name in ("loss", "cross_entropy")}
    with torch.no_grad():
        # An unlabelled picture has a label below 0, which no argmax equals.
        correct = (logits.argmax(1) == torch.where(share >= 0.5, label, other)).sum() if len(label) else own["correct"]
    return {**figures, "correct": correct, "labelled": own["labelled"]}
