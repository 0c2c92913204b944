"""Measure how long each module takes, eagerly, its children left out."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Timing", "measure"]


@dataclass(frozen=True)
class Timing:
    """Medians over several forwards.

    Attributes:
        seconds: one whole forward, nothing attached to it.
        modules: name -> seconds in that module itself, its children left out; ``""`` is the network.
        threads: how many threads computed.
        repeats: how many forwards each median is of.
    """

    seconds: float
    modules: dict[str, float]
    threads: int
    repeats: int


def measure(
    model: nn.Module, pictures: Tensor, *, threads: int | None = None, repeats: int = 9, warmup: int = 3
) -> Timing:
    """Time forwards of ``model`` in eval mode, module by module.

    Args:
        model: its mode and the number of threads are put back afterwards.
        pictures: the input, on the model's device (the CPU).
        threads: how many threads compute; as many as torch uses now when not given.
        repeats: how many forwards the medians are of.
        warmup: how many forwards before.
    """
    before = torch.get_num_threads()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for _ in range(warmup):
                model(pictures)
            whole = []
            for _ in range(repeats):
                begin = time.perf_counter()
                model(pictures)
                whole.append(time.perf_counter() - begin)
            rows: dict[str, list[float]] = defaultdict(list)
            with _clocks(model) as spent:
                for _ in range(repeats):
                    spent.clear()
                    model(pictures)
                    for name, seconds in spent.items():
                        rows[name].append(seconds)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
        for module, training in modes.items():
            module.training = training
    medians = {name: statistics.median(seconds) for name, seconds in rows.items()}
    return Timing(statistics.median(whole), medians, used, repeats)


@contextmanager
def _clocks(model: nn.Module) -> Iterator[dict[str, float]]:
    """Attach hooks that add each module's own seconds, its children's left out, to the dictionary yielded."""
    spent: dict[str, float] = defaultdict(float)
    stack: list[list[float]] = []  # [begin, seconds in children] of the modules that are running
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        stack.append([time.perf_counter(), 0.0])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        begin, children = stack.pop()
        elapsed = time.perf_counter() - begin
        spent[names[module]] += elapsed - children
        if stack:
            stack[-1][1] += elapsed

    handles: list[Any] = []
    for module in names:
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()
