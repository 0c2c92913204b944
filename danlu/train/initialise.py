"""Initialisers of the literature, for networks whose recipe asks for another one than their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.train.settings import InitialiseSettings

__all__ = ["initialise", "last_norms"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_GATES = ("SqueezeExcite", "ChannelGate", "SpatialGate")


def initialise(network: nn.Module, settings: InitialiseSettings, pictures: Callable[[], Tensor]) -> None:
    """Set the weights of ``network`` as ``settings`` say, drawing from torch's generator.

    Args:
        network: its convolutions and linear layers are set; norms and embeddings stay as they are.
        settings: see :class:`InitialiseSettings`.
        pictures: gives what the network takes, float [B, C, H, W]; called for ``lsuv`` only.

    Raises:
        InputError: ``zero_last_norm`` for a network in which no residual branch ends in a norm.
    """
    if settings.name != "own":
        for module in network.modules():
            if isinstance(module, _WEIGHTED):
                _draw(module, settings)
    if settings.name == "lsuv":
        _lsuv(network, pictures())
    if settings.zero_last_norm:
        found = last_norms(network)
        if not found:
            raise InputError("this network has no residual branch that ends in a norm", where="init.zero_last_norm")
        for norm in found:
            assert isinstance(norm.weight, Tensor)
            nn.init.zeros_(norm.weight)


def _draw(module: nn.Module, settings: InitialiseSettings) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    if settings.name == "glorot":
        nn.init.xavier_uniform_(weight)
    elif settings.name == "he":
        mode: Literal["fan_in", "fan_out"] = "fan_in" if isinstance(module, nn.Linear) else "fan_out"
        nn.init.kaiming_normal_(weight, mode=mode, nonlinearity="relu")
    elif settings.name == "normal":
        nn.init.normal_(weight, std=settings.std)
    else:
        # Of a weight in channels-last order, orthogonal_ would fill a view of another shape.
        nn.init.orthogonal_(fresh := torch.empty(weight.shape, device=weight.device))
        weight.data.copy_(fresh)
    if isinstance(module.bias, Tensor):
        nn.init.zeros_(module.bias)


def last_norms(network: nn.Module) -> list[nn.Module]:
    """Return the norm that ends each residual branch, a gate behind it not counted.

    Residual blocks of this package hold their way around the branch as ``shortcut``. A branch that ends in a
    convolution (pre-activation) has no such norm.
    """
    found: list[nn.Module] = []
    for block in network.modules():
        if not isinstance(getattr(block, "shortcut", None), nn.Module):
            continue
        last: nn.Module | None = None
        gates = [f"{name}." for name, module in block.named_modules() if type(module).__name__ in _GATES]
        for name, module in block.named_modules():
            if not name.startswith(("shortcut", *gates)) and isinstance(module, (*_NORMS, *_WEIGHTED)):
                last = module
        if isinstance(last, _NORMS):
            found.append(last)
    return found


_VARIANCE, _MOST_ROUNDS = 0.1, 10


@torch.no_grad()
def _lsuv(network: nn.Module, pictures: Tensor) -> None:
    """Scale each layer, in the order they run, until the variance of its output on ``pictures`` is 1 within 0.1."""
    order: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: order.append(module))
        for module in network.modules()
        if isinstance(module, _WEIGHTED)
    ]
    was_training = network.training
    network.train()
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    network(pictures)
    for hook in hooks:
        hook.remove()
    for layer in dict.fromkeys(order):
        for round_number in itertools.count():
            variance = _variance(network, layer, pictures)
            if abs(variance - 1) <= _VARIANCE or variance == 0.0:
                break
            if round_number == _MOST_ROUNDS:
                logger.warning("lsuv: a layer's output keeps a variance of %.2f", variance)
                break
            weight = layer.weight
            assert isinstance(weight, Tensor)
            weight.data.div_(variance**0.5)
    for name, value in network.named_buffers():
        value.copy_(buffers[name])
    network.train(was_training)


def _variance(network: nn.Module, layer: nn.Module, pictures: Tensor) -> float:
    seen: list[float] = []
    hook = layer.register_forward_hook(lambda module, given, output: seen.append(float(output.float().var())))
    network(pictures)
    hook.remove()
    return seen[0]
