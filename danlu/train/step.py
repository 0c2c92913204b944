"""One step's gradients: the batch as a whole or in parts whose gradients add up to the same."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from danlu.core import seeds
from danlu.tasks.classification import Batch
from danlu.train.distributed import ALONE, World

if TYPE_CHECKING:
    from danlu.train.parallel import Learner

__all__ = ["add_gradients", "merge", "split"]

# Figures that are sums over pictures; the others are means.
_COUNTS = ("correct", "labelled")


def add_gradients(
    loss: Callable[[Batch], dict[str, Tensor]],
    batch: Batch,
    parts: int,
    seed: int,
    step: int,
    world: World = ALONE,
    learner: Learner | None = None,
) -> dict[str, Tensor]:
    """Back-propagate the mean loss of ``batch`` in ``parts`` parts; return the figures of the whole batch.

    With several ranks ``batch`` is one rank's part of the step's batch, and so are the figures; the gradients are those
    of the mean over the labelled pictures of all ranks.

    Args:
        loss: figures of a batch, ``loss`` among them, a mean over its pictures.
        batch: of one step.
        parts: how many; as equal as the number of pictures allows.
        seed: of the run.
        step: which one; what draws from torch's generators (dropout) depends on seed, step and part alone, so that no
            generator state has to be kept.
        world: the ranks.
        learner: what averages the gradients of several ranks.
    """
    total: dict[str, Tensor] = {}
    pieces = split(batch, parts)
    counts = torch.stack([piece.labelled() for piece in pieces]).float()
    whole = counts.sum()
    # The ranks' gradients are averaged, so each weighs as many times more as there are ranks.
    everywhere = world.sum(whole) / world.size
    for number, (part, count) in enumerate(zip(pieces, counts, strict=True)):
        torch.manual_seed(seeds.derive_seed("train/step", seed, step, *world.counters(number)))
        alone = len(pieces) == world.size == 1
        with contextlib.nullcontext() if learner is None else learner.part(number == len(pieces) - 1):
            figures = loss(part)
            # At least one, where no picture has a label: then all losses are zero.
            scaled = figures["loss"] if alone else figures["loss"] * (count / everywhere.clamp(min=1 / world.size))
            scaled.backward()
        total = figures if len(pieces) == 1 else merge(total, figures, count / whole.clamp(min=1))
    return total


def split(batch: Batch, parts: int) -> list[Batch]:
    """Return the batch in ``parts`` parts of about the same number of pictures, in their order."""
    if parts == 1:
        return [batch]
    bounds = [len(batch) * number // parts for number in range(parts + 1)]
    return [
        replace(
            batch,
            pictures=batch.pictures[begin:end],
            size=batch.size[begin:end],
            ids=batch.ids[begin:end],
            targets={key: value[begin:end] for key, value in batch.targets.items()},
        )
        for begin, end in itertools.pairwise(bounds)
        if end > begin
    ]


def merge(total: dict[str, Tensor], figures: dict[str, Tensor], share: Tensor) -> dict[str, Tensor]:
    """Return ``total`` with the figures of a further part, which has ``share`` of the labelled pictures."""
    weighted = {name: value.detach() * (1 if name in _COUNTS else share) for name, value in figures.items()}
    return {name: total[name] + value if name in total else value for name, value in weighted.items()}
