"""Our own training, as ``danlu train`` sets it up: the real loop, on the choices a run begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers.common import Task

__all__ = ["Ours"]


class Ours:
    """Epochs of a :class:`danlu.train.loop.Training`, which asks between rounds how many steps come next.

    It runs in the main thread, as in ``danlu train``: in another one OpenMP counts a second team of threads, more than
    there are cores, and puts its workers to sleep after every loop.
    """

    def __init__(self, task: Task) -> None:
        from danlu.core.allocator import keep_freed_memory
        from danlu.data.load import load_data
        from danlu.train.start import choose, fresh, measure

        allocator = keep_freed_memory()
        augment = [{"name": "pad_crop"}, {"name": "flip"}] if task.augment else []
        overrides: dict[str, Any] = {"batch_size": task.batch, "augment": augment, "epochs": 10_000}
        overrides |= {"precision": "fp32"} if task.fp32 else {}
        data = load_data(task.data)
        plan, why = choose(data, model=task.model, recipe=None, overrides=overrides, seed=0, device="cpu")
        self.training = fresh(plan, data)
        plan = measure(plan, self.training, None, why)
        self.training.log = lambda **entry: None  # type: ignore[method-assign]
        self.training.config = plan.config.model_copy(update={"checkpoint_seconds": 1e9})
        self.threads = plan.threads
        chosen = f"{len(plan.kernels)} kernels chosen, {len(plan.fused)} places fused"
        self.said = f"{plan.precision}, {plan.threads} threads, {allocator}, {chosen}"

    def run(self, ask: Callable[[], int]) -> None:
        """Train as many steps as ``ask`` says, time and again; it ends by an exception of ``ask``."""
        import torch

        from danlu.train.signals import StopRequest

        torch.set_num_threads(self.threads)
        left = ask()

        def advance(step: int, text: str) -> None:
            nonlocal left
            left -= 1
            while left <= 0:
                left = ask()

        while True:
            self.training._train_epoch(StopRequest(), advance)
            self.training.state.position, self.training.state.epoch = 0, self.training.state.epoch + 1
