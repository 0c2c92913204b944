"""A split's pictures, and what is made of them for one step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.augment.base import Draws
from danlu.core import seeds
from danlu.data.loader import Loader
from danlu.data.sample import Dataset
from danlu.tasks.classification import Batch
from danlu.tasks.mixing import with_partners
from danlu.train.step import split

if TYPE_CHECKING:
    from danlu.train.loop import Training

__all__ = ["Split", "epoch_parts", "make_batch"]


@dataclass(frozen=True)
class Split:
    """One split and its pictures in the size the network is fed."""

    dataset: Dataset
    loader: Loader

    def __len__(self) -> int:
        return len(self.dataset)

    def ids(self, indices: NDArray[np.int64]) -> list[str]:
        """Return the sample ids at ``indices``."""
        ids = self.dataset.ids
        return [ids[index] for index in indices.tolist()]

    def batches(self, parts: list[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Yield (indices [B], pictures uint8 [B, H, W, C]) for each part, decoding ahead where that is needed."""
        return self.loader.prefetch(parts)


def epoch_parts(training: Training) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return the order of the running epoch, and the samples that this rank loads in each step still to do.

    Those are the rank's part of the batch; all of it where pictures are mixed, each with any other.
    """
    state, size = training.state, training.samples_a_step
    order = seeds.permutation(len(training.train), "train/order", training.seed, state.epoch)
    steps = range(state.position, training.steps_per_epoch)
    whole = [order[k * size : (k + 1) * size] for k in steps]
    return order, whole if training.chain.mixes else [training.world.part(part) for part in whole]


def make_batch(training: Training, indices: NDArray[np.int64], pictures: NDArray[np.uint8], epoch: int) -> Batch:
    """Return the augmented batch of the samples at ``indices``, each ``repeats`` times, moved to the device.

    It is augmented on the processor, also where the network is elsewhere. What is mixed is mixed here, before a step
    may cut the batch into parts, and before ranks take theirs.
    """
    training.last_indices = indices
    repeat: int | NDArray[np.int64] = 0
    if (repeats := training.config.repeats) > 1:
        # All samples once, then all again: so the parts that a step may be done in hold different samples.
        repeat = np.repeat(np.arange(repeats, dtype=np.int64), len(indices))
        indices, pictures = np.tile(indices, repeats), np.tile(pictures, (repeats, 1, 1, 1))
    scene = training.chain.batch(torch.from_numpy(pictures), Draws(training.seed, epoch, indices, repeat))
    labels = training.train.dataset.labels[indices]
    batch = training.task.collate(scene.pictures.numpy(), labels, training.train.ids(indices))
    if scene.mix is not None:
        batch = with_partners(batch, scene.mix.partner, scene.mix.share)
        if training.world.size > 1:
            batch = split(batch, training.world.size)[training.world.rank]
    return batch.to(training.device)
