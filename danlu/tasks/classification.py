"""One label a picture: cross-entropy with label smoothing, or another loss of ``losses.py``; accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.core.errors import InputError
from danlu.models.base import VisionModel
from danlu.tasks import TASKS
from danlu.tasks.loss_settings import LossSettings
from danlu.tasks.losses import label_losses
from danlu.tasks.mixing import mixed_losses
from danlu.tasks.preprocess import Preprocess

__all__ = ["NO_LABEL", "Batch", "Classification", "ExportModule", "Phase"]

# The label of a picture that has no target: it counts neither in the loss nor in the accuracy.
NO_LABEL = -100


@dataclass(frozen=True)
class Batch:
    """Pictures and what is known about them.

    Attributes:
        pictures: uint8 [B, H, W, C].
        size: int64 [B, 2], the (height, width) of each picture before padding.
        ids: B sample ids.
        targets: ``{"label": int64 [B]}``, of several labels a picture int64 [B, K] of 0 and 1, and what
            :func:`danlu.tasks.mixing.with_partners` adds.
    """

    pictures: Tensor
    size: Tensor
    ids: list[str]
    targets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def labelled(self) -> Tensor:
        """Return how many of the pictures have a label: an int64 on the device of the labels."""
        known = self.targets["label"] != NO_LABEL
        return (known if known.dim() == 1 else known.all(dim=1)).sum()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on ``device``."""
        if self.pictures.device == torch.device(device):
            return self
        return replace(
            self,
            pictures=self.pictures.to(device, non_blocking=non_blocking),
            size=self.size.to(device, non_blocking=non_blocking),
            targets={key: value.to(device, non_blocking=non_blocking) for key, value in self.targets.items()},
        )


@dataclass(frozen=True)
class Phase:
    """Parameters that one optimiser moves, every ``every``-th step."""

    name: str
    parameters: list[nn.Parameter]
    optimizer: str = "default"
    every: int = 1


class Classification:
    """One label out of K for each picture.

    Args:
        classes: the K class names, in the order of the logits.
        label_smoothing: ε of Szegedy et al. 2015: the target is 1 - ε on the label plus ε / K everywhere.
        loss: what is minimised; the plain cross-entropy by default.
        weights: float32 [K] of the classes, see :func:`danlu.tasks.losses.class_weights`.
    """

    name = "classification"
    metrics: tuple[str, ...] = ("accuracy", "cross_entropy")
    best = ("accuracy", "max")

    def __init__(
        self,
        classes: Sequence[str],
        label_smoothing: float = 0.0,
        loss: LossSettings | None = None,
        weights: Tensor | None = None,
    ) -> None:
        if not classes:
            raise InputError("a classification needs at least one class", where="classes")
        if not 0.0 <= label_smoothing < 1.0:
            raise InputError(f"label_smoothing = {label_smoothing}", where="classification", allowed=["0 <= ε < 1"])
        self.classes = tuple(classes)
        self.label_smoothing = label_smoothing
        self.loss_settings = loss or LossSettings()
        self.weights = weights

    def collate(
        self, pictures: NDArray[np.uint8], labels: NDArray[np.int64] | Sequence[int], ids: Sequence[str]
    ) -> Batch:
        """Make a batch of uint8 pictures [B, H, W, C], B labels and B ids; the pictures are not copied.

        Raises:
            InputError: another type or shape, lengths that differ, or a label that is no class.
        """
        if pictures.dtype != np.uint8 or pictures.ndim != 4:
            what = f"pictures of {pictures.dtype} {list(pictures.shape)}"
            raise InputError(what, where="collate", allowed=["uint8 [B, H, W, C]"])
        label = np.asarray(labels, dtype=np.int64)
        count, height, width = pictures.shape[:3]
        if label.shape != (count,) or len(ids) != count:
            raise InputError(f"{count} pictures, {label.size} labels, {len(ids)} ids", where="collate")
        wrong = (label != NO_LABEL) & ((label < 0) | (label >= len(self.classes)))
        if wrong.any():
            at = int(np.argmax(wrong))
            what = f"label {label[at]} of {ids[at]!r} is no class"
            raise InputError(what, where="collate", allowed=[f"0 … {len(self.classes) - 1}"])
        if not pictures.flags.writeable or any(stride < 0 for stride in pictures.strides):
            pictures = pictures.copy()  # torch warns of read-only memory and cannot hold negative strides
        size = torch.tensor([height, width], dtype=torch.int64).expand(count, 2)
        return Batch(torch.from_numpy(pictures), size, list(ids), {"label": torch.from_numpy(label)})

    def loss(self, model: nn.Module, batch: Batch, draw: object = None) -> dict[str, Tensor]:
        """Return what is minimised, and what is worth showing.

        Args:
            model: takes ``batch.pictures`` as they are and returns logits [B, K], or in train mode ``{"logits": …}``
                with side outputs [B, K]; for uint8 pictures this is a :class:`danlu.tasks.preprocess.PictureModel`.
            batch: pictures whose label is :data:`NO_LABEL` count for nothing.
            draw: randomness of this step; this task needs none.

        Returns:
            ``loss``: the mean loss over labelled pictures, 0 where there are none, plus that of each side output times
            the network's ``auxiliary_weight``; differentiated. Class weights do not change what it is divided by, so
            that parts of a batch add up to the whole.
            ``cross_entropy``: of the softmax, without smoothing and weights; ``correct`` and ``labelled``: counts.
            These are detached.
        """
        del draw
        outputs = model(batch.pictures)
        sides = dict(outputs) if isinstance(outputs, Mapping) else {"logits": outputs}
        # Half precision has too few digits for a sum over classes.
        losses = self._losses(sides.pop("logits").float(), batch.targets)
        for side in sides.values():
            more = self._losses(side.float(), batch.targets)["loss"]
            losses["loss"] = losses["loss"] + _auxiliary_weight(model) * more
        return losses

    def _losses(self, logits: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "share" in targets:
            return mixed_losses(self.loss_of, logits, targets)
        return self.loss_of(logits, targets["label"])

    def loss_of(self, logits: Tensor, label: Tensor, share: Tensor | None = None) -> dict[str, Tensor]:
        """Return what :meth:`loss` returns, for float32 logits [B, K] and labels [B].

        ``share`` [B] weighs each picture's loss, and is not in what the sum is divided by.
        """
        labelled = (label != NO_LABEL).sum()
        scale = 1.0 / labelled.clamp(min=1).to(logits.dtype)
        is_plain = self.loss_settings == LossSettings() and self.weights is None
        if is_plain:
            loss = _cross_entropy(logits, label, share, self.label_smoothing)
        else:
            there = label != NO_LABEL
            losses = label_losses(logits, label.where(there, 0), self.loss_settings, self.label_smoothing, self.weights)
            loss = (losses * there if share is None else losses * there * share).sum()
        with torch.no_grad():
            plain = loss.detach()
            if self.label_smoothing or not is_plain:
                plain = _cross_entropy(logits, label, share)
            # NO_LABEL equals no class, so an unlabelled picture is never counted as right.
            correct = (logits.argmax(1) == label).sum() if len(label) else labelled
        return {"loss": loss * scale, "cross_entropy": plain * scale, "correct": correct, "labelled": labelled}

    def phases(self, model: nn.Module) -> list[Phase]:
        """Return the one phase: all parameters that require a gradient."""
        return [Phase("model", [p for p in model.parameters() if p.requires_grad])]

    def decode(self, outputs: Tensor, batch: Batch | None = None) -> Tensor:
        """Return probabilities [B, K], float32, for logits [B, K]."""
        del batch
        return outputs.float().softmax(dim=1)

    def export_module(self, model: VisionModel, preprocess: Preprocess) -> tuple[ExportModule, tuple[str, ...]]:
        """Return what an artifact holds, and the names of its outputs (see :class:`ExportModule`)."""
        module = ExportModule(model, preprocess)
        return module, module.output_names

    def to_record(self) -> dict[str, Any]:
        """Return the task as plain values."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "label_smoothing": self.label_smoothing,
            "loss": self.loss_settings.model_dump(mode="json"),
        }


def _cross_entropy(logits: Tensor, label: Tensor, share: Tensor | None, smoothing: float = 0.0) -> Tensor:
    """Return the sum over labelled pictures, each times its share where shares are given."""
    if share is None:
        return F.cross_entropy(logits, label, ignore_index=NO_LABEL, reduction="sum", label_smoothing=smoothing)
    losses = F.cross_entropy(logits, label, ignore_index=NO_LABEL, reduction="none", label_smoothing=smoothing)
    return (losses * share).sum()


def _auxiliary_weight(model: nn.Module) -> float:
    return next(module.auxiliary_weight for module in model.modules() if isinstance(module, VisionModel))


class ExportModule(nn.Module):
    """uint8 pictures [B, h, w, C] -> (logits [B, K], probabilities [B, K], the output of each stage in order).

    The stages let a parity check name the first one that differs.

    Attributes:
        output_names: ``logits``, ``probabilities``, then ``stage.<name>`` for each stage.
    """

    def __init__(
        self, model: VisionModel, preprocess: Preprocess, decode: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.preprocess, self.model, self.decode = preprocess, model, decode
        self.output_names = ("logits", "probabilities", *(f"stage.{stage.name}" for stage in model.stages))
        self.eval()

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs in the order of ``output_names``."""
        features: Mapping[str, Tensor] = self.model.features(self.preprocess(pictures))
        logits = self.model.head(features[self.model.stages[-1].name])
        probabilities = logits.softmax(dim=1) if self.decode is None else self.decode(logits)
        return logits, probabilities, *(features[stage.name] for stage in self.model.stages)


TASKS.register(Classification.name, Classification, __name__, title="one label a picture", best="accuracy")
