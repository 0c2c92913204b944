"""Our own training, as ``danlu train`` sets it up: the real loop, on the choices a run begins with."""

from __future__ import annotations

import threading
from typing import Any

from benchmarks.peers.common import Task

__all__ = ["Ours"]


class Ours:
    """Epochs of a :class:`danlu.train.loop.Training` in a thread that waits between rounds."""

    def __init__(self, task: Task) -> None:
        from danlu.core.allocator import keep_freed_memory
        from danlu.data.load import load_data
        from danlu.train.signals import StopRequest
        from danlu.train.start import choose, fresh, measure

        allocator = keep_freed_memory()
        augment = [{"name": "pad_crop"}, {"name": "flip"}] if task.augment else []
        overrides: dict[str, Any] = {"batch_size": task.batch, "augment": augment, "epochs": 10_000}
        data = load_data(task.data)
        plan, why = choose(data, model=task.model, recipe=None, overrides=overrides, seed=0, device="cpu")
        training = fresh(plan, data)
        plan = measure(plan, training, None, why)
        training.log = lambda **entry: None  # type: ignore[method-assign]
        training.config = plan.config.model_copy(update={"checkpoint_seconds": 1e9})
        self.asked, self.done, self.left = threading.Semaphore(0), threading.Semaphore(0), 0

        def advance(step: int, text: str) -> None:
            self.left -= 1
            if self.left <= 0:
                self.done.release()
                self.asked.acquire()

        def epochs() -> None:
            import torch

            torch.set_num_threads(plan.threads)
            while True:
                training._train_epoch(StopRequest(), advance)
                training.state.position, training.state.epoch = 0, training.state.epoch + 1

        threading.Thread(target=epochs, daemon=True).start()
        self.done.acquire()
        chosen = f"{len(plan.kernels)} kernels chosen, {len(plan.fused)} places fused"
        self.said = f"{plan.precision}, {plan.threads} threads, {allocator}, {chosen}"

    def steps(self, count: int) -> None:
        """Train ``count`` steps."""
        self.left = count
        self.asked.release()
        self.done.acquire()
