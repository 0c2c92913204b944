"""Rows that need no data: counts, stage shapes and receptive fields of a network, found without training it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from danlu.core.errors import InputError
from danlu.papers.rows import Row

if TYPE_CHECKING:
    from danlu.models.base import Variant, VisionModel

__all__ = ["agrees", "analyze_row", "receptive_field"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def agrees(published: str | float, found: int | str) -> bool:
    """Return whether a count has the published digits (``"25,557,032"``, ``"25.6 M"``), or a text is the published one.

    Half a unit of the last published digit is allowed below and a whole one above: some papers round, some cut.

    Raises:
        InputError: the published text is no such number.
    """
    if isinstance(found, str):
        return found == published
    text = f"{published:.0f}" if isinstance(published, float) else published
    match = re.fullmatch(r"([\d,]+)(\.\d+)?(?: ([KMG]))?", text)
    if not match:
        raise InputError(f"published count {text!r}", allowed=["25,557,032", "25.6 M", "4.09 G"])
    whole, fraction, unit = match[1].replace(",", ""), match[2] or "", match[3] or ""
    if not unit:
        return found == int(whole)
    digit = _UNITS[unit] / 10.0 ** max(len(fraction) - 1, 0)
    value = float(whole + fraction) * _UNITS[unit]
    return -digit / 2 <= found - value < digit


def analyze_row(row: Row) -> int | str:
    """Return what an analytic row asks for: a count, or a text of shapes.

    Raises:
        InputError: an unknown network.
    """
    from danlu.models import MODELS

    return _KINDS[row.metric](MODELS.get(str(row.model)), row)


def _parameters(variant: Variant, row: Row) -> int:
    return sum(parameter.numel() for parameter in _on_meta(variant.name).parameters())


def _macs(variant: Variant, row: Row) -> int:
    from danlu.analyze.counting import count

    side = row.arguments.get("side")
    shape = (variant.input[0], side, side) if side else variant.input
    return count(_on_meta(variant.name), (1, *shape)).macs


def _stages(variant: Variant, row: Row) -> str:
    """Return C×H×W of the stages asked for, in the order of the network."""
    from danlu.analyze.counting import stage_shapes

    shapes = stage_shapes(_on_meta(variant.name), (1, *variant.input))
    asked = row.arguments.get("stages", list(shapes))
    return ", ".join("×".join(str(size) for size in shapes[name][1:]) for name in asked)


def _field(variant: Variant, row: Row) -> int:
    return receptive_field(variant.build(), str(row.arguments["stage"]), int(row.arguments["side"]))


@lru_cache(maxsize=2)  # the rows of one network follow one another
def _on_meta(name: str) -> VisionModel:
    import torch

    from danlu.models import create_model

    with torch.device("meta"):
        return create_model(name)


def receptive_field(model: VisionModel, stage: str, side: int) -> int:
    """Return how many pixels in a row one unit of a stage's output sees.

    All weights are set to the same positive value and maxima become means, so that every pixel a unit can see has a
    gradient, and no other one has.

    Args:
        model: a network of convolutions, pooling, ReLU and normalisation; its weights are lost.
        stage: whose unit in the middle is taken.
        side: height and width of the picture in pixels; larger than what is to be found.

    Raises:
        InputError: the unit sees to the picture's edge.
    """
    import torch
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode

    class Means(TorchFunctionMode):
        """Pools by the mean wherever the network pools by the maximum."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") == "max_pool2d":
                window = {key: (kwargs or {})[key] for key in ("stride", "padding", "ceil_mode")}
                return F.avg_pool2d(args[0], args[1], **window)
            return func(*args, **(kwargs or {}))

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 / max(parameter[0].numel(), 1) if parameter.dim() > 1 else 1.0)
    pictures = torch.ones(1, model.in_channels, side, side, requires_grad=True)
    with Means():
        out = model.eval().features(pictures)[stage]
    middle = out.shape[-1] // 2
    (gradient,) = torch.autograd.grad(out[0, :, middle, middle].sum(), pictures)
    seen = gradient[0].abs().amax(dim=(0, 1)).nonzero().flatten()
    if int(seen[0]) == 0 or int(seen[-1]) == side - 1:
        raise InputError(f"a unit of {stage} sees more than {side} pixels", mend="give a larger side")
    return int(seen[-1] - seen[0]) + 1


_KINDS: dict[str, Callable[[Variant, Row], int | str]] = {
    "parameters": _parameters,
    "multiply-adds": _macs,
    "stage shapes": _stages,
    "receptive field": _field,
}
