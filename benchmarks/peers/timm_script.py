"""Peer (b): what timm's training script does a step, from timm's own parts: its loader, optimiser and autocast.

The script is no part of the package; this is its CPU path with ``--amp --amp-dtype bfloat16 --channels-last`` where the
processor has bfloat16 and the network is not LeNet-5, which is slower so. Random resized crops and flips by timm's
transforms, its prefetching loader with the faster number of workers, SGD with Nesterov momentum.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks.peers.common import Stepper, Task, network, normalisation, pictures

__all__ = ["Timm"]


class _Pictures(Dataset[tuple[Any, int]]):
    """PIL pictures; timm's loader sets the transform."""

    def __init__(self, task: Task) -> None:
        self.pictures, self.labels, self.data = pictures(task)
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pictures[index].squeeze())), int(self.labels[index])


class Timm(Stepper):
    """The script's loop over one batch after another."""

    def __init__(self, task: Task) -> None:
        from timm.optim import create_optimizer_v2

        from danlu.train.precision import choose_precision

        self.task = task
        self.data = _Pictures(task)
        channels = self.data.pictures.shape[3]
        self.half = task.model != "lenet5" and choose_precision("auto", torch.device("cpu"))[0] == "bf16"
        model = network(task, len(self.data.data.classes), channels).train()
        self.model = model.to(memory_format=torch.channels_last) if self.half else model
        self.optimizer = create_optimizer_v2(self.model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.loss = torch.nn.CrossEntropyLoss()
        times = {}
        for workers in (0, torch.get_num_threads()):
            self._open(workers)
            self.steps(2)
            begin = time.perf_counter()
            self.steps(max(2, task.steps // 4))
            times[workers] = time.perf_counter() - begin
        workers = min(times, key=times.__getitem__)
        self._open(workers)
        self.said = f"{'bf16, channels last' if self.half else 'float32'}, {workers} workers"

    def _open(self, workers: int) -> None:
        from timm.data import create_loader

        size, channels = self.data.pictures.shape[1], self.data.pictures.shape[3]
        side = 32 if self.task.model == "lenet5" else size
        mean, std = normalisation(self.data.data)
        self.loader = create_loader(
            self.data,
            input_size=(channels, side, side),
            batch_size=self.task.batch,
            is_training=True,
            no_aug=not self.task.augment,
            color_jitter=None,
            mean=tuple(mean),
            std=tuple(std),
            num_workers=workers,
            device=torch.device("cpu"),
            persistent_workers=workers > 0,
        )
        self.batches = iter(self.loader)

    def steps(self, count: int) -> None:
        """Train ``count`` steps."""
        for _ in range(count):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            x, label = batch
            if self.half:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16) if self.half else contextlib.nullcontext():
                loss = self.loss(self.model(x), label)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
