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
from danlu.core.errors import CheckFailed
from danlu.core.log import logger
from danlu.tasks.classification import Batch
from danlu.train.distributed import ALONE, World
from danlu.train.memory import Statistics, is_out_of_memory
from danlu.train.precision import autocast
from danlu.train.scale import at_scale, scale_of

if TYPE_CHECKING:
    from danlu.train.loop import Training
    from danlu.train.parallel import Learner

__all__ = ["add_gradients", "gradients", "merge", "split"]

# Figures that are sums over pictures; the others are means.
_COUNTS = ("correct", "labelled")


def add_gradients(
    loss: Callable[[Batch], dict[str, Tensor]],
    batch: Batch,
    parts: int,
    seed: int,
    step: int,
    scale: float = 1.0,
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
        scale: what the gradients are multiplied by.
        world: the ranks.
        learner: what averages the gradients of several ranks.
    """
    if parts == world.size == 1:
        _seed(seeds.derive_seed("train/step", seed, step))
        figures = loss(batch)
        (figures["loss"] if scale == 1.0 else figures["loss"] * scale).backward()  # type: ignore[no-untyped-call]
        return figures
    total: dict[str, Tensor] = {}
    pieces = split(batch, parts)
    counts = torch.stack([piece.labelled() for piece in pieces]).float()
    whole = counts.sum()
    # The ranks' gradients are averaged, so each weighs as many times more as there are ranks. At least one, where no
    # picture has a label: then all losses are zero.
    everywhere = (world.sum(whole) / world.size).clamp(min=1 / world.size)
    for number, (part, count) in enumerate(zip(pieces, counts, strict=True)):
        _seed(seeds.derive_seed("train/step", seed, step, *world.counters(number)))
        with contextlib.nullcontext() if learner is None else learner.part(number == len(pieces) - 1):
            figures = loss(part)
            (figures["loss"] * (scale * count / everywhere)).backward()
        total = figures if len(pieces) == 1 else merge(total, figures, count / whole.clamp(min=1))
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

    When memory runs out, begin again in twice as many parts and keep to them, from the state before the attempt.

    Raises:
        CheckFailed: memory ran out where several ranks train: the others wait in the middle of the step.
    """
    model, learner, world = training.model, training.learner, training.world
    seen = at_scale(model, training.config, training.seed, step)
    if training.statistics is None or training.statistics.network is not model.network:
        training.statistics = Statistics(model.network)
    if world.size == 1:
        training.statistics.keep()

    def loss(part: Batch) -> dict[str, Tensor]:
        with autocast(training.device, training.precision):
            return training.task.loss(seen, part, None) if learner is None else learner.loss(part, scale_of(seen))

    while True:
        parts = training.parts
        try:
            scale = 1.0 if training.scaler is None else training.scaler.scale
            return add_gradients(loss, batch, parts, training.seed, step, scale, world, learner)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or parts >= len(batch):
                raise
            if world.size > 1:
                raise CheckFailed(
                    f"memory ran out on rank {world.rank} in step {step}; the step is not done again in smaller parts, "
                    "because the other ranks wait in the middle of it\n  mend: train anew with --set "
                    f"accumulate={2 * parts}, which keeps the batch, or a smaller batch_size"
                ) from error
        training.optimizer.forget_gradients()
        training.statistics.put_back()
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


def merge(total: dict[str, Tensor], figures: dict[str, Tensor], share: Tensor) -> dict[str, Tensor]:
    """Return ``total`` with the figures of a further part, which has ``share`` of the labelled pictures."""
    weighted = {name: value.detach() * (1 if name in _COUNTS else share) for name, value in figures.items()}
    return {name: total[name] + value if name in total else value for name, value in weighted.items()}
