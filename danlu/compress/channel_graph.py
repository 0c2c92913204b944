"""Which channels of a network depend on one another, found by running it once without values.

The network runs on the meta device, in train mode (auxiliary heads are then in use) and once more for its stages, and
:mod:`danlu.compress.channel_rules` says of every operator what it does to the labels of channels. So residual sums,
concatenations, channel shuffles, gates, grouped and depthwise convolutions, flattening and attention heads need no rule
for any one architecture. What an operator without a rule touches stays whole, with the operator's name as the reason.

The idea of dependency groups is that of Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"; following each
channel's label instead of whole layers is ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from danlu.compress.channel_rules import RULES, pointwise
from danlu.compress.labels import Array, Ties, varying
from danlu.models.base import VisionModel
from danlu.models.layers import LocalResponseNorm, SameAvgPool2d, SameMaxPool2d

__all__ = ["ChannelGraph", "Layer", "trace_channels"]

# Grouped convolutions whose groups are no wider lose whole groups; others the same positions of every group.
_NARROW_GROUP = 32


@dataclass
class Layer:
    """One convolution or linear layer.

    Attributes:
        name: of the module.
        inputs: label of each input channel.
        outputs: label of each output channel.
        groups: of the convolution.
        whole_groups: whether groups leave as a whole.
        cost: multiply-adds of one picture for one pair of an input and an output channel of one group.
    """

    name: str
    inputs: Array
    outputs: Array
    groups: int = 1
    whole_groups: bool = False
    cost: float = 0.0


@dataclass
class ChannelGraph:
    """The labels of every layer, norm and parameter of a network.

    Attributes:
        ties: which labels belong together.
        layers: by module name, in the order in which they work.
        vectors: module name of a normalisation -> label of each channel.
        values: name of a parameter used outside such modules -> labels of its shape.
        stages: stage name -> label of each of its channels.
        inexact: modules whose result for what is kept depends on what is removed (a mean over channels, say).
        mixed: the labels of these channels.
        batch: pictures in the trace.
    """

    ties: Ties = field(default_factory=Ties)
    layers: dict[str, Layer] = field(default_factory=dict)
    vectors: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    stages: dict[str, Array] = field(default_factory=dict)
    inexact: set[str] = field(default_factory=set)
    mixed: set[int] = field(default_factory=set)
    batch: int = 2

    def refusals(self) -> dict[str, str]:
        """Return layer -> why none of its output channels can be removed."""
        found = {name: self.ties.reason(layer.outputs) for name, layer in self.layers.items()}
        return {name: reason for name, reason in found.items() if reason}


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped in some versions
    """Carries labels beside the tensors of one network; a :class:`danlu.compress.channel_rules.Labelled`."""

    def __init__(self, graph: ChannelGraph, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph, self.ties = graph, graph.ties
        self.stack: list[str] = []
        self.boxes: list[Array] = []
        self.names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self._labels: Any = WeakIdKeyDictionary()
        self._busy = False

    @property
    def here(self) -> str:
        """The module at work."""
        return self.stack[-1] if self.stack else ""

    def labels(self, tensor: Tensor) -> Array:
        """Return the labels of ``tensor``; those of a parameter are made when it is first asked for."""
        found = self._labels.get(tensor)
        if found is None and (name := self.names.get(id(tensor))) is not None and tensor.numel() > 1:
            found = self.ties.fresh(tensor.shape)
            if name not in self.graph.values:
                self.graph.values[name] = found
            found = self.graph.values[name]
        return np.zeros((1,) * tensor.dim(), dtype=np.int64) if found is None else found

    def put(self, tensor: Tensor, labels: Array) -> None:
        """Give ``tensor`` its labels."""
        if labels.ndim != tensor.dim():
            raise AssertionError(f"{labels.shape} for {tuple(tensor.shape)} in {self.here}")
        self._labels[tensor] = labels

    def vector(self, tensor: Tensor, axis: int, why: str) -> Array:
        """Return the labels along ``axis``, one a channel; freeze them when they depend on another axis too."""
        labels = self.labels(tensor)
        if any(one != axis % tensor.dim() for one in varying(labels)):
            self.ties.freeze(labels, f"{self.here}: {why}")
            return np.zeros(tensor.shape[axis], dtype=np.int64)
        line = labels.reshape(-1)
        return np.broadcast_to(line, (tensor.shape[axis],)).copy()

    def norm(self, tensors: tuple[Any, ...], line: Array) -> bool:
        """Note the labels of the module whose parameters ``tensors`` are; say whether there is one."""
        for tensor in tensors:
            name = self.names.get(id(tensor)) if isinstance(tensor, Tensor) else None
            if name is not None:
                self.graph.vectors[name.rpartition(".")[0]] = line
                return True
        return False

    def leave(self) -> None:
        """The module at work is done."""
        self.stack.pop()

    def cross(self, labels: Array) -> None:
        """Note that the module at work mixes the channels ``labels`` without weights of its own for each."""
        self.graph.inexact.add(self.here)
        self.graph.mixed.update(labels.reshape(-1).tolist())

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let operators pass unseen."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._busy:
            with self.resting():
                rule = RULES.get(func.overloadpacket)
                if rule is None and torch.Tag.pointwise in func.tags:
                    rule = pointwise
                if rule is None:
                    self._unknown(func, args, kwargs or {})
                else:
                    rule(self, args, kwargs or {}, output)
        return output

    def _unknown(self, func: Any, args: Any, kwargs: Any) -> None:
        for tensor in _tensors((args, kwargs)):
            self.ties.freeze(self.labels(tensor), f"{self.here}: operator {func.overloadpacket} has no rule")

    def settle(self) -> None:
        """Make what was reshaped into several axes lose whole rows of one of them, as its shape needs."""
        while True:
            before = self.ties.roots(np.arange(self.ties._count))
            for box in self.boxes:
                roots = self.ties.roots(box)
                free = [axis for axis in range(box.ndim) if (roots != roots.take([0], axis=axis)).any()]
                for axis in free[:-1]:
                    self.ties.along(box, axis)
            if np.array_equal(before, self.ties.roots(np.arange(self.ties._count))):
                return


def trace_channels(model: VisionModel, shape: tuple[int, int, int]) -> ChannelGraph:
    """Follow the channels of ``model`` through its forward on pictures of ``shape`` [C, H, W].

    Args:
        model: stays as it is; a copy without values runs.
        shape: of one picture.
    """
    twin = _on_meta(model)
    graph = ChannelGraph()
    tracer = _Tracer(graph, twin)
    pictures = torch.empty((graph.batch, *shape), device="meta")
    with _watched(twin, tracer), torch.no_grad(), tracer:
        answers = twin.train()(pictures)
        for layer in graph.layers.values():
            layer.cost = 0.0
        features = twin.eval().features(pictures)
        outputs = [answers, twin.head(features[twin.stages[-1].name])]
    for tensor in _tensors(outputs):
        graph.ties.freeze(tracer.labels(tensor), "the network's answer")
    tracer.settle()
    for name, tensor in features.items():
        graph.stages[name] = tracer.vector(tensor, 1 if tensor.dim() == 4 else -1, "a stage of several axes")
    mixed = np.fromiter(graph.mixed, dtype=np.int64, count=len(graph.mixed))
    graph.mixed = set(graph.ties.roots(mixed).tolist()) - {0}
    graph.ties.reasons.sort(key=lambda row: len(row[0]))
    return graph


def _on_meta(model: VisionModel) -> VisionModel:
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from _tensors(value)


@contextmanager
def _watched(twin: nn.Module, tracer: _Tracer) -> Iterator[None]:
    """Treat layers as one operator each, and keep on the tracer's stack whose forward is running."""
    handles: list[Any] = []
    for name, module in twin.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _m, _a, name=name: tracer.stack.append(name)))
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.forward = _layer_forward(name, module, tracer)  # type: ignore[assignment, method-assign]
        elif isinstance(module, LocalResponseNorm | nn.LocalResponseNorm):
            module.forward = _alike_forward(module.forward, tracer, mixes=True)  # type: ignore[assignment, method-assign]
        elif isinstance(module, SameAvgPool2d | SameMaxPool2d):
            module.forward = _alike_forward(module.forward, tracer, mixes=False)  # type: ignore[assignment, method-assign]
        handles.append(module.register_forward_hook(lambda _m, _a, _o: tracer.leave()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _alike_forward(forward: Callable[[Tensor], Tensor], tracer: _Tracer, *, mixes: bool) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with tracer.resting():
            output = forward(x)
        line = tracer.vector(x, 1, "channels on several axes")
        if mixes:
            tracer.cross(line)
        tracer.put(output, line.reshape(1, -1, 1, 1) if line.any() else line[:1].reshape(1, 1, 1, 1))
        return output

    return run


def _layer_forward(name: str, module: nn.Conv2d | nn.Linear, tracer: _Tracer) -> Callable[[Tensor], Tensor]:
    forward, graph = module.forward, tracer.graph
    standardised = isinstance(module, nn.Conv2d) and any(
        key not in ("weight", "bias") for key, _ in module.named_parameters(recurse=False)
    )

    def run(x: Tensor) -> Tensor:
        with tracer.resting():
            output: Tensor = forward(x)
        axis = 1 if isinstance(module, nn.Conv2d) else -1
        inputs = tracer.vector(x, axis, "channels on several axes")
        layer = graph.layers.get(name)
        if layer is None:
            layer = graph.layers[name] = Layer(name, inputs, graph.ties.fresh((output.shape[axis],)))
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                _grouped(layer, module, graph.ties)
        graph.ties.tie(layer.inputs, inputs)
        if standardised:
            tracer.cross(inputs)
        pixels = output.numel() // output.shape[0] // output.shape[axis]
        kernel = math.prod(module.kernel_size) if isinstance(module, nn.Conv2d) else 1
        layer.cost += pixels * kernel
        labels = layer.outputs.reshape([-1 if one == axis % output.dim() else 1 for one in range(output.dim())])
        tracer.put(output, labels)
        return output

    return run


def _grouped(layer: Layer, module: nn.Conv2d, ties: Ties) -> None:
    """Tie the channels of a grouped convolution so that all groups keep one size."""
    layer.groups = module.groups
    inputs, outputs = layer.inputs.reshape(module.groups, -1), layer.outputs.reshape(module.groups, -1)
    narrow = inputs.shape[1] == 1 or (math.prod(module.kernel_size) > 1 and inputs.shape[1] <= _NARROW_GROUP)
    layer.whole_groups = narrow
    if narrow:
        ties.along(inputs, 1)
        ties.along(outputs, 1)
        ties.tie(inputs[:, 0], outputs[:, 0])
    else:
        ties.along(inputs, 0)
        ties.along(outputs, 0)
