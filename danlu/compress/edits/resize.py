"""Give layers other numbers of channels, as they are after whole channels were removed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from danlu.compress.edits import EDITS
from danlu.core.errors import InputError

__all__ = ["resize"]

# For each kind of layer: the attributes that say its size; the largest that a file may ask for.
_SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm2d: ("num_features",),
}


def resize(model: nn.Module, layers: dict[str, dict[str, int]]) -> None:
    """Shrink layers to given sizes; new parameters are zero, because weights are loaded afterwards.

    Args:
        model: changed in place.
        layers: name of a layer -> ``in_channels``, ``out_channels`` and ``groups`` of a convolution, ``in_features``
            and ``out_features`` of a linear layer, ``num_features`` of a batch norm; what is not named stays.

    Raises:
        InputError: no such layer, a kind that cannot be resized, an unknown key, or a size that is not 1 … its own.
    """
    modules = dict(model.named_modules())
    for name, sizes in layers.items():
        layer = modules.get(name)
        keys = _SIZES.get(type(layer)) if layer is not None else None
        if layer is None or keys is None:
            kind = "no layer of this network" if layer is None else f"a {type(layer).__name__}, which is not resized"
            raise InputError(f"{name!r} is {kind}")
        for key, size in sizes.items():
            if key not in keys:
                raise InputError(f"{name}.{key} is no size of a {type(layer).__name__}", allowed=keys)
            if type(size) is not int or not 1 <= size <= getattr(layer, key):
                raise InputError(f"{name}.{key} = {size!r}", allowed=[f"1 … {getattr(layer, key)}"])
            setattr(layer, key, size)
        _renew(layer)


def _renew(layer: Any) -> None:
    """Replace the layer's parameters and buffers by zeros of the sizes its attributes say."""
    if isinstance(layer, nn.Conv2d):
        if layer.in_channels % layer.groups or layer.out_channels % layer.groups:
            raise InputError(f"{layer.groups} groups do not divide {layer.in_channels} and {layer.out_channels}")
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    elif isinstance(layer, nn.Linear):
        shape = (layer.out_features, layer.in_features)
    else:
        shape = (layer.num_features,)
    for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        if tensor.dim() == 0:
            continue
        fresh = torch.zeros(shape if name == "weight" else shape[:1], dtype=tensor.dtype, device=tensor.device)
        if isinstance(tensor, nn.Parameter):
            setattr(layer, name, nn.Parameter(fresh, requires_grad=tensor.requires_grad))
        else:
            setattr(layer, name, fresh)


EDITS.register("resize", resize, __name__, title="other numbers of channels")
