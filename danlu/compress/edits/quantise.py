"""Layers whose weights are packed integers and whose inputs are rounded; norms that were folded into them are gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from danlu.compress.edits import EDITS
from danlu.core.errors import InputError
from danlu.models.layers import SameConv2d

__all__ = ["BITS", "KINDS", "Quantised", "pack", "plain", "quantise", "quantised_layers", "swap", "unpack"]

BITS = (2, 4, 8)
# Layers that multiply their weight as it is. Others compute with it first (standardise it, say) and stay in float.
KINDS: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear, SameConv2d)


def pack(integers: Tensor, bits: int) -> Tensor:
    """Return integers 0 … 2ᵇ − 1 (uint8, any shape) as bytes, 8 / b to each, the first in the lowest bits."""
    each = 8 // bits
    flat = integers.flatten()
    padded = torch.zeros(-(-flat.numel() // each) * each, dtype=torch.uint8, device=flat.device)
    padded[: flat.numel()] = flat
    packed = torch.zeros(padded.numel() // each, dtype=torch.uint8, device=flat.device)
    for place, part in enumerate(padded.view(-1, each).unbind(1)):
        packed |= part << (place * bits)
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first ``count`` integers of what :func:`pack` wrote, uint8."""
    parts = [(packed >> (place * bits)) & (2**bits - 1) for place in range(8 // bits)]
    return torch.stack(parts, 1).flatten()[:count]


class Quantised:
    """What a layer becomes, beside its own class: ``weight`` is made of integers, the input is rounded.

    Its tensors: ``codes`` uint8 (packed integers, stored as integer + 2ᵇ⁻¹), ``steps`` [C] (one for each of the first
    dimension of the weight; negative where a norm with a negative scale was folded in), ``input_step`` [1],
    ``input_zero`` [1]; integers of inputs run from 0 to 2ᵇ − 1.
    """

    weight_bits: int
    input_bits: int
    weight_shape: tuple[int, ...]
    codes: Tensor
    steps: Tensor
    input_step: Tensor
    input_zero: Tensor

    @property
    def weight(self) -> Tensor:
        """The weight in float32: integers times steps."""
        value: Tensor = self.integers.float() * self.steps.view(-1, *[1] * (len(self.weight_shape) - 1))
        return value

    @property
    def integers(self) -> Tensor:
        """The weight's integers, int16, in its shape."""
        count = torch.Size(self.weight_shape).numel()
        whole = unpack(self.codes, self.weight_bits, count).to(torch.int16) - 2 ** (self.weight_bits - 1)
        shaped: Tensor = whole.view(self.weight_shape)
        return shaped

    def rounded(self, x: Tensor) -> Tensor:
        """Return the input as the integers of the lattice give it back."""
        whole = (x / self.input_step).round_().add_(self.input_zero).clamp_(0, 2**self.input_bits - 1)
        return whole.sub_(self.input_zero).mul_(self.input_step)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer's own class makes of the rounded input and weight."""
        return cast(Tensor, cast(Any, super()).forward(self.rounded(x)))


@cache
def _mixed(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    """Return a class that is ``kind`` with the properties of ``mixin`` in front."""
    return cast(type[nn.Module], type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {"kind": kind}))


def swap(layer: nn.Module, mixin: type) -> None:
    """Give ``layer`` the behaviour of ``mixin`` in front of its own; its tensors stay."""
    kind: Any = getattr(type(layer), "kind", type(layer))
    object.__setattr__(layer, "__class__", _mixed(mixin, kind))


def plain(layer: nn.Module) -> None:
    """Make a quantised layer one of its own class again, with a float32 weight and no rounding of inputs."""
    value = cast(Quantised, layer).weight.detach().clone()
    for name in ("codes", "steps", "input_step", "input_zero"):
        delattr(layer, name)
    object.__setattr__(layer, "__class__", cast(Any, layer).kind)
    layer.register_parameter("weight", nn.Parameter(value))


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, Quantised]]:
    """Yield name and layer of every quantised layer, in the network's order."""
    for name, module in model.named_modules():
        if isinstance(module, Quantised):
            yield name, module


def quantise(
    model: nn.Module, layers: Mapping[str, Sequence[int]], biases: Sequence[str] = (), folded: Sequence[str] = ()
) -> None:
    """Replace weights by packed integers; new tensors are zero, because weights are loaded afterwards.

    Args:
        model: changed in place.
        layers: name of a convolution or linear layer -> bits of its weight and of its input, each 2, 4 or 8.
        biases: those of them that get a bias, because a norm was folded into them.
        folded: names of these batch norms; they do nothing any more.

    Raises:
        InputError: no such layer, a kind that cannot be quantised, other bits, or a bias that is there already.
    """
    modules = dict(model.named_modules())
    for name, bits in layers.items():
        layer = modules.get(name)
        if layer is None or type(layer) not in KINDS:
            kind = "no layer of this network" if layer is None else f"a {type(layer).__name__}, which is not quantised"
            raise InputError(f"{name!r} is {kind}", allowed=[kind.__name__ for kind in KINDS])
        if len(bits) != 2 or any(type(one) is not int or one not in BITS for one in bits):
            raise InputError(f"{name} has bits {list(bits)!r}", allowed=BITS)
        _replace(layer, bits[0], bits[1], with_bias=name in biases)
    for name in folded:
        parent, _, last = name.rpartition(".")
        if not isinstance(modules.get(name), nn.modules.batchnorm._BatchNorm):
            raise InputError(f"{name!r} is no batch norm of this network")
        setattr(modules[parent], last, nn.Identity())
    if unknown := [name for name in biases if name not in layers]:
        raise InputError(f"{unknown[0]!r} gets a bias, but is not quantised")


def _replace(layer: nn.Module, weight_bits: int, input_bits: int, with_bias: bool) -> None:
    weight = cast(Tensor, layer.weight)
    shape, device = tuple(weight.shape), weight.device
    del layer.weight
    swap(layer, Quantised)
    quantised = cast(Quantised, layer)
    quantised.weight_bits, quantised.input_bits, quantised.weight_shape = weight_bits, input_bits, shape
    count = torch.Size(shape).numel()
    layer.register_buffer("codes", torch.zeros(-(-count * weight_bits // 8), dtype=torch.uint8, device=device))
    layer.register_buffer("steps", torch.zeros(shape[0], device=device))
    layer.register_buffer("input_step", torch.ones(1, device=device))
    layer.register_buffer("input_zero", torch.zeros(1, device=device))
    if with_bias:
        if cast(Any, layer).bias is not None:
            raise InputError("a layer that has a bias gets another")
        layer.register_parameter("bias", nn.Parameter(torch.zeros(shape[0], device=device)))


EDITS.register("quantise", quantise, __name__, title="packed integer weights, rounded inputs, folded norms")
