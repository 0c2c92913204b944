"""Optimisers: which parameters decay, one fused kernel a step, and a state of named tensors for a checkpoint.

They are classes of their own over torch's functional kernels: making a ``torch.optim.Optimizer`` imports the compiler,
which costs seconds that a short run does not have, and its state is keyed by position instead of by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from danlu.core.errors import InputError
from danlu.train.settings import OptimizerSettings

__all__ = ["Sgd", "make_optimizer"]

# Where torch has one kernel for the whole update instead of one small operation a parameter.
_FUSED = ("cpu", "cuda")


class Sgd:
    """Stochastic gradient descent with momentum; biases and norms (one dimension or none) do not decay.

    The update is torch's: ``g += decay·p; b = momentum·b + g; p -= lr·(g + momentum·b)`` in Nesterov's form.

    Args:
        parameters: name -> parameter.
        settings: momentum and decay; the learning rate comes with each step.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> None:
        self.settings = settings
        self.parameters = dict(parameters)
        # As many zeros as the momentum of the first step needs: 0·momentum + g = g.
        self.momentum: dict[str, Tensor] = (
            {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name, p in self.parameters.items()}
            if settings.momentum
            else {}
        )
        self.fused = {p.device.type for p in self.parameters.values()} <= set(_FUSED)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every parameter that has a gradient."""
        for decay, chosen in ((self.settings.weight_decay, True), (0.0, False)):
            names = [n for n, p in self.parameters.items() if p.grad is not None and (p.dim() > 1) == chosen]
            sgd(
                [self.parameters[name] for name in names],
                [grad for name in names if (grad := self.parameters[name].grad) is not None],
                [self.momentum.get(name) for name in names],
                foreach=not self.fused,
                fused=self.fused,
                weight_decay=decay,
                momentum=self.settings.momentum,
                lr=lr,
                dampening=0.0,
                nesterov=self.settings.nesterov,
                maximize=False,
            )

    def forget_gradients(self) -> None:
        """Drop all gradients, so that the next backward pass writes instead of adding."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the state as named tensors, not copied."""
        return {f"momentum/{name}": value for name, value in self.momentum.items()}

    def load(self, state: Mapping[str, Tensor], where: str) -> None:
        """Put what :meth:`state` returned back, in each parameter's own memory layout.

        Raises:
            InputError: names or shapes are not those of this network's parameters.
        """
        own = self.state()
        differing = sorted(own.keys() ^ state.keys())
        differing += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
        if differing:
            shown = ", ".join(differing[:5])
            raise InputError(f"does not fit this network's optimiser: {shown}", where=where)
        for name, value in own.items():
            value.copy_(state[name])


def make_optimizer(network: nn.Module, parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> Sgd:
    """Return the optimiser that ``settings`` name over some of the network's parameters."""
    chosen = set(parameters)
    return Sgd({name: p for name, p in network.named_parameters() if p in chosen}, settings)
