"""Optimisers: which parameters decay, and their state as named tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from danlu.core.errors import InputError
from danlu.train.settings import OptimizerSettings

__all__ = ["load_optimizer", "make_optimizer", "optimizer_tensors", "set_learning_rate"]


def make_optimizer(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.SGD:
    """Return SGD over ``parameters``; biases and norms (one dimension or none) do not decay."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    # One fused kernel instead of one small operation a parameter; not every device has it.
    fused = {p.device.type for p in parameters} <= {"cpu", "cuda"}
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Let the next step use ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _names(model: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as ``<parameter>/<entry>`` -> tensor; empty before the first step."""
    names = _names(model)
    return {
        f"{names[parameter]}/{entry}": value
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], where: str
) -> None:
    """Put what :func:`optimizer_tensors` returned back, in each parameter's own memory layout.

    Raises:
        InputError: a tensor that belongs to no parameter, or of another shape.
    """
    parameters = {name: parameter for parameter, name in _names(model).items()}
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (value.dim() > 0 and value.shape != parameter.shape):
            raise InputError(f"{key!r} {list(value.shape)} fits no parameter of this network", where=where)
        if value.dim() > 0:
            own = torch.empty_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format)
            value = own.copy_(value)
        optimizer.state[parameter][entry] = value
