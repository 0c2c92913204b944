"""Peer (a): the widespread recipe. Per-sample PIL transforms, a DataLoader with workers, float32, torch.optim.SGD."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.common import Stepper, Task, network, normalisation, pictures

__all__ = ["Pictures", "Usual", "loader"]


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Pictures through torchvision's transforms, one by one, as PIL images."""

    def __init__(self, task: Task) -> None:
        from torchvision import transforms

        self.pictures, self.labels, data = pictures(task)
        self.classes, self.channels = len(data.classes), self.pictures.shape[3]
        size = self.pictures.shape[1]
        steps: list[Any] = [transforms.Pad(2)] if task.model == "lenet5" else []
        if task.augment:
            steps += [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
        if task.rotate:
            steps.append(transforms.RandomRotation(15))
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*normalisation(data))])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pictures[index].squeeze())), int(self.labels[index])


def loader(task: Task, workers: int) -> DataLoader[Any]:
    """Return the usual loader."""
    return DataLoader(
        Pictures(task),
        batch_size=task.batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )


class Usual(Stepper):
    """The usual loop; the number of workers is the faster of none and one a core."""

    def __init__(self, task: Task) -> None:
        self.task = task
        data = Pictures(task)
        self.model = network(task, data.classes, data.channels).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.loss = nn.CrossEntropyLoss()
        times = {}
        for workers in (0, torch.get_num_threads()):
            self._open(workers)
            self.steps(2)
            begin = time.perf_counter()
            self.steps(max(2, task.steps // 4))
            times[workers] = time.perf_counter() - begin
        self.workers = min(times, key=times.__getitem__)
        self._open(self.workers)
        self.said = f"float32, {self.workers} workers"

    def _open(self, workers: int) -> None:
        self.loader = loader(self.task, workers)
        self.batches = iter(self.loader)

    def steps(self, count: int) -> None:
        """Train ``count`` steps."""
        for _ in range(count):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            x, label = batch
            self.optimizer.zero_grad()
            loss = self.loss(self.model(x), label)
            loss.backward()
            self.optimizer.step()
            loss.item()
