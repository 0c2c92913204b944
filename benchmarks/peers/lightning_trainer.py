"""Peer (c): Lightning's Trainer with the same network and loader, bf16-mixed where the processor has it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.peers.common import Task, network
from benchmarks.peers.usual import Pictures, loader

__all__ = ["Lightning"]


class Lightning:
    """``Trainer.fit``, which asks between rounds how many steps come next."""

    def __init__(self, task: Task) -> None:
        import lightning

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore")
        data = Pictures(task)
        self.left = 0
        self.ask: Callable[[], int] = lambda: 0
        outer = self

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = network(task, data.classes, data.channels)

            def training_step(self, batch: Any, index: int) -> torch.Tensor:
                x, label = batch
                loss = nn.functional.cross_entropy(self.model(x).float(), label)
                self.log("loss", loss)
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

            def on_train_batch_start(self, batch: Any, index: int) -> None:
                if outer.left == 0:
                    outer.left = outer.ask()
                outer.left -= 1

        precision = "bf16-mixed" if task.model != "lenet5" else "32-true"
        trainer = lightning.Trainer(
            max_epochs=-1,
            accelerator="cpu",
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        workers = torch.get_num_threads()
        self.fit = lambda: trainer.fit(Module(), loader(task, workers))
        self.said = f"{precision}, {workers} workers"

    def run(self, ask: Callable[[], int]) -> None:
        """Train as many steps as ``ask`` says, time and again; it ends by an exception of ``ask``."""
        self.ask = ask
        self.fit()
