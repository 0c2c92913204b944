"""What all ways of training are given: the same pictures, network, batch and optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TASKS", "Stepper", "Task", "network", "normalisation", "pictures", "stacked"]


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        data: catalogue name.
        model: registered network; peers train the very same class.
        batch: pictures a step.
        steps: of one timed round.
        augment: whether pictures are cropped and flipped.
        rotate: whether peer (a) rotates too, as its recipe does.
        most: pictures that are loaded at most; None: all.
        fp32: train in float32, as on a processor without bf16 units; compared to the usual script alone.
    """

    data: str
    model: str
    batch: int
    steps: int
    augment: bool = True
    rotate: bool = False
    most: int | None = 20_000
    fp32: bool = False


class Stepper(ABC):
    """A way of training that does steps when it is called."""

    @abstractmethod
    def steps(self, count: int) -> None:
        """Train ``count`` steps."""

    def run(self, ask: Callable[[], int]) -> None:
        """Train as many steps as ``ask`` says, time and again; it ends by an exception of ``ask``."""
        while True:
            self.steps(ask())


TASKS = {
    "resnet18": Task("cifar10", "resnet18_cifar", 128, 4, rotate=True),
    "resnet20": Task("cifar10", "resnet20", 128, 20),
    "lenet5": Task("fashion-mnist", "lenet5", 128, 150, augment=False),
}
TASKS |= {f"{name}_fp32": replace(task, fp32=True) for name, task in TASKS.items()}


def pictures(task: Task) -> tuple[NDArray[np.uint8], NDArray[np.int64], Any]:
    """Return the training pictures uint8 [N, H, W, C], their labels [N], and the data set."""
    from danlu.data.load import load_data

    data = load_data(task.data)
    found, labels = stacked(data.train, task.most)
    return found, labels, data


def stacked(split: Any, most: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the first ``most`` pictures of a split, uint8 [N, H, W, C], and their labels [N]."""
    count = len(split) if most is None else min(len(split), most)
    return np.stack([np.asarray(split[index].picture) for index in range(count)]), np.asarray(split.labels[:count])


def network(task: Task, classes: int, channels: int) -> Any:
    """Return the network, freshly initialised."""
    from danlu.models import create_model

    return create_model(task.model, num_classes=classes, in_channels=channels)


def normalisation(data: Any) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation by channel."""
    return list(data.mean), list(data.std)
