"""Lookahead (Zhang et al. 2019): every k steps the weights go half the way back to where they were k steps before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import InputError
from danlu.train.distributed import local
from danlu.train.optimizers import Optimizer

__all__ = ["Lookahead", "with_lookahead"]

_SHARE = 0.5


class Lookahead:
    """Wraps an optimiser; ``slow`` are the weights it goes back to.

    Args:
        inner: makes the fast steps.
        every: k, how many of them.
    """

    def __init__(self, inner: Optimizer[Any], every: int) -> None:
        self.inner, self.every = inner, every
        self.parameters = inner.parameters
        self.slow = {name: p.detach().clone() for name, p in inner.parameters.items()}
        self.count = torch.zeros((), dtype=torch.int64)

    @property
    def scales(self) -> dict[str, float]:
        """Shares of the learning rate, by name."""
        return self.inner.scales

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Make one fast step; after every k of them, move slow and fast weights to their middle."""
        if int(self.count) == 0:  # weights may have been loaded since this was built
            for name, parameter in self.parameters.items():
                local(self.slow[name]).copy_(local(parameter.data))
        self.inner.step(lr)
        self.count.add_(1)
        if int(self.count) % self.every == 0:
            for name, parameter in self.parameters.items():
                slow, fast = local(self.slow[name]), local(parameter.data)
                fast.copy_(slow.lerp_(fast, _SHARE))

    def forget_gradients(self) -> None:
        """Drop all gradients."""
        self.inner.forget_gradients()

    def state(self) -> dict[str, Tensor]:
        """Return the inner state, the slow weights and the number of steps as named tensors, not copied."""
        slow = {f"slow/{name}": value for name, value in self.slow.items()}
        return self.inner.state() | slow | {"lookahead": self.count}

    def load(self, state: Mapping[str, Tensor], where: str) -> None:
        """Put what :meth:`state` returned back.

        Raises:
            InputError: names or shapes are not those of this network's parameters.
        """
        own = {name: value for name, value in self.state().items() if name == "lookahead" or name.startswith("slow/")}
        differing = [name for name in own if name not in state or state[name].shape != own[name].shape]
        if differing:
            raise InputError(f"does not fit this network's optimiser: {', '.join(differing[:5])}", where=where)
        self.inner.load({name: value for name, value in state.items() if name not in own}, where)
        for name, value in own.items():
            value.copy_(state[name])


def with_lookahead(inner: Optimizer[Any], every: int | None) -> Optimizer[Any] | Lookahead:
    """Return ``inner``, wrapped where ``every`` is given."""
    return inner if every is None else Lookahead(inner, every)
