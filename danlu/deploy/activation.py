"""Class-activation maps inside an artifact: which places of the last stage speak for the most probable classes.

Where the head is average pooling and one linear layer, a class's score is the mean over all places of w · f(place),
plus a bias; the map shows w · f(place). Source: Zhou et al., "Learning Deep Features for Discriminative Localization",
2016, section 2. The graph gives the maps of a few classes alone, so they cost next to nothing. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["MAPS", "MEANING", "NODE_PREFIX", "TOP", "add_activation_maps"]

MAPS = "activation_maps"
MEANING = "share of each place of the last stage in the scores of the most probable classes, the first one first"
NODE_PREFIX = "activation."
TOP = 5
_LOGITS = "logits"
# What may stand between the pooled features and the linear layer without changing them.
_PASSING = ("Flatten", "Reshape", "Squeeze", "Identity")


def add_activation_maps(model: onnx.ModelProto, stage: str) -> bool:
    """Give ``model`` the output ``activation_maps`` [batch, min(5, K), h, w]; it is changed in place.

    Args:
        model: a graph with the output ``logits``.
        stage: the tensor of the last stage, [batch, C, h, w].

    Returns:
        whether the head is average pooling and a linear layer; else the graph stays as it is.
    """
    import onnx
    from onnx import helper

    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    weight = _weight(graph, made)
    if weight is None or _pooled(graph, made) != stage:
        return False
    classes = next(tensor.dims[0] for tensor in graph.initializer if tensor.name == weight)
    top = min(TOP, classes)

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        name = output if output == MAPS else NODE_PREFIX + output
        graph.node.append(helper.make_node(kind, inputs, [name], NODE_PREFIX + output, **attributes))

    def own(name: str) -> str:
        return NODE_PREFIX + name

    node("Constant", [], "top", value_ints=[top])
    node("TopK", [_LOGITS, own("top")], "best", axis=1)
    graph.node[-1].output.append(own("classes"))
    node("Gather", [weight, own("classes")], "rows", axis=0)  # [B, top, C]
    node("Constant", [], "flat", value_ints=[0, 0, -1])
    node("Reshape", [stage, own("flat")], "places")  # [B, C, h w]
    # Not MatMul: that is a layer of the network to whatever counts or quantises layers.
    node("Einsum", [own("rows"), own("places")], "scores", equation="btc,bcp->btp")
    node("Constant", [], "front", value_ints=[0, 0])
    node("Shape", [stage], "plane", start=2, end=4)
    node("Concat", [own("front"), own("plane")], "shape", axis=0)
    node("Reshape", [own("scores"), own("shape")], MAPS)
    shape = ["batch", top, "map_height", "map_width"]
    graph.output.append(helper.make_tensor_value_info(MAPS, onnx.TensorProto.FLOAT, shape))
    return True


def _weight(graph: onnx.GraphProto, made: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return the initialiser [K, C] of the linear layer that gives the logits."""
    last = made.get(_LOGITS)
    if last is None or last.op_type != "Gemm":
        return None
    attributes = {attribute.name: attribute for attribute in last.attribute}
    plain = all(name not in attributes or attributes[name].f == 1 for name in ("alpha", "beta"))
    across = "transB" in attributes and attributes["transB"].i == 1
    upright = "transA" not in attributes or attributes["transA"].i == 0
    stored = last.input[1] in {tensor.name for tensor in graph.initializer}
    return last.input[1] if plain and across and upright and stored else None


def _pooled(graph: onnx.GraphProto, made: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return the tensor whose mean over height and width feeds the linear layer."""
    node = made.get(made[_LOGITS].input[0])
    while node is not None and node.op_type in _PASSING:
        node = made.get(node.input[0])
    if node is not None and node.op_type == "GlobalAveragePool":
        return str(node.input[0])
    if node is None or node.op_type != "ReduceMean" or len(node.input) < 2:
        return None
    from onnx import numpy_helper

    axes = next((numpy_helper.to_array(t).tolist() for t in graph.initializer if t.name == node.input[1]), None)
    return str(node.input[0]) if axes is not None and {axis % 4 for axis in axes} == {2, 3} else None
