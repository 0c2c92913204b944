"""What our loop costs a step beyond a bare one: LeNet-5 at batch 1, one thread, the same pictures, loss and update."""

from __future__ import annotations

import statistics
import time
from typing import Any

__all__ = ["measure"]

STEPS, ROUNDS = 300, 31


def measure() -> dict[str, Any]:
    """Return the medians of both loops in microseconds a step, and of their difference round by round."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from danlu.core.allocator import keep_freed_memory
    from danlu.data.load import load_data
    from danlu.train.signals import StopRequest
    from danlu.train.start import choose, fresh

    keep_freed_memory()
    torch.set_num_threads(1)
    data = load_data("digits")
    overrides = {
        "batch_size": 1,
        "epochs": 1,
        "precision": "fp32",
        "augment": [],
        "label_smoothing": 0.0,
        "ema": None,
        "optimizer.lr": 1e-3,
    }
    plan, _ = choose(data, model="lenet5", recipe="default", overrides=overrides, seed=0, device="cpu")
    training = fresh(plan, data)
    training.log = lambda **entry: None  # type: ignore[method-assign]
    steps = training.steps_per_epoch
    model = training.model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=True)
    pictures = torch.from_numpy(training.train.loader.pictures(np.arange(STEPS)))
    labels = torch.from_numpy(training.train.dataset.labels[:STEPS].copy())

    def bare() -> None:
        model.train()
        for index in range(STEPS):
            loss = F.cross_entropy(model(pictures[index : index + 1]), labels[index : index + 1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def ours() -> None:
        training.state.position = steps - STEPS
        training._train_epoch(StopRequest(), lambda step, text: None)

    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(-2, ROUNDS):
        for name, loop in (("ours", ours), ("bare", bare)):
            begin = time.perf_counter()
            loop()
            if number >= 0:
                times[name].append((time.perf_counter() - begin) / STEPS * 1e6)
    extra = sorted(a - b for a, b in zip(times["ours"], times["bare"], strict=True))
    return {
        "microseconds": {name: round(statistics.median(found), 1) for name, found in times.items()},
        "extra": {
            "median": round(statistics.median(extra), 1),
            "low": round(extra[len(extra) // 4], 1),
            "high": round(extra[3 * len(extra) // 4], 1),
        },
    }
