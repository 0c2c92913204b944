"""One step's gradients: the batch as a whole or in parts whose gradients add up to the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from danlu.core import seeds
from danlu.tasks.classification import Batch

__all__ = ["add_gradients", "merge", "split"]

# Figures that are sums over pictures; the others are means.
_COUNTS = ("correct", "labelled")


def add_gradients(
    loss: Callable[[Batch], dict[str, Tensor]], batch: Batch, parts: int, seed: int, step: int
) -> dict[str, Tensor]:
    """Back-propagate the mean loss of ``batch`` in ``parts`` parts; return the figures of the whole batch.

    Args:
        loss: figures of a batch, ``loss`` among them, a mean over its pictures.
        batch: of one step.
        parts: how many; as equal as the number of pictures allows.
        seed: of the run.
        step: which one; what draws from torch's generators (dropout) depends on seed, step and part alone, so that no
            generator state has to be kept.
    """
    total: dict[str, Tensor] = {}
    for number, part in enumerate(split(batch, parts)):
        torch.manual_seed(seeds.derive_seed("train/step", seed, step, *([number] if number else [])))
        figures = loss(part)
        share = len(part) / len(batch)
        scaled = figures["loss"] if parts == 1 else figures["loss"] * share
        scaled.backward()  # type: ignore[no-untyped-call]
        total = figures if parts == 1 else merge(total, figures, share)
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


def merge(total: dict[str, Tensor], figures: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return ``total`` with the figures of a further part, which is ``share`` of the pictures."""
    weighted = {name: value.detach() * (1 if name in _COUNTS else share) for name, value in figures.items()}
    return {name: total[name] + value if name in total else value for name, value in weighted.items()}
