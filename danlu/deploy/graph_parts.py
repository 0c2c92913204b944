"""Parts of an artifact's graph, cut out to be asked alone: the network, the fitting, what leads to a tensor.

Torch-free. Functions return new graphs and leave what they are given as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from danlu.deploy.artifact import INPUT
from danlu.deploy.graph import FRONT, replace_names

if TYPE_CHECKING:
    import onnx

__all__ = [
    "fitting_steps",
    "floats_first",
    "needed_nodes",
    "network_only",
    "with_outputs",
    "without_fitting",
]


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return ``model`` with exactly the float32 tensors ``names`` as its outputs."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    for name in names:
        changed.graph.output.append(onnx.ValueInfoProto(name=name))
        changed.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return changed


def network_only(model: onnx.ModelProto, first: str, last: str, shape: Sequence[int]) -> onnx.ModelProto:
    """Return what leads from the float32 tensor ``first`` [batch, *shape] to the float32 tensor ``last``, alone.

    Raises:
        ValueError: ``last`` does not come from ``first``.
    """
    import onnx

    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    waiting, reached = [last], False
    while waiting:
        name = waiting.pop()
        if name == first:
            reached = True
        elif name and name not in needed:
            needed.add(name)
            waiting += producer[name].input if name in producer else []
    if not reached:
        raise ValueError(f"{last} does not come from {first}")
    cut = with_outputs(model, [last])
    del cut.graph.input[:], cut.graph.node[:], cut.graph.initializer[:], cut.metadata_props[:]
    sides: list[str | int | None] = ["batch", *shape]
    given = onnx.helper.make_tensor_value_info(first, onnx.TensorProto.FLOAT, sides)
    cut.graph.input.append(given)
    cut.graph.node.extend(node for node in graph.node if needed.intersection(node.output))
    cut.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    return cut


def without_fitting(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an artifact's graph without :func:`fitting`: pictures must have its size, [batch, h, w, C] uint8.

    For runtimes that cannot run the branch and the resize in it; :func:`danlu.data.decode.fit` does the same outside.
    A graph that has no such front is returned as it is.
    """
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    front = [node for node in changed.graph.node if node.name.startswith(FRONT)]
    if not front:
        return changed
    last = front[-1]
    shape = next(
        list(onnx.numpy_helper.to_array(attribute.t)) if attribute.HasField("t") else list(attribute.ints)
        for node in front
        if last.input[1] in node.output
        for attribute in node.attribute
    )
    nodes = [node for node in changed.graph.node if not node.name.startswith(FRONT)]
    for node in nodes:
        replace_names(node, {last.output[0]: INPUT})
    del changed.graph.node[:], changed.graph.input[:]
    changed.graph.node.extend(nodes)
    sides: list[str | int | None] = ["batch", *(int(side) for side in shape[1:])]
    changed.graph.input.append(onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, sides))
    return changed


def floats_first(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the graph from where pixels are floats [1, C, h, w] in 0…255, with the tensors ``outputs`` as its outputs.

    For runtimes without bytes and batches. The layout and the type are changed outside, by a transposed copy.

    Raises:
        ValueError: the graph does not begin with a transposition and a conversion to float32.
    """
    import onnx

    changed = with_outputs(without_fitting(model), outputs)
    graph = changed.graph
    transpose = next((node for node in graph.node if INPUT in node.input), None)
    cast = next((node for node in graph.node if transpose is not None and transpose.output[0] in node.input), None)
    if transpose is None or cast is None or {transpose.op_type, cast.op_type} != {"Transpose", "Cast"}:
        raise ValueError("the graph does not begin with a transposition and a conversion to float32")
    sides = [entry.dim_value for entry in graph.input[0].type.tensor_type.shape.dim]
    nodes = needed_nodes(graph.node, outputs, [cast.output[0]])
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.input[:], graph.initializer[:], changed.metadata_props[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    shape = [1, sides[3], sides[1], sides[2]]
    graph.input.append(onnx.helper.make_tensor_value_info(cast.output[0], onnx.TensorProto.FLOAT, shape))
    return changed


def fitting_steps(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto] | None:
    """Return the resize and the crop of an artifact's graph as two graphs of their own, or None where it has none.

    The first maps uint8 ``pictures`` [B, H, W, C] of another size to the resized ones, the second those to the crop.
    """
    import onnx

    front = [node for node in model.graph.node if node.name.startswith(FRONT)]
    branches = [a.g for node in front if node.op_type == "If" for a in node.attribute if a.name == "else_branch"]
    resize = next((node for branch in branches for node in branch.node if node.op_type == "Resize"), None)
    if resize is None:
        return None
    (branch,) = branches
    resized, cover, cropped = resize.output[0], resize.input[3], branch.output[0].name
    nodes = [node for node in front if node.op_type != "If"] + list(branch.node)
    # Alone, the crop reads the size it crops from off the picture it is given.
    seen = onnx.helper.make_node("Shape", [resized], [cover], start=1, end=3)
    found = []
    for given, wanted, more in ((INPUT, resized, []), (resized, cropped, [seen])):
        step = onnx.ModelProto(ir_version=model.ir_version)
        step.opset_import.extend(model.opset_import)
        step.graph.name = "step"
        step.graph.node.extend([*more, *needed_nodes(nodes, [wanted], {given, *(cover for _ in more)})])
        shape: list[str | int | None] = ["batch", "height", "width", _channels_of(model)]
        step.graph.input.append(onnx.helper.make_tensor_value_info(given, onnx.TensorProto.UINT8, shape))
        step.graph.output.append(onnx.helper.make_tensor_value_info(wanted, onnx.TensorProto.UINT8, shape))
        found.append(step)
    return found[0], found[1]


def _channels_of(model: onnx.ModelProto) -> int:
    return int(model.graph.input[0].type.tensor_type.shape.dim[3].dim_value)


def needed_nodes(
    nodes: Sequence[onnx.NodeProto],
    wanted: Iterable[str],
    given: Iterable[str] = (),
    skip: Collection[str] = (),
) -> list[onnx.NodeProto]:
    """Return those of ``nodes`` that compute the tensors ``wanted`` from the tensors ``given``, in their order.

    Of operators named in ``skip`` only the first input is followed.
    """
    stop, needed, kept = set(given), set(wanted), []
    for node in reversed(nodes):
        if (set(node.output) & needed) - stop:
            kept.append(node)
            inputs = node.input[:1] if node.op_type in skip else node.input
            needed |= {name for name in inputs if name not in stop}
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    needed |= {name for inner in attribute.g.node for name in inner.input if name not in stop}
    return kept[::-1]
