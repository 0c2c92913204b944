"""Find in a network what one kernel can do, and let it.

A network's code says ``relu(norm(x) + rest)`` and stays as it is: the graph of its forward pass in training is traced,
and where batch norm, an addition and ReLU follow each other, or ReLU and maximum pooling, a place of
:mod:`danlu.train.fused` stands for them. Each place is measured once on a machine, as convolutions are
(:mod:`danlu.train.convolution`). In eval mode the network runs as it is written.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from danlu.models.base import VisionModel
from danlu.train.fused import Fused, FusedNorm, FusedPool
from danlu.train.measured import Measured
from danlu.train.native import load_kernels

__all__ = ["choose_fused", "use_fused"]

_RELU = (F.relu, torch.relu, torch.relu_, F.relu_)
_ADD = (operator.add, torch.add)
_POOLING = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
# A window's place must fit into the byte that a kernel keeps of it.
_LARGEST_WINDOW = 15


def _traced(network: nn.Module) -> tuple[fx.GraphModule, dict[str, Fused]] | None:
    """Return the graph of ``network`` in training with all fused places by name; None where it cannot be had."""
    was, draws = network.training, torch.get_rng_state()
    network.train()
    network.__dict__["check_pictures"] = _unchecked
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # what cannot be traced (a draw, a branch on values) fails in ways of its own
        return None
    finally:
        del network.__dict__["check_pictures"]
        network.train(was)
    if not torch.equal(torch.get_rng_state(), draws):
        torch.set_rng_state(draws)
        return None  # what was drawn while tracing would stay the same for ever
    module = fx.GraphModule(network, graph)
    places: dict[str, Fused] = {}
    for node in list(graph.nodes):
        if node.op != "output" and node.users:
            _fuse(module, node, places)
    if not places:
        return None
    graph.eliminate_dead_code()
    module.recompile()
    return module, places


def _unchecked(x: Tensor) -> None:
    """Stand in, while a graph is traced, for the check of a size that is not known then."""


def _fuse(module: fx.GraphModule, node: fx.Node, places: dict[str, Fused]) -> None:
    """Put a fused place where ``node`` is a batch norm or a pooling."""
    called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if type(called) is nn.BatchNorm2d and called.track_running_stats:
        last, rest = node, None
        follower = _only_user(node)
        if follower is not None and _is_sum(follower, node):
            rest = next(given for given in follower.args if given is not node)
            # The other side must be known where the batch norm stands.
            last, follower = follower, _only_user(follower)
        relu = follower is not None and _is_relu(module, follower)
        last = follower if relu and follower is not None else last
        _replace(module, last, [node.args[0], *([rest] if rest is not None else [])], FusedNorm(called, relu), places)
    elif (window := _pooling(node, called)) is not None:
        (source,) = node.all_input_nodes
        relu = _is_relu(module, source) and _only_user(source) is node
        given = source.args[0] if relu else source
        _replace(module, node, [given], FusedPool(*window, relu), places)


def _replace(
    module: fx.GraphModule, node: fx.Node, given: Iterable[Any], place: Fused, places: dict[str, Fused]
) -> None:
    name = f"fused_{node.name}"
    module.add_submodule(name, place)
    with module.graph.inserting_before(node):
        new = module.graph.call_module(name, tuple(given))
    node.replace_all_uses_with(new)
    # Erased by hand: an operator that works in place is no dead code to the tracer.
    waiting = [node]
    while waiting:
        old = waiting.pop()
        if not old.users and old.op in ("call_module", "call_function", "call_method"):
            before = [one for one in old.all_input_nodes if one is not new]
            module.graph.erase_node(old)
            waiting += [one for one in before if not one.users]
    places[node.name] = place


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_sum(node: fx.Node, of: fx.Node) -> bool:
    """Return whether ``node`` adds two tensors, one of them ``of``; ``a += b`` is traced as ``a + b``."""
    sides = node.args
    if node.op != "call_function" or node.target not in _ADD or node.kwargs or len(sides) != 2:
        return False
    return of in sides and all(isinstance(side, fx.Node) for side in sides) and sides[0] is not sides[1]


def _is_relu(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) is nn.ReLU
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in _RELU


def _pooling(node: fx.Node, called: nn.Module | None) -> tuple[int, int, int] | None:
    """Return side, stride and padding of square maximum pooling; None for anything else."""
    if type(called) is nn.MaxPool2d:
        given = {name: getattr(called, name) for name in _POOLING[1:]}
    elif node.op == "call_function" and node.target is F.max_pool2d:
        given = {**dict(zip(_POOLING, node.args, strict=False)), **node.kwargs}
    else:
        return None
    given = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False, **given}
    given["stride"] = given["stride"] or given["kernel_size"]
    pairs = [given[name] for name in ("kernel_size", "stride", "padding", "dilation")]
    sides = [set(pair) if isinstance(pair, tuple | list) else {pair} for pair in pairs]
    if any(len(side) > 1 for side in sides) or given["ceil_mode"] or given["return_indices"]:
        return None
    size, stride, padding, dilation = (side.pop() for side in sides)
    return (size, stride, padding) if dilation == 1 and size <= _LARGEST_WINDOW else None


def use_fused(network: nn.Module, chosen: Iterable[str]) -> list[str]:
    """Let ``network``, in training, take our kernels at ``chosen`` places and no others; return those it could.

    The module tree, its names and its state stay as they are.
    """
    if network.__dict__.pop("fused_graph", None) is not None:
        del network.__dict__["forward"]
    wanted = set(chosen)
    if not wanted or load_kernels() is None or (found := _traced(network)) is None:
        return []
    module, places = found
    for name, place in places.items():
        place.native = name in wanted
    _run_as(network, module)
    return sorted(wanted & places.keys())


def choose_fused(network: nn.Module, forward: Callable[[], object]) -> list[str]:
    """Measure each place of ``network`` where kernels can be fused; return the names of those where it pays.

    Args:
        network: runs in ``forward``; it is changed.
        forward: one pass over a batch as training does it, in its precision.
    """
    if load_kernels() is None or (found := _traced(network)) is None:
        return []
    module, places = found
    measured = Measured("fusion")
    for place in places.values():
        place.measured = measured
    _run_as(network, module)
    forward()
    measured.keep()
    return sorted(name for name, place in places.items() if place.native and place.measured is None)


def _run_as(network: nn.Module, module: fx.GraphModule) -> None:
    # Not registered as a child: names, state and counts of the network must not change.
    network.__dict__ |= {"fused_graph": module, "forward": types.MethodType(_forward, network)}


def _forward(network: nn.Module, x: Tensor) -> Any:
    assert isinstance(network, VisionModel)
    if not network.training:
        return type(network).forward(network, x)
    network.check_pictures(x)
    return network.__dict__["fused_graph"](x)
