"""Keep some channels of layers, norms and parameters, and remove the others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from danlu.compress.edits import EDITS
from danlu.core.errors import InputError

__all__ = ["keep_channels"]

# Attributes of layers that follow from the shapes of their parameters.
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def keep_channels(
    model: nn.Module,
    sets: Sequence[Sequence[int]],
    modules: Mapping[str, Sequence[int | None]],
    values: Mapping[str, Mapping[str, int]] | None = None,
    numbers: Mapping[str, int] | None = None,
    stages: Mapping[str, int] | None = None,
) -> None:
    """Shrink a network in place to the channels it keeps; what the kept ones hold stays as it is.

    Args:
        model: a network as ``create_model`` gives it, or a trained one.
        sets: lists of channel numbers, ascending; the other arguments name them by their place.
        modules: name of a convolution, linear layer or norm -> which inputs and which outputs are kept (a place in
            ``sets``, or None for all), then the number of groups (None where it stays).
        values: name of a parameter of another module -> axis -> what is kept along it.
        numbers: ``module.attribute`` -> the width that a module's own code reads.
        stages: name of a stage -> its channels.

    Raises:
        InputError: a name or a channel the network does not have.
    """
    found = dict(model.named_modules())
    chosen = [_checked(numbers_kept) for numbers_kept in sets]

    def pick(place: int | None) -> Tensor | None:
        if place is None:
            return None
        if type(place) is not int or not 0 <= place < len(chosen):
            raise InputError(f"set {place!r} of {len(chosen)}")
        return chosen[place]

    for name, (inputs, outputs, groups) in modules.items():
        if name not in found:
            raise InputError(f"{name!r} is no layer of this network")
        _shrink(found[name], name, pick(inputs), pick(outputs), groups)
    for name, axes in (values or {}).items():
        owner, _, own = name.rpartition(".")
        for axis, place in axes.items():
            kept = pick(place)
            if kept is None or owner not in found:
                raise InputError(f"{name!r} is no parameter of this network")
            _replace(found[owner], own, _take(getattr(found[owner], own), int(axis), kept, name))
    for name, number in (numbers or {}).items():
        owner, _, own = name.rpartition(".")
        if owner not in found or type(getattr(found[owner], own, None)) is not int or not number > 0:
            raise InputError(f"{name!r} is no number of this network")
        setattr(found[owner], own, number)
    if stages:
        if unknown := set(stages) - {stage.name for stage in _stages(model)}:
            raise InputError(f"no stages {sorted(unknown)}")
        named: Any = model
        named.stages = tuple(replace(one, channels=stages.get(one.name, one.channels)) for one in _stages(model))


def _stages(model: Any) -> tuple[Any, ...]:
    stages: tuple[Any, ...] = model.stages
    return stages


def _checked(numbers: Sequence[int]) -> Tensor:
    if not numbers or any(type(one) is not int or one < 0 for one in numbers):
        raise InputError("a set of channels holds something else than channel numbers")
    if any(a >= b for a, b in itertools.pairwise(numbers)):
        raise InputError("a set of channels is not ascending")
    return torch.tensor(list(numbers), dtype=torch.int64, device="cpu")


def _take(tensor: Tensor, axis: int, kept: Tensor, name: str) -> Tensor:
    if int(kept[-1]) >= tensor.shape[axis]:
        raise InputError(f"{name}: channel {int(kept[-1])} of {tensor.shape[axis]}")
    return tensor.index_select(axis, kept.to(tensor.device))


def _replace(owner: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(owner, name)
    value = value.detach().clone(memory_format=torch.contiguous_format)
    setattr(
        owner, name, nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value
    )


def _shrink(layer: Any, name: str, inputs: Tensor | None, outputs: Tensor | None, groups: int | None) -> None:
    is_layer = isinstance(layer, nn.Conv2d | nn.Linear)
    if inputs is not None:
        if not is_layer:
            raise InputError(f"{name!r} is a {type(layer).__name__}, which has no inputs to keep")
        _replace(layer, "weight", _take(layer.weight, 1, inputs, f"{name}.weight"))
    if outputs is not None:
        for own, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            if tensor.dim():
                _replace(layer, own, _take(tensor, 0, outputs, f"{name}.{own}"))
    if isinstance(layer, nn.Conv2d):
        layer.groups = layer.groups if groups is None else groups
        if layer.groups < 1:
            raise InputError(f"{name}: {layer.groups} groups")
        layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
        if layer.out_channels % layer.groups:
            raise InputError(f"{name}: {layer.groups} groups do not divide {layer.out_channels} channels")
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _NORMS) and outputs is not None:
        layer.num_features = len(outputs)
    elif isinstance(layer, nn.LayerNorm) and outputs is not None:
        layer.normalized_shape = (len(outputs),)
    elif not is_layer:
        raise InputError(f"{name!r} is a {type(layer).__name__}, whose channels are not kept one by one")


EDITS.register("keep_channels", keep_channels, __name__, title="some channels are kept, the others removed")
