"""A moving average of the weights (Polyak and Juditsky 1992), evaluated and kept in place of the last weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from danlu.train.distributed import local

__all__ = ["MovingAverage"]


class MovingAverage:
    """Average of a network's floating-point state; whole-number buffers are copied.

    Args:
        model: the network; its present state is the first average.
        decay: share of the average that stays at each step. The first steps use less, (1 + n) / (10 + n), so that the
            average does not remember the initialisation.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network's state after ``step`` steps (1 after the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = self.model.state_dict()
        floating = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [local(self.average[name]) for name in floating],
            [local(state[name].detach()) for name in floating],
            1.0 - decay,
        )
        for name, value in state.items():
            if not value.is_floating_point():
                self.average[name].copy_(value)

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Put a saved average back."""
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network hold the average while the block runs; its own state is back, bit for bit, after it."""
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(own)
