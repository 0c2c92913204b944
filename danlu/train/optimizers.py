"""Optimisers: which parameters decay, torch's kernels where it has them, a state of named tensors for a checkpoint.

They are classes of their own over torch's functional kernels: making a ``torch.optim.Optimizer`` imports the compiler,
which costs seconds that a short run does not have, and its state is keyed by position instead of by name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.adadelta import adadelta
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from danlu.core.errors import InputError
from danlu.train.distributed import local
from danlu.train.gradients import is_weight
from danlu.train.optimizer_settings import (
    AdadeltaSettings,
    AdagradSettings,
    AdamSettings,
    AdamWSettings,
    CommonSettings,
    LambSettings,
    LarsSettings,
    MuonSettings,
    OptimizerSettings,
    RmsPropSettings,
    SgdSettings,
)

__all__ = [
    "Adadelta",
    "Adagrad",
    "Adam",
    "Lamb",
    "Lars",
    "Muon",
    "Optimizer",
    "RmsProp",
    "Sgd",
    "make_optimizer",
    "orthogonal",
]
S = TypeVar("S", bound=CommonSettings)


class Optimizer(ABC, Generic[S]):
    """Moves named parameters along their gradients; only weights decay (:func:`~danlu.train.gradients.is_weight`).

    Args:
        parameters: name -> parameter.
        settings: everything but the learning rate, which comes with each step.

    Attributes:
        scales: name -> share of the learning rate; 1 where it is not named.
    """

    # Names of the tensors kept for each parameter, in its shape; whether its steps are counted; whether fused kernels
    # want the counts on its device, as Adam's does, while all others want them on the CPU.
    kept: ClassVar[tuple[str, ...]] = ()
    counted: ClassVar[bool] = False
    counted_there: ClassVar[bool] = False

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: S) -> None:
        self.settings: S = settings
        self.parameters = dict(parameters)
        self.scales: dict[str, float] = {}
        # Which parameters were moved last time, and in which groups: the same ones in nearly every step.
        self._grouped: tuple[tuple[str, ...], tuple[tuple[str, float], ...]] | None = None
        self._groups: dict[tuple[bool, float], list[str]] = {}
        self.slots = {
            slot: {n: torch.zeros_like(p, memory_format=torch.preserve_format) for n, p in self.parameters.items()}
            for slot in self.slots_kept()
        }
        # There torch has one kernel for the whole update instead of one small operation a parameter.
        self.fused = {p.device.type for p in self.parameters.values()} <= {"cpu", "cuda"}
        places = {n: p.device if self.fused and self.counted_there else "cpu" for n, p in self.parameters.items()}
        self.counts = {n: torch.zeros((), device=place) for n, place in places.items() if self.counted}

    def slots_kept(self) -> tuple[str, ...]:
        """Return the names of what is kept for each parameter."""
        return self.kept

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every parameter that has a gradient."""
        moving = tuple([name for name, parameter in self.parameters.items() if parameter.grad is not None])
        key = (moving, tuple(self.scales.items()))
        if key != self._grouped:
            self._grouped, self._groups = key, self._group(moving)
        for (decays, scale), names in self._groups.items():
            self.update(names, lr * scale, self.settings.weight_decay if decays else 0.0)

    def _group(self, names: tuple[str, ...]) -> dict[tuple[bool, float], list[str]]:
        """Return the parameters that are moved alike, by whether they decay and their share of the rate."""
        groups: dict[tuple[bool, float], list[str]] = {}
        for name in names:
            decays = is_weight(name, self.parameters[name])
            groups.setdefault((decays, self.scales.get(name, 1.0)), []).append(name)
        return groups

    @abstractmethod
    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``, which all have gradients."""

    def tensors(self, names: list[str]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters and gradients of ``names``."""
        gradients = [local(gradient) for name in names if (gradient := self.parameters[name].grad) is not None]
        return [local(self.parameters[name].data) for name in names], gradients

    def slot(self, slot: str, names: list[str]) -> list[Tensor]:
        """Return what is kept under ``slot`` for ``names``; empty where it is not kept."""
        return [local(self.slots[slot][name]) for name in names] if slot in self.slots else []

    def count(self, names: list[str]) -> list[Tensor]:
        """Return the steps done by each of ``names``; the kernels add one."""
        return [self.counts[name] for name in names]

    def forget_gradients(self) -> None:
        """Drop all gradients, so that the next backward pass writes instead of adding."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the state as named tensors, not copied."""
        kept = {f"{slot}/{name}": value for slot, values in self.slots.items() for name, value in values.items()}
        return kept | {f"steps/{name}": value for name, value in self.counts.items()}

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


class Sgd(Optimizer[SgdSettings]):
    """``g += decay·p; b = momentum·b + g; p -= lr·(g + momentum·b)`` in Nesterov's form."""

    def slots_kept(self) -> tuple[str, ...]:
        """Keep the momentum, if there is any: as many zeros as its first step needs, 0·momentum + g = g."""
        return ("momentum",) if self.settings.momentum else ()

    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``."""
        parameters, gradients = self.tensors(names)
        sgd(
            parameters,
            gradients,
            list(self.slot("momentum", names)) or [None] * len(names),
            foreach=not self.fused,
            fused=self.fused,
            weight_decay=decay,
            momentum=self.settings.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=self.settings.nesterov,
            maximize=False,
        )


class Lars(Optimizer[LarsSettings]):
    """``v = momentum·v + lr·η·|p| / (|g| + decay·|p|) · (g + decay·p); p -= v``, layer by layer (equation 6)."""

    kept = ("momentum",)

    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``; biases and norms by plain momentum."""
        for name, parameter, gradient in zip(names, *self.tensors(names), strict=True):
            rate = torch.tensor(lr, device=parameter.device)
            if is_weight(name, parameter):
                size, slope = parameter.norm(), gradient.norm()
                scaled = lr * self.settings.trust * size / (slope + decay * size)
                rate = torch.where((size > 0) & (slope > 0), scaled, rate)
            velocity = self.slots["momentum"][name]
            velocity.mul_(self.settings.momentum).add_(rate * (gradient + decay * parameter))
            parameter.sub_(velocity)


class Adagrad(Optimizer[AdagradSettings]):
    """``s += g²; p -= lr·g / (√s + eps)``."""

    kept = ("squares",)
    counted = True

    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``."""
        adagrad(
            *self.tensors(names),
            self.slot("squares", names),
            self.count(names),
            foreach=True,
            lr=lr,
            weight_decay=decay,
            lr_decay=0.0,
            eps=self.settings.eps,
            maximize=False,
        )


class Adadelta(Optimizer[AdadeltaSettings]):
    """``s = ρs + (1-ρ)g²; d = g·√(u + eps) / √(s + eps); u = ρu + (1-ρ)d²; p -= lr·d``."""

    kept = ("squares", "deltas")
    counted = True

    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``."""
        adadelta(
            *self.tensors(names),
            self.slot("squares", names),
            self.slot("deltas", names),
            self.count(names),
            foreach=True,
            lr=lr,
            rho=self.settings.rho,
            eps=self.settings.eps,
            weight_decay=decay,
            maximize=False,
        )


class RmsProp(Optimizer[RmsPropSettings]):
    """``s = αs + (1-α)g²; p -= lr·g / (√s + eps)``, optionally centred and with momentum."""

    counted = True

    def slots_kept(self) -> tuple[str, ...]:
        """Keep the squares, and what centring and momentum need."""
        centred = ("means",) if self.settings.centered else ()
        return ("squares", *centred, *(("momentum",) if self.settings.momentum else ()))

    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``."""
        rmsprop(
            *self.tensors(names),
            self.slot("squares", names),
            self.slot("means", names),
            self.slot("momentum", names),
            self.count(names),
            foreach=True,
            lr=lr,
            alpha=self.settings.alpha,
            eps=self.settings.eps,
            weight_decay=decay,
            momentum=self.settings.momentum,
            centered=self.settings.centered,
        )


class Adam(Optimizer[AdamSettings]):
    """Adam; with :class:`AdamWSettings` its decay is decoupled."""

    kept = ("means", "squares")
    counted = True
    counted_there = True

    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``."""
        adam(
            *self.tensors(names),
            self.slot("means", names),
            self.slot("squares", names),
            [],
            self.count(names),
            foreach=not self.fused,
            fused=self.fused,
            decoupled_weight_decay=isinstance(self.settings, AdamWSettings),
            amsgrad=False,
            beta1=self.settings.beta1,
            beta2=self.settings.beta2,
            lr=lr,
            weight_decay=decay,
            eps=self.settings.eps,
            maximize=False,
        )


class Lamb(Optimizer[LambSettings]):
    """Adam's corrected update plus decay, scaled by |p| / |update| layer by layer (algorithm 2)."""

    kept = ("means", "squares")
    counted = True

    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``; biases and norms are not scaled."""
        beta1, beta2 = self.settings.beta1, self.settings.beta2
        for name, parameter, gradient in zip(names, *self.tensors(names), strict=True):
            mean, square, count = self.slots["means"][name], self.slots["squares"][name], self.counts[name]
            count.add_(1)
            done = float(count)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            root = (square / (1 - beta2**done)).sqrt_().add_(self.settings.eps)
            update = mean / (1 - beta1**done) / root + decay * parameter
            if is_weight(name, parameter):
                size, length = parameter.norm(), update.norm()
                update = update * torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
            parameter.sub_(lr * update)


class Muon(Optimizer[MuonSettings]):
    """Nesterov momentum, made orthogonal, for matrices and kernels; SGD for the rest.

    The first kernel and the last matrix in the order of the network are of the rest, as is what is no weight.
    """

    kept = ("momentum",)
    # Whether the first kernel of the network is among the parameters; it is not where it is frozen.
    has_first = True

    def update(self, names: list[str], lr: float, decay: float) -> None:
        """Move the parameters called ``names``."""
        large = [name for name, parameter in self.parameters.items() if is_weight(name, parameter)]
        ends = {*large[:1], *large[-1:]} if self.has_first else set(large[-1:])
        for name, parameter, gradient in zip(names, *self.tensors(names), strict=True):
            if name not in large or name in ends:
                self._move_rest(name, parameter, gradient, lr, decay, head=bool(large) and name == large[-1])
                continue
            update = self._along_momentum(name, gradient, self.settings.momentum)
            if self.settings.normalize:
                parameter.mul_(math.sqrt(len(parameter)) / parameter.norm().clamp(min=1e-12))
            rows = parameter.flatten(1)
            # A random matrix with orthogonal rows has entries of this size: the step is lr in the usual units.
            scale = math.sqrt(max(1.0, rows.shape[0] / rows.shape[1]))
            direction = orthogonal(update.flatten(1), self.settings.iterations).view_as(parameter)
            parameter.mul_(1 - lr * decay).sub_(lr * scale * direction)

    def _along_momentum(self, name: str, gradient: Tensor, momentum: float) -> Tensor:
        velocity = self.slots["momentum"][name]
        velocity.mul_(momentum).add_(gradient)
        return gradient.add(velocity, alpha=momentum)

    def _move_rest(
        self, name: str, parameter: Tensor, gradient: Tensor, lr: float, decay: float, *, head: bool
    ) -> None:
        settings = self.settings
        share = settings.head_lr if head and settings.head_lr is not None else settings.rest_lr
        if settings.rest_decay is not None:
            gradient, decay = gradient.add(parameter, alpha=settings.rest_decay / (settings.lr * share)), 0.0
        momentum = settings.momentum if settings.rest_momentum is None else settings.rest_momentum
        update = self._along_momentum(name, gradient, momentum)
        parameter.mul_(1 - lr * share * decay).sub_(lr * share * update)


def orthogonal(matrix: Tensor, iterations: int) -> Tensor:
    """Return about U Vᵀ of ``matrix`` [m, n] = U S Vᵀ, by Newton-Schulz iterations of fifth order.

    The coefficients are those of Jordan et al. 2024: they end with singular values of about 0.7 to 1.2 instead of 1, in
    fewer iterations.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    direction: Tensor = x.T if tall else x
    return direction


_KINDS: dict[type, type[Optimizer[Any]]] = {
    SgdSettings: Sgd,
    LarsSettings: Lars,
    AdagradSettings: Adagrad,
    AdadeltaSettings: Adadelta,
    RmsPropSettings: RmsProp,
    AdamSettings: Adam,
    AdamWSettings: Adam,
    LambSettings: Lamb,
    MuonSettings: Muon,
}


def make_optimizer(
    network: nn.Module, parameters: Sequence[nn.Parameter], settings: OptimizerSettings
) -> Optimizer[Any]:
    """Return the optimiser that ``settings`` name over some of the network's parameters."""
    chosen = set(parameters)
    made = _KINDS[type(settings)]({name: p for name, p in network.named_parameters() if p in chosen}, settings)
    if isinstance(made, Muon):
        made.has_first = next((p in chosen for name, p in network.named_parameters() if is_weight(name, p)), True)
    return made
