"""Which channels go: how much each class of tied channels matters, and how many may leave to reach a target.

Scores: ``l2`` and ``l1`` add the squares (magnitudes) of all weights that make or read the channels of a class (Li et
al. 2017, "Pruning Filters for Efficient ConvNets"; over dependency groups as in Fang et al. 2023); ``bn`` is the mean
|scale| of their batch norms (Liu et al. 2017, "Network Slimming"); ``taylor`` is |Σ weight · gradient| (Molchanov et
al. 2019, "Importance Estimation for Neural Network Pruning", equation 8 summed over a channel).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from danlu.compress.channel_graph import ChannelGraph, Layer
from danlu.compress.edits import Edit
from danlu.compress.labels import Array
from danlu.core.errors import InputError

__all__ = ["Criterion", "Family", "choose", "edits_of", "families", "layer_macs", "scores", "silence"]

Criterion = Literal["l2", "l1", "bn", "taylor", "random"]
Floats = NDArray[np.float64]
# Own code of these modules reads a width that follows from the inputs of one of their layers.
_WIDTHS = {"Res2NetBlock": ("width", "convs.0"), "Res2NetFirstBlock": ("width", "convs.0")}


def scores(
    model: nn.Module,
    graph: ChannelGraph,
    criterion: Criterion = "l2",
    gradients: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> dict[int, float]:
    """Return root label -> how much the channels of its class matter.

    Args:
        model: whose weights are read.
        graph: of :func:`danlu.compress.channel_graph.trace_channels`.
        criterion: see the module.
        gradients: name of a parameter -> gradient of the loss; for ``taylor``.
        seed: for ``random``.

    Raises:
        InputError: ``bn`` for a network in which some channels have no batch norm.
    """
    modules, roots = dict(model.named_modules()), graph.ties.roots
    total: dict[int, float] = {}
    count: dict[int, float] = {}

    def add(labels: Array, values: Tensor) -> None:
        for root, value in zip(roots(labels).tolist(), values.double().cpu().tolist(), strict=True):
            if root:
                total[root] = total.get(root, 0.0) + value
                count[root] = count.get(root, 0.0) + 1

    def importance(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if criterion == "taylor":
            assert gradients is not None
            return tensor * gradients[name].to(tensor.device) if name in gradients else torch.zeros_like(tensor)
        return tensor.abs() if criterion in ("l1", "bn") else tensor.square()

    for name, layer in graph.layers.items():
        if criterion != "bn":
            weight = importance(f"{name}.weight", modules[name].weight)
            rest = tuple(range(2, weight.dim()))
            add(layer.outputs, weight.sum(dim=(1, *rest)))
            add(
                layer.inputs,
                weight.reshape(layer.groups, -1, *weight.shape[1:]).sum(dim=(1, *(d + 1 for d in rest))).flatten(),
            )
    for name, line in graph.vectors.items():
        scale = getattr(modules[name], "weight", None)
        if isinstance(scale, Tensor) and (criterion != "bn" or isinstance(modules[name], nn.BatchNorm2d)):
            add(line, importance(f"{name}.weight", scale))
    wanted = {one for family in families(graph) for one in family.classes}
    if missing := wanted - total.keys():
        where = next(name for name, layer in graph.layers.items() if set(roots(layer.outputs).tolist()) & missing)
        raise InputError(f"{where}: its channels have no batch norm", where="criterion bn", mend="use criterion l2")
    if criterion == "random":
        draws = np.random.default_rng(seed).random(len(total))
        return dict(zip(total, draws.tolist(), strict=True))
    if criterion == "bn":
        return {root: value / count[root] for root, value in total.items()}
    return {root: abs(value) for root, value in total.items()}


@dataclass(frozen=True)
class Family:
    """Classes of channels that share layers; a layer's width is the number of its family's classes times ``width``.

    Attributes:
        name: of the first layer that makes them.
        classes: root labels.
        width: channels of that layer a class.
    """

    name: str
    classes: tuple[int, ...]
    width: int


def families(graph: ChannelGraph) -> list[Family]:
    """Return the families of classes that may lose members, in the network's order."""
    found: dict[str, set[int]] = {}
    home: dict[int, str] = {}
    for name, layer in graph.layers.items():
        classes = set(graph.ties.roots(layer.outputs).tolist()) - {0}
        joined = {home[one] for one in classes if one in home}
        first = min(joined, key=list(found).index) if joined else name
        merged = classes.union(*(found[one] for one in joined))
        for one in joined - {first}:
            del found[one]
        if merged:
            found[first] = merged
            home.update(dict.fromkeys(merged, first))
    made = []
    for name, classes in found.items():
        free = int((graph.ties.roots(graph.layers[name].outputs) != 0).sum())
        inside = len(set(graph.ties.roots(graph.layers[name].outputs).tolist()) - {0})
        made.append(Family(name, tuple(sorted(classes)), max(1, free // max(inside, 1))))
    return made


def layer_macs(graph: ChannelGraph, removed: set[int]) -> dict[str, float]:
    """Return layer -> multiply-adds of one picture when the classes ``removed`` are gone."""
    gone = np.fromiter(removed, dtype=np.int64, count=len(removed))
    found = {}
    for name, layer in graph.layers.items():
        inputs = int((~np.isin(graph.ties.roots(layer.inputs), gone)).sum())
        outputs = int((~np.isin(graph.ties.roots(layer.outputs), gone)).sum())
        found[name] = layer.cost * outputs * _per_group(layer, inputs)
    return found


def _per_group(layer: Layer, inputs: int) -> float:
    return len(layer.inputs) / layer.groups if layer.whole_groups else inputs / layer.groups


def choose(
    graph: ChannelGraph,
    score: Mapping[int, float],
    *,
    macs: float,
    rest: float = 0.0,
    scope: Literal["global", "layer"] = "global",
    multiple: int = 1,
    least: float = 0.1,
    reach: bool = True,
) -> set[int]:
    """Return the root labels to remove, the least important first, until at most ``macs`` of the work is left.

    Args:
        graph: of the network.
        score: root label -> how much it matters.
        macs: share of all multiply-adds that is kept, in (0, 1].
        rest: multiply-adds outside the layers (of an attention), which are taken to stay.
        scope: ``layer``: the same share of every family; ``global``: one threshold for scores, each divided by the mean
            of its family.
        multiple: widths are rounded to multiples of it where they are not smaller.
        least: share of every layer's channels that stays.
        reach: refuse a target that cannot be reached; otherwise go as far as possible.

    Raises:
        InputError: the target cannot be reached; the message says how far it goes.
    """
    groups = families(graph)
    ranked = {one: sorted(one.classes, key=lambda c: (score[c], c)) for one in groups}
    relative = {
        one: [score[c] / (sum(score[x] for x in row) / len(row) or 1.0) for c in row] for one, row in ranked.items()
    }
    dense = sum(layer_macs(graph, set()).values()) + rest
    stays = _protected(graph, score, least)
    everything = np.sort(np.concatenate([relative[one] for one in groups])) if groups else np.zeros(0)

    def removed_at(level: float) -> set[int]:
        gone: set[int] = set()
        limit = everything[min(int(level * len(everything)), len(everything) - 1)] if len(everything) else 0.0
        for one, row in ranked.items():
            lost = level * len(row) if scope == "layer" else sum(value < limit for value in relative[one])
            gone.update(row[: len(row) - _kept(one, len(row) - int(lost), multiple, least)])
        gone -= stays
        return gone

    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if sum(layer_macs(graph, removed_at(middle)).values()) + rest <= macs * dense:
            high = middle
        else:
            low = middle
    found = removed_at(high)
    left = (sum(layer_macs(graph, found).values()) + rest) / dense
    if reach and left > macs:
        raise _out_of_reach(graph, macs, left, least)
    return found


def _out_of_reach(graph: ChannelGraph, macs: float, left: float, least: float) -> InputError:
    refusals = [f"{name}: {why}" for name, why in list(graph.refusals().items())[:3]]
    return InputError(
        f"macs = {macs:g} cannot be reached: {left:.3f} of the work is left when every layer keeps {least:g} of its "
        f"channels; not pruned are {'; '.join(refusals)}",
        where="prune-channels",
        mend=f"ask for macs={left + 0.005:.2f} or more, or a smaller least",
    )


def _protected(graph: ChannelGraph, score: Mapping[int, float], least: float) -> set[int]:
    """Return the classes without which a layer would keep less than its share: a family may hold several layers."""
    stays: set[int] = set()
    for layer in graph.layers.values():
        classes = sorted(set(graph.ties.roots(layer.outputs).tolist()) - {0}, key=lambda one: (score[one], one))
        if classes:
            stays.update(classes[-max(1, int(np.ceil(least * len(classes)))) :])
    return stays


def _kept(family: Family, kept: int, multiple: int, least: float) -> int:
    """Return how many classes a family keeps: at least its share, rounded to whole multiples of channels."""
    whole = len(family.classes)
    kept = max(kept, int(np.ceil(least * whole)), 1)
    step = multiple // gcd(multiple, family.width)
    if step > 1 and whole >= step:
        kept = max(step, int(kept / step + 0.5) * step)
    return min(kept, whole)


def edits_of(model: nn.Module, graph: ChannelGraph, removed: set[int]) -> tuple[Edit, ...]:
    """Return what removing the classes ``removed`` changes in the network, as edits."""
    gone = np.fromiter(removed, dtype=np.int64, count=len(removed))
    sets: list[list[int]] = []

    def place(keep: NDArray[np.bool_]) -> int | None:
        if keep.all():
            return None
        numbers = np.flatnonzero(keep).tolist()
        if numbers not in sets:
            sets.append(numbers)
        return sets.index(numbers)

    def keeps(labels: Array) -> NDArray[np.bool_]:
        return ~np.isin(graph.ties.roots(labels), gone)

    modules: dict[str, list[int | None]] = {}
    for name, layer in graph.layers.items():
        inputs = keeps(layer.inputs)
        groups: int | None = None
        if layer.groups > 1 and layer.whole_groups:
            groups = int(inputs.reshape(layer.groups, -1)[:, 0].sum())
            inputs = np.ones(1, dtype=bool)
        elif layer.groups > 1:
            inputs = inputs.reshape(layer.groups, -1)[0]
        modules[name] = [place(inputs), place(keeps(layer.outputs)), groups]
    for name, line in graph.vectors.items():
        modules[name] = [None, place(keeps(line)), None]
    modules = {name: row for name, row in modules.items() if row[:2] != [None, None]}
    values: dict[str, dict[str, int]] = {}
    for name, labels in graph.values.items():
        for axis, kept in _lines(keeps(labels)).items():
            if (number := place(kept)) is not None:
                values.setdefault(name, {})[str(axis)] = number
    stages = {name: int(keeps(line).sum()) for name, line in graph.stages.items() if not keeps(line).all()}
    arguments = {
        "sets": sets,
        "modules": modules,
        "values": values,
        "numbers": _numbers(model, graph, keeps),
        "stages": stages,
    }
    made = [
        Edit("keep_channels", {key: value for key, value in arguments.items() if value or key in ("sets", "modules")})
    ]
    heads = _heads(model, graph, keeps)
    return (*made, *([Edit("keep_heads", {"heads": heads})] if heads else []))


@torch.no_grad()
def silence(model: nn.Module, graph: ChannelGraph, removed: set[int]) -> None:
    """Set to zero, in place, every weight that reads a channel of the classes ``removed``.

    The network then computes what it computes without these channels, bit for bit but for the order of sums, unless a
    class is among ``graph.mixed``: this is what pruning is proved against.
    """
    gone, modules = np.fromiter(removed, dtype=np.int64, count=len(removed)), dict(model.named_modules())
    for name, layer in graph.layers.items():
        if not layer.whole_groups:
            dead = np.isin(graph.ties.roots(layer.inputs), gone).reshape(layer.groups, -1)[0]
            modules[name].weight[:, torch.from_numpy(dead)] = 0.0


def _lines(keep: NDArray[np.bool_]) -> dict[int, NDArray[np.bool_]]:
    """Return axis -> what is kept along it, of a box of kept values."""
    lines: dict[int, NDArray[np.bool_]] = {}
    for axis in range(keep.ndim):
        lines[axis] = np.asarray(keep.any(axis=tuple(i for i in range(keep.ndim) if i != axis)))
    box = np.ones((1,) * keep.ndim, dtype=bool)
    for axis, line in lines.items():
        box = box & line.reshape([-1 if i == axis else 1 for i in range(keep.ndim)])
    assert np.array_equal(np.broadcast_to(box, keep.shape), keep), "what is kept of a parameter is no box"
    return {axis: line for axis, line in lines.items() if not line.all()}


def _numbers(model: nn.Module, graph: ChannelGraph, keeps: Any) -> dict[str, int]:
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__ in _WIDTHS:
            attribute, layer = _WIDTHS[type(module).__name__]
            kept = int(keeps(graph.layers[f"{name}.{layer}"].inputs).sum())
            if kept != getattr(module, attribute):
                found[f"{name}.{attribute}"] = kept
    return found


def _heads(model: nn.Module, graph: ChannelGraph, keeps: Any) -> dict[str, list[int]]:
    """Return attention -> [heads, size] where heads or the width of the tokens changed."""
    found = {}
    for name, module in model.named_modules():
        heads = getattr(module, "heads", None)
        if isinstance(heads, int) and f"{name}.project" in graph.layers and f"{name}.qkv" in graph.layers:
            inputs = graph.layers[f"{name}.project"].inputs
            size = len(inputs) // heads
            kept = int(keeps(inputs).sum()) // size
            if kept != heads or not keeps(graph.layers[f"{name}.qkv"].inputs).all():
                found[name] = [kept, size]
    return found
