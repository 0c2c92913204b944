"""Several labels a picture, or none: each class is a question of its own, answered by a sigmoid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.core.errors import InputError
from danlu.models.base import VisionModel
from danlu.tasks import TASKS
from danlu.tasks.classification import NO_LABEL, Batch, Classification, ExportModule
from danlu.tasks.losses import sigmoid_losses
from danlu.tasks.preprocess import Preprocess

__all__ = ["Multilabel"]


class Multilabel(Classification):
    """Any of K labels for each picture.

    A target ``label`` is int64 [B, K] of 0 and 1; a row of :data:`NO_LABEL` is a picture whose labels are not known.
    A picture is correct when all its classes are, at a threshold of one half: the exact match, or subset accuracy.

    Args: see :class:`Classification`; ``label_smoothing`` moves every target towards one half.
    """

    name = "multilabel"
    metrics = ("accuracy", "cross_entropy", "f1_micro", "f1_macro", "mean_average_precision")

    def collate(
        self, pictures: NDArray[np.uint8], labels: NDArray[np.int64] | Sequence[int], ids: Sequence[str]
    ) -> Batch:
        """Make a batch of uint8 pictures [B, H, W, C], labels [B, K] of 0 and 1, and B ids.

        Raises:
            InputError: another type or shape, lengths that differ, or a label that is neither 0 nor 1.
        """
        label = np.asarray(labels, dtype=np.int64)
        if label.shape != (len(ids), len(self.classes)):
            what = f"labels {list(label.shape)} of {len(ids)} pictures"
            raise InputError(what, where="collate", allowed=[f"[B, {len(self.classes)}]"])
        unknown = (label == NO_LABEL).all(axis=1)
        wrong = ~unknown[:, None] & (label != 0) & (label != 1)
        if wrong.any():
            at = int(np.argmax(wrong.any(axis=1)))
            raise InputError(f"labels {label[at].tolist()} of {ids[at]!r}", where="collate", allowed=[0, 1])
        batch = super().collate(pictures, np.where(unknown, NO_LABEL, 0), ids)
        batch.targets["label"] = torch.from_numpy(label)
        return batch

    def _losses(self, logits: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        label = targets["label"]
        if "share" not in targets:
            return self.loss_of(logits, label)
        # The loss is linear in the target, so that of the mixed one is the mixture of both. What is correct is told by
        # the labels with the larger share, of equal ones the picture's own.
        share, other = targets["share"].to(logits.dtype), targets["partner_label"]
        own, rest = self.loss_of(logits, label, share), self.loss_of(logits, other, 1.0 - share)
        figures = {name: own[name] + rest[name] for name in ("loss", "cross_entropy")}
        with torch.no_grad():
            correct = _right(logits, torch.where((share >= 0.5)[:, None], label, other)).sum()
        return {**figures, "correct": correct, "labelled": own["labelled"]}

    def loss_of(self, logits: Tensor, label: Tensor, share: Tensor | None = None) -> dict[str, Tensor]:
        """Return what :meth:`loss` returns, for float32 logits [B, K] and labels [B, K].

        ``share`` [B] weighs each picture's loss, and is not in what the sum is divided by.
        """
        there = (label != NO_LABEL).all(dim=1)
        labelled = there.sum()
        scale = 1.0 / labelled.clamp(min=1).to(logits.dtype)
        target = label.clamp(min=0).to(logits.dtype)
        weight = there.to(logits.dtype) if share is None else there * share
        loss = (sigmoid_losses(logits, target, self.loss_settings.focal, self.label_smoothing) * weight).sum()
        with torch.no_grad():
            plain = (sigmoid_losses(logits, target) * weight).sum()
            correct = (_right(logits, label) & there).sum()
        return {"loss": loss * scale, "cross_entropy": plain * scale, "correct": correct, "labelled": labelled}

    def decode(self, outputs: Tensor, batch: Batch | None = None) -> Tensor:
        """Return the probability of each class [B, K], float32, for logits [B, K]; they do not add up to 1."""
        del batch
        return outputs.float().sigmoid()

    def export_module(self, model: VisionModel, preprocess: Preprocess) -> tuple[ExportModule, tuple[str, ...]]:
        """Return what an artifact holds, its probabilities by a sigmoid, and the names of its outputs."""
        module = ExportModule(model, preprocess, decode=torch.sigmoid)
        return module, module.output_names


def _right(logits: Tensor, label: Tensor) -> Tensor:
    """Return bool [B]: whether every class is decided as its label says, at a probability of one half."""
    return ((logits > 0) == (label == 1)).all(dim=1)


TASKS.register(Multilabel.name, Multilabel, __name__, title="several labels a picture", best="accuracy")
