"""One step's gradients: the batch as a whole or in parts whose gradients add up to the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from danlu.core import seeds
from danlu.core.log import logger
from danlu.tasks.classification import Batch
from danlu.train.memory import is_out_of_memory
from danlu.train.precision import autocast
from danlu.train.scale import at_scale

if TYPE_CHECKING:
    from danlu.train.loop import Training

__all__ = ["add_gradients", "gradients", "merge", "split"]

# Figures that are sums over pictures; the others are means.
_COUNTS = ("correct", "labelled")


def add_gradients(
    loss: Callable[[Batch], dict[str, Tensor]], batch: Batch, parts: int, seed: int, step: int, scale: float = 1.0
) -> dict[str, Tensor]:
    """Back-propagate the mean loss of ``batch`` in ``parts`` parts; return the figures of the whole batch.

    Args:
        loss: figures of a batch, ``loss`` among them, a mean over its pictures.
        batch: of one step.
        parts: how many; as equal as the number of pictures allows.
        seed: of the run.
        step: which one; what draws from torch's generators (dropout) depends on seed, step and part alone, so that no
            generator state has to be kept.
        scale: what the gradients are multiplied by.
    """
    total: dict[str, Tensor] = {}
    for number, part in enumerate(split(batch, parts)):
        _seed(seeds.derive_seed("train/step", seed, step, *([number] if number else [])))
        figures = loss(part)
        share = len(part) / len(batch)
        factor = scale if parts == 1 else scale * share
        scaled = figures["loss"] if factor == 1.0 else figures["loss"] * factor
        scaled.backward()  # type: ignore[no-untyped-call]
        total = figures if parts == 1 else merge(total, figures, share)
    return total


def _seed(seed: int) -> None:
    """Seed torch's generators as ``torch.manual_seed`` does.

    That one notes a stack trace and a call to come for each kind of device that has not been used yet, every time:
    a millisecond a step, and memory that is never given back.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def gradients(training: Training, batch: Batch, step: int) -> dict[str, Tensor]:
    """Back-propagate a batch of ``training``; return its figures, not yet waited for.

    When memory runs out, begin again in twice as many parts and keep to them.
    """

    model = at_scale(training.model, training.config, training.seed, step)

    def loss(part: Batch) -> dict[str, Tensor]:
        with autocast(training.device, training.precision):
            return training.task.loss(model, part, None)

    while True:
        parts = training.parts
        try:
            scale = 1.0 if training.scaler is None else training.scaler.scale
            return add_gradients(loss, batch, parts, training.seed, step, scale)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or parts >= len(batch):
                raise
        training.optimizer.forget_gradients()
        if training.device.type == "cuda":
            torch.cuda.empty_cache()
        training.state.parts = min(2 * parts, len(batch))
        logger.warning("out of memory: a batch of %d is computed in %d parts from now on", len(batch), training.parts)
        if training.state.config:  # begun, not only tried
            training.log(
                kind="event", what="out of memory", epoch=training.state.epoch, step=step, parts=training.parts
            )


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
