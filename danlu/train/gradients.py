"""What is a weight, what happens to gradients before an update, and to weights after it: clipping, L1, max-norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from danlu.train.distributed import local
from danlu.train.settings import TrainConfig

__all__ = ["clip_adaptively", "constrain", "is_weight", "prepare", "unit_norms"]

# Keeps units that start at zero from being frozen there (Brock et al. 2021, ε of equation 3).
_LEAST_NORM = 1e-3


def is_weight(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a matrix or kernel, which decays, is penalised, constrained or made orthogonal.

    Biases, norms, scales of channels, class tokens and positions are not, however many dimensions they are kept with:
    a weight has several and is called one, as ``weight`` in PyTorch's layers or ``in_proj_weight`` of its attention.
    """
    return parameter.dim() > 1 and "weight" in name.rpartition(".")[2]


def prepare(network: nn.Module, config: TrainConfig) -> None:
    """Add the L1 penalty to the gradients of ``network`` and clip them as ``config`` says, in place."""
    if config.clip is None and not config.l1:
        return
    parameters = [(name, p) for name, p in network.named_parameters() if p.grad is not None]
    if config.l1:
        for name, parameter in parameters:
            if is_weight(name, parameter) and parameter.grad is not None:
                local(parameter.grad).add_(local(parameter.detach()).sign(), alpha=config.l1)
    if config.clip is None:
        return
    if config.clip_by == "norm":
        nn.utils.clip_grad_norm_([p for _, p in parameters], config.clip)
    elif config.clip_by == "value":
        nn.utils.clip_grad_value_([p for _, p in parameters], config.clip)
    else:
        # The last layer is left out, as the paper has it, unless it alone is trained.
        last = [name for name, p in parameters if is_weight(name, p)][-1:]
        head = {name.rpartition(".")[0] for name in last}
        body = [p for name, p in parameters if name.rpartition(".")[0] not in head]
        clip_adaptively(body or [p for _, p in parameters], config.clip)


@torch.no_grad()
def clip_adaptively(parameters: list[nn.Parameter], limit: float) -> None:
    """Clip each unit's gradient to ``limit`` times the norm of its weights (AGC, Brock et al. 2021, equation 3).

    A unit is one output of a layer; vectors are taken value by value as the authors' program does.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        # A shard holds whole units: it is cut along the first dimension.
        gradient = local(parameter.grad)
        largest = limit * unit_norms(local(parameter.data)).clamp(min=_LEAST_NORM)
        found = unit_norms(gradient)
        gradient.mul_(torch.where(found > largest, largest / found.clamp(min=1e-6), torch.ones_like(found)))


def unit_norms(x: Tensor) -> Tensor:
    """Return the norm of each output unit's weights, in a shape that multiplies with ``x``: |x| itself for vectors."""
    if x.dim() <= 1:
        return x.abs()
    norms: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)
    return norms


@torch.no_grad()
def constrain(network: nn.Module, limit: float) -> None:
    """Scale the weights of each unit back to a norm of at most ``limit`` (max-norm, Srivastava et al. 2014)."""
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and is_weight(name, parameter):
            weights = local(parameter.data)
            found = unit_norms(weights)
            weights.mul_((limit / found.clamp(min=1e-12)).clamp(max=1.0))
