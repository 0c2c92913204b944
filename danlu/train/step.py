"""One step's gradients: the batch as a whole or in parts whose gradients add up to the same; validation likewise."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from danlu.core import seeds
from danlu.core.errors import CheckFailed, InputError
from danlu.core.log import logger
from danlu.models.base import VisionModel
from danlu.tasks.classification import Batch
from danlu.train.distributed import ALONE, World
from danlu.train.fusion import use_fused
from danlu.train.memory import Statistics, is_out_of_memory
from danlu.train.precision import autocast
from danlu.train.scale import at_scale, scale_of

if TYPE_CHECKING:
    from danlu.train.loop import Training
    from danlu.train.parallel import Learner

__all__ = ["add_gradients", "check_parts", "gradients", "judge", "merge", "split", "takes_one"]

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
            if not is_out_of_memory(error) or (more := _more_parts(training, len(batch))) <= parts:
                raise
            if world.size > 1:
                raise CheckFailed(
                    f"memory ran out on rank {world.rank} in step {step}; the step is not done again in smaller parts, "
                    "because the other ranks wait in the middle of it\n  mend: train anew with --set "
                    f"accumulate={more}, which keeps the batch, or a smaller batch_size"
                ) from error
        training.optimizer.forget_gradients()
        training.statistics.put_back()
        if training.device.type == "cuda":
            torch.cuda.empty_cache()
        training.state.parts = more
        logger.warning("out of memory: a batch of %d is computed in %d parts from now on", len(batch), training.parts)
        if training.state.config:  # begun, not only tried
            training.log(
                kind="event", what="out of memory", epoch=training.state.epoch, step=step, parts=training.parts
            )


def _more_parts(training: Training, pictures: int) -> int:
    """Return the number of parts to try next with so many pictures; the present one, where there can be no more."""
    more = min(2 * training.parts, pictures)
    # Of several ranks none tries again, and what they wrapped cannot be tried by itself.
    if training.world.size == 1 and more > pictures // 2 and not takes_one(training):
        return max(training.parts, pictures // 2)
    return more


def takes_one(training: Training) -> bool:
    """Return whether the network of ``training``, not yet distributed, can learn from a part of one picture.

    A batch norm that is left with one value a channel refuses. It is tried on a copy without data: memory may be short.
    """
    network, config = training.model.network, training.config
    memo: dict[int, object] = {id(one): nn.Parameter(one.detach().to("meta")) for one in network.parameters()}
    seen = copy.deepcopy(network, memo | {id(one): one.to("meta") for one in network.buffers()}).train()
    use_fused(seen, ())
    if training.transfer is not None:
        assert isinstance(seen, VisionModel)
        transfer = training.transfer.of(seen)
        # As in the epoch that freezes the least: what is frozen keeps its statistics and takes any part.
        transfer.begin(min(range(config.epochs), key=lambda epoch: len(transfer.frozen_stages(epoch))))
    settings, least = training.model.preprocess.settings, min(config.multi_scale, default=None)
    size = settings.input_size if least is None else (least, least)
    try:
        with torch.no_grad():
            seen(torch.zeros(1, settings.channels, *size, device="meta"))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return False
    return True


def check_parts(training: Training) -> None:
    """Refuse parts of a step that have one picture, where a batch norm of the network would see a single value.

    Raises:
        InputError: the smallest part of a step is such a one.
    """
    config, ranks = training.config, training.world.size
    each = config.batch_size // ranks  # a training has whole batches only
    parts = 1 if config.accumulate == "auto" else config.accumulate
    if each // parts > 1 or (config.sync_batch_norm and ranks > 1) or takes_one(training):
        return
    among = f" among {ranks} ranks" if ranks > 1 else ""
    what = f"batch_size = {config.batch_size}{among} in {parts} part{'s' * (parts > 1)} leaves one picture in a part"
    fewer = f", or accumulate={each // 2}" if each > 1 else ""
    raise InputError(
        f"{what}, of which a batch norm of this network would see one value a channel",
        where="settings",
        mend=f"give --set batch_size={2 * parts * ranks} or more{fewer}",
    )


def judge(training: Training, batch: Batch) -> dict[str, Tensor]:
    """Return the figures of a batch of the validation split, on the device; nothing is back-propagated.

    When memory runs out, begin again with half as many pictures at once, and keep to that for the rest of the run.

    Raises:
        CheckFailed: memory ran out where the ranks share one network: the others wait in the middle of it.
    """
    learner = training.learner
    loss = learner.judge if learner is not None else lambda part: training.task.loss(training.model, part, None)
    while True:
        size = min(training.validation_batch, len(batch))
        try:
            pieces = split(batch, -(-len(batch) // size))
            counts = torch.stack([piece.labelled() for piece in pieces]).float() if len(pieces) > 1 else None
            total: dict[str, Tensor] = {}
            for number, piece in enumerate(pieces):
                with autocast(training.device, training.precision):
                    figures = loss(piece)
                total = figures if counts is None else merge(total, figures, counts[number] / counts.sum().clamp(min=1))
            return total
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            if learner is not None and learner.kind == "fsdp":
                raise CheckFailed(
                    f"memory ran out on rank {training.world.rank} in the validation; it is not done again in smaller "
                    "batches, because the other ranks wait in the middle of it"
                ) from error
        if training.device.type == "cuda":
            torch.cuda.empty_cache()
        training.validation_batch = -(-size // 2)
        said = f"the validation takes {training.validation_batch} pictures at once from now on"
        logger.warning("out of memory: %s", said)
        training.log(
            kind="event", what="out of memory", epoch=training.state.epoch, step=training.state.step, reason=said
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
