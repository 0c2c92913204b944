"""Layers that stay in float get inputs that were never rounded, though the layer before them is quantised.

ONNX Runtime's tool rounds the output of every quantised layer, also where only a float layer reads it: the layer that
hurts would then go on hurting through its input.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["unround_inputs"]

# What moves, chooses or averages values and may read them unrounded as well.
_PASSING = ("MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "Reshape", "Flatten", "Transpose", "Pad")


def unround_inputs(before: onnx.ModelProto, after: onnx.ModelProto, keep_float: Iterable[str]) -> None:
    """Let the layers ``keep_float`` of the quantised graph ``after`` read unrounded values; ``after`` is changed.

    Args:
        before: the float graph; a ReLU that the tool folded into a range is put back from it.
        after: the quantised graph, whose nodes have the same names.
        keep_float: names of nodes.
    """
    nodes = {node.name: node for node in after.graph.node}
    made = {name: node for node in after.graph.node for name in node.output}
    # The tool drops a ReLU whose clipping the rounding does as well, and gives its output's name to the layer before.
    folded = {n.output[0]: n for n in before.graph.node if n.op_type in ("Relu", "Clip") and n.name not in nodes}
    added: list[onnx.NodeProto] = []
    for name in keep_float:
        reader = nodes[name]
        while True:
            source = _unrounded(made, reader.input[0])
            if source is not None:
                if source in folded:
                    relu = folded.pop(source)
                    made[source].output[0] = relu.input[0]
                    made[relu.input[0]], made[source] = made[source], relu
                    added.append(relu)
                reader.input[0] = source
            producer = made.get(reader.input[0])
            if producer is None or producer.op_type not in _PASSING or producer in added:
                break
            reader = producer
    _rebuild(after, added)


def _unrounded(made: dict[str, onnx.NodeProto], name: str) -> str | None:
    """Return the tensor that ``name`` is the rounded form of, if it is one."""
    dequantise = made.get(name)
    if dequantise is None or dequantise.op_type != "DequantizeLinear":
        return None
    quantise = made.get(dequantise.input[0])
    return quantise.input[0] if quantise is not None and quantise.op_type == "QuantizeLinear" else None


def _rebuild(model: onnx.ModelProto, added: list[onnx.NodeProto]) -> None:
    """Put ``added`` behind what they read, and drop roundings that nobody reads any more."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        nodes.extend(more for more in added if more.input[0] in node.output)
    outputs = {value.name for value in model.graph.output}
    while True:
        read = {name for node in nodes for name in node.input} | outputs
        kept = [
            node
            for node in nodes
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or any(name in read for name in node.output)
        ]
        if len(kept) == len(nodes):
            break
        nodes = kept
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    read = {name for node in copies for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
