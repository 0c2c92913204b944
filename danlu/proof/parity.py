"""Parity with an independent implementation that is given the same weights, in eval and in train mode, both ways."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from danlu.core.errors import CheckFailed
from danlu.models.base import Variant, VisionModel, WeightMapping

__all__ = ["Uninitialised", "build_reference", "logits_of", "near", "parity", "quiet"]

# Of the largest |value|: what float32 sums in another order may differ by.
TOLERANCE = 1e-5
_RANDOM = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_}


class Uninitialised(TorchFunctionMode):
    """Networks built under it skip the draws of their initialisation, which for large ones take longer than a forward.

    What is drawn is 0: a truncated distribution is drawn until all of it lies within its bounds, and what happens to be
    in memory may never do. What they hold is not to be used before every weight was loaded.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Set tensors that would be drawn to 0."""
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            tensor: Tensor = args[0] if args else kwargs["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **(kwargs or {}))


def near(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """Return the largest difference, relative to the largest |expected|.

    Raises:
        CheckFailed: it is above ``tolerance``, or a value is not finite.
    """
    if not (torch.isfinite(found).all() and torch.isfinite(expected).all()):
        raise CheckFailed(f"{what}: values that are not finite")
    if found.shape != expected.shape:
        raise CheckFailed(f"{what}: shape {list(found.shape)}, expected {list(expected.shape)}")
    error = float(((found - expected).abs().max() / expected.abs().max()).detach())
    if not error <= tolerance:
        raise CheckFailed(f"{what}: differs by {error:.1e} of the largest value, {tolerance:.0e} is allowed")
    return error


def logits_of(output: Any, names: tuple[str, ...] = ("logits",)) -> dict[str, Tensor]:
    """Return what a network gave as name -> tensor: a tensor is ``logits``, a tuple is named by ``names``."""
    if isinstance(output, Tensor):
        return {"logits": output}
    if isinstance(output, Mapping):
        return dict(output)
    return {name: one for name, one in zip(names, output, strict=False) if one is not None}


def build_reference(mapping: WeightMapping) -> nn.Module:
    """Build the independent implementation.

    Raises:
        ModuleNotFoundError: its package is not installed.
    """
    module, _, name = mapping.builder.partition(":")
    builder = getattr(importlib.import_module(module), name)
    with Uninitialised():
        built: nn.Module = builder(**mapping.arguments)
    return built


def quiet(model: nn.Module) -> nn.Module:
    """Switch off, in place, what draws at random in train mode: two implementations draw in their own order."""
    for module in model.modules():
        if isinstance(module, _RANDOM):
            module.p = 0.0
        for name in ("rate", "drop_prob", "p", "drop_rate"):
            if type(module).__name__ in ("StochasticDepth", "DropPath") and hasattr(module, name):
                setattr(module, name, 0.0)
    return model


def parity(
    variant: Variant,
    random_model: Callable[[Variant], VisionModel],
    pictures: Callable[[Variant, int], Tensor],
) -> dict[str, Any] | None:
    """Compare logits, side outputs and running statistics under shared weights, then load the reference's into ours.

    Returns:
        ``reference``, ``eval`` and ``train`` (relative errors), ``tolerance``; nothing where no reference can be built.

    Raises:
        CheckFailed: a difference above the tolerance, or names that do not fit.
    """
    mapping = variant.mapping
    if mapping is None or not mapping.builder:
        return None
    if importlib.util.find_spec(mapping.builder.partition(".")[0].partition(":")[0]) is None:
        return {"reference": mapping.reference, "skipped": "not installed"}
    ours = quiet(random_model(variant))
    theirs = quiet(build_reference(mapping))
    errors: dict[str, Any] = {"reference": mapping.reference, "tolerance": mapping.tolerance}
    _load(theirs, mapping.to_reference(ours.state_dict()), mapping)
    x = pictures(variant, 2)
    with torch.no_grad():
        errors["eval"] = _compare(ours.eval(), theirs.eval(), x, mapping, "eval mode")
        errors["train"] = _compare(ours.train(), theirs.train(), x, mapping, "train mode")
        expected = theirs.state_dict()
        for name, value in mapping.to_reference(ours.state_dict()).items():
            if value.is_floating_point() and name.endswith(("running_mean", "running_var")):
                near(value, expected[name], f"train mode: {name} after one batch", max(1e-4, mapping.tolerance))
        # The other way: what the reference holds now, statistics of train mode included, loaded into a fresh network.
        with Uninitialised():
            fresh = quiet(variant.build())
        fresh.load_state_dict(mapping.from_reference(expected, fresh.state_dict()))
        _compare(fresh.eval(), theirs.eval(), x, mapping, "the reference's weights in ours")
    return errors


def _load(theirs: nn.Module, weights: dict[str, Tensor], mapping: WeightMapping) -> None:
    try:
        theirs.load_state_dict({name: value.clone() for name, value in weights.items()})
    except RuntimeError as error:
        raise CheckFailed(f"our weights do not fit {mapping.reference}: {str(error)[:600]}") from error


def _compare(ours: nn.Module, theirs: nn.Module, x: Tensor, mapping: WeightMapping, what: str) -> float:
    found = logits_of(ours(x))
    expected = logits_of(theirs(x), mapping.outputs)
    if found.keys() != expected.keys():
        raise CheckFailed(f"{what}: outputs {sorted(found)}, the reference has {sorted(expected)}")
    return max(near(found[name], expected[name], f"{what}: {name}", mapping.tolerance) for name in found)
