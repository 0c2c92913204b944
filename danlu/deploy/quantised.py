"""Export of a network that was trained to be rounded: its integers and steps go into the graph as QuantizeLinear pairs.

Weights are int8 integers with their steps, also where they use 4 or 2 bits of them; inputs are rounded where the
network rounds them, and clipped before where they have fewer than 8 bits. ONNX Runtime runs a layer in integers where
what follows rounds its output to 8 bits too; ``executed`` in the record says what one prediction really ran.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from danlu.compress.edits.quantise import Quantised, plain, quantised_layers
from danlu.core.errors import CheckFailed
from danlu.tasks.trained import Trained

if TYPE_CHECKING:
    import onnx

__all__ = ["Rounding", "roundings", "with_roundings", "without_rounding"]


@dataclass(frozen=True)
class Rounding:
    """How one layer rounds.

    Attributes:
        weight: float32, as the layer multiplies with it: integers times steps.
        integers: int16, in its shape.
        steps: float32 [C], of the first dimension.
        bits: of the weight.
        input_bits: of the input.
        input_step: of the input.
        input_zero: the integer that stands for 0.
    """

    weight: NDArray[np.float32]
    integers: NDArray[np.int16]
    steps: NDArray[np.float32]
    bits: int
    input_bits: int
    input_step: float
    input_zero: int


def roundings(model: nn.Module) -> dict[str, Rounding]:
    """Return how each quantised layer of ``model`` rounds, by its name; empty for a float network."""
    return {name: _rounding(layer) for name, layer in quantised_layers(model)}


def _rounding(layer: Quantised) -> Rounding:
    return Rounding(
        weight=layer.weight.detach().cpu().numpy(),
        integers=layer.integers.cpu().numpy(),
        steps=layer.steps.cpu().numpy(),
        bits=layer.weight_bits,
        input_bits=layer.input_bits,
        input_step=layer.input_step.item(),
        input_zero=int(layer.input_zero.item()),
    )


def without_rounding(trained: Trained) -> Trained:
    """Return the network with the rounded weights as float32 and no rounding of inputs; the original stays."""
    model = copy.deepcopy(trained.model)
    for _, layer in list(quantised_layers(model)):
        plain(cast(nn.Module, layer))
    return replace(trained, model=model)


def with_roundings(model: onnx.ModelProto, layers: dict[str, Rounding]) -> onnx.ModelProto:
    """Return the graph of :func:`without_rounding` with integers for weights and rounded inputs.

    Raises:
        CheckFailed: a layer's weight is not found in the graph.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    tensors = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    added: dict[str, list[onnx.NodeProto]] = {}
    for name, rounding in layers.items():
        stored, axis = _find(values, name, rounding)
        reader = next(node for node in graph.node if stored in node.input)
        added.setdefault(reader.name, []).append(_weight(graph, stored, axis, rounding))
        graph.initializer.remove(tensors.pop(stored))
        del values[stored]
        while reader.op_type == "Transpose":
            reader = next(node for node in graph.node if reader.output[0] in node.input)
        added.setdefault(reader.name, []).extend(_input(graph, reader, name, rounding))
        if rounding.bits == rounding.input_bits == 8 and len(reader.input) > 2 and reader.input[2] in values:
            added[reader.name].append(_bias(graph, reader, values[reader.input[2]], rounding))
    nodes = [one for node in graph.node for one in (*added.get(node.name, ()), node)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return result


def _find(values: dict[str, Any], name: str, rounding: Rounding) -> tuple[str, int]:
    """Return the initialiser that holds the layer's weight, and the dimension its steps belong to there."""
    wanted = rounding.weight
    for stored in (f"{name}.weight", *values):
        value = values.get(stored)
        if value is None:
            continue
        if value.shape == wanted.shape and np.array_equal(value, wanted):
            return stored, 0
        if wanted.ndim == 2 and value.shape == wanted.T.shape and np.array_equal(value, wanted.T):
            return stored, 1
    raise CheckFailed(f"the weight of {name} is not in the ONNX graph as it was trained")


def _store(graph: onnx.GraphProto, name: str, value: Any) -> str:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _weight(graph: onnx.GraphProto, stored: str, axis: int, rounding: Rounding) -> onnx.NodeProto:
    import onnx

    # A step below zero comes from a norm with a negative scale; ONNX wants it above, with the integers turned round.
    sign = np.where(rounding.steps < 0, -1, 1).astype(np.int16)
    integers = (rounding.integers * sign.reshape(-1, *[1] * (rounding.integers.ndim - 1))).astype(np.int8)
    inputs = [
        _store(graph, f"{stored}.integers", integers if axis == 0 else integers.T),
        _store(graph, f"{stored}.steps", np.maximum(np.abs(rounding.steps), np.finfo(np.float32).tiny)),
        _store(graph, f"{stored}.zeros", np.zeros(len(rounding.steps), dtype=np.int8)),
    ]
    return onnx.helper.make_node("DequantizeLinear", inputs, [stored], name=f"{stored}.dequantize", axis=axis)


def _input(graph: onnx.GraphProto, reader: onnx.NodeProto, name: str, rounding: Rounding) -> list[onnx.NodeProto]:
    """Return the nodes that round what ``reader`` reads, and let it read their output."""
    import onnx

    nodes, source = [], reader.input[0]
    step = np.float32(rounding.input_step)
    if rounding.input_bits < 8:
        ends = [(0 - rounding.input_zero) * step, (2**rounding.input_bits - 1 - rounding.input_zero) * step]
        limits = [
            _store(graph, f"{name}.input_{end}", np.float32(v)) for end, v in zip(("min", "max"), ends, strict=True)
        ]
        nodes.append(onnx.helper.make_node("Clip", [source, *limits], [f"{name}.clipped"], name=f"{name}.clip"))
        source = f"{name}.clipped"
    parameters = [
        _store(graph, f"{name}.input_step", step),
        _store(graph, f"{name}.input_zero", np.uint8(rounding.input_zero)),
    ]
    integers, rounded = f"{name}.integers", f"{name}.rounded"
    nodes.append(
        onnx.helper.make_node("QuantizeLinear", [source, *parameters], [integers], name=f"{name}.quantize_input")
    )
    nodes.append(
        onnx.helper.make_node("DequantizeLinear", [integers, *parameters], [rounded], name=f"{name}.dequantize_input")
    )
    reader.input[0] = rounded
    return nodes


def _bias(graph: onnx.GraphProto, reader: onnx.NodeProto, value: Any, rounding: Rounding) -> onnx.NodeProto:
    """Return the node that makes the bias of int32 integers, which is how integer kernels add it."""
    import onnx

    scale = np.maximum(np.abs(rounding.steps) * np.float32(rounding.input_step), np.float32(1e-12))
    integers = np.clip(np.round(value / scale), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    stem = reader.input[2]
    inputs = [
        _store(graph, f"{stem}.integers", integers),
        _store(graph, f"{stem}.steps", scale),
        _store(graph, f"{stem}.zeros", np.zeros(len(scale), dtype=np.int32)),
    ]
    reader.input[2] = f"{stem}.rounded"
    return onnx.helper.make_node("DequantizeLinear", inputs, [reader.input[2]], name=f"{stem}.dequantize", axis=0)
