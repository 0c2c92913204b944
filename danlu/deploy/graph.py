"""Surgery on ONNX graphs: fitting pictures of any size in front, stable names, nothing of this machine inside.

Torch-free. Graphs are ``onnx.ModelProto``; functions return new ones and leave what they are given as it is, except
where they say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from danlu.deploy.artifact import INPUT, ArtifactInfo

if TYPE_CHECKING:
    import onnx

__all__ = [
    "IR_VERSION",
    "OPSET",
    "add_fitting",
    "cleaned",
    "describe",
    "fitting",
    "fitting_steps",
    "floats_first",
    "needed_nodes",
    "network_only",
    "with_outputs",
    "without_fitting",
]

OPSET = 18  # the first whose Resize can be antialiased
IR_VERSION = 10
_FRONT = "fit."  # what the names of the fitting's nodes and tensors begin with

# The arithmetic of danlu.data.decode.fit, on [height, width] pairs in whole numbers. ONNX's `exclude_outside` is what
# Pillow does at the border: weights outside the picture are dropped and the rest normalised. ONNX Runtime resizes uint8
# pictures in the fixed-point arithmetic of Pillow; where Pillow takes the two axes in the other order, which depends on
# its version and the sizes, a value differs by one level, in noise rarely by two.
_FITTING = """<ir_version: {ir}, opset_import: ["" : {opset}]>
fitting (uint8[batch, height, width, {c}] pictures) => (uint8[batch, {h}, {w}, {c}] fitted) {{
  size = Shape <start = 1, end = 3> (pictures)
  wanted = Constant <value_ints = [{h}, {w}]> ()
  same_side = Equal (size, wanted)
  same_number = Cast <to = 6> (same_side)
  same_sides = ReduceMin <keepdims = 0> (same_number)
  same = Cast <to = 9> (same_sides)
  chosen = If (same) <
    then_branch = as_it_is () => (uint8[batch_a, height_a, width_a, {c}] unchanged) {{
      unchanged = Identity (pictures)
    }},
    else_branch = resize_and_crop () => (uint8[batch_b, height_b, width_b, {c}] cropped) {{
      target = Constant <value_ints = [{h}, {w}]> ()
      target_across = Constant <value_ints = [{w}, {h}]> ()
      swap = Constant <value_ints = [1, 0]> ()
      axes = Constant <value_ints = [1, 2]> ()
      one = Constant <value_ints = [1]> ()
      two = Constant <value_ints = [2]> ()
      four = Constant <value_ints = [4]> ()
      least = Constant <value_ints = [8]> ()
      short = Constant <value_ints = [16]> ()

      across = Gather (size, swap)
      a1 = Mul (size, target_across)
      a2 = Mul (a1, two)
      a3 = Add (a2, across)
      a4 = Mul (across, two)
      a5 = Div (a3, a4)
      whole_cover = Max (target, a5)

      limit = Mul (target, four)
      too_long = Greater (whole_cover, limit)
      not_short = Greater (size, short)
      cut = And (too_long, not_short)
      b1 = Mul (limit, size)
      b2 = Add (b1, whole_cover)
      b3 = Sub (b2, one)
      b4 = Div (b3, whole_cover)
      b5 = Max (b4, least)
      b6 = Sub (size, b5)
      b7 = Mod (b6, two)
      b8 = Add (b5, b7)
      b9 = Min (b8, size)
      kept = Where (cut, b9, size)
      c1 = Sub (size, kept)
      begin = Div (c1, two)
      end = Add (begin, kept)
      middle = Slice (pictures, begin, end, axes)

      kept_across = Gather (kept, swap)
      d1 = Mul (kept, target_across)
      d2 = Mul (d1, two)
      d3 = Add (d2, kept_across)
      d4 = Mul (kept_across, two)
      d5 = Div (d3, d4)
      cover = Max (target, d5)
      resized = Resize <mode = "linear", antialias = 1, exclude_outside = 1, axes = [1, 2],
                        coordinate_transformation_mode = "half_pixel"> (middle, , , cover)
      e1 = Sub (cover, target)
      corner = Div (e1, two)
      far_corner = Add (corner, target)
      cropped = Slice (resized, corner, far_corner, axes)
    }}
  >
  static = Constant <value_ints = [0, {h}, {w}, {c}]> ()
  fitted = Reshape (chosen, static)
}}"""


def fitting(size: tuple[int, int], channels: int) -> onnx.ModelProto:
    """Return the graph of :func:`danlu.data.decode.fit`.

    uint8 ``pictures`` [batch, height, width, channels] of any size become ``fitted`` [batch, h, w, channels]: resized
    until they cover ``size`` and cropped to its centre. Pictures of that size pass as they are.
    """
    import onnx.parser

    h, w = size
    return onnx.parser.parse_model(_FITTING.format(ir=IR_VERSION, opset=OPSET, h=h, w=w, c=channels))


def add_fitting(network: onnx.ModelProto, size: tuple[int, int], channels: int) -> onnx.ModelProto:
    """Return ``network`` with :func:`fitting` in front of its one input [batch, h, w, channels]."""
    import onnx

    front = fitting(size, channels)
    joined = onnx.ModelProto()
    joined.CopyFrom(network)
    (old,) = joined.graph.input
    _rename(joined.graph, {front.graph.output[0].name: old.name}, front.graph)
    nodes = [*front.graph.node, *joined.graph.node]
    del joined.graph.node[:], joined.graph.input[:]
    joined.graph.node.extend(nodes)
    joined.graph.input.extend(front.graph.input)
    return joined


def _rename(graph: onnx.GraphProto, taken_over: Mapping[str, str], front: onnx.GraphProto) -> None:
    """Let the tensors of ``front`` keep clear of those of ``graph``; its output becomes the graph's input."""
    names = {name for node in front.node for name in node.output}
    new = {name: taken_over.get(name, f"fit.{name}") for name in names}
    for node in front.node:
        node.name = f"fit.{node.output[0]}"
        for values in (node.input, node.output):
            renamed = [new.get(name, name) for name in values]
            del values[:]
            values.extend(renamed)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_inner(attribute.g, new)


def _rename_inner(graph: onnx.GraphProto, outer: Mapping[str, str]) -> None:
    new = {**outer, **{name: f"fit.{graph.name}.{name}" for node in graph.node for name in node.output}}
    for node in graph.node:
        node.name = f"fit.{graph.name}.{node.output[0]}"
        for values in (node.input, node.output):
            renamed = [new.get(name, name) for name in values]
            del values[:]
            values.extend(renamed)
    for value in graph.output:
        value.name = new[value.name]


def cleaned(model: onnx.ModelProto, keep: Iterable[str], prefixes: Sequence[str] = ()) -> onnx.ModelProto:
    """Return ``model`` with names that say what a node is, and without anything of the machine that made it.

    Node names are the module path of their weight (``layer1.0.conv1``), or the operator and a number (``relu.3``);
    parameters keep their name without ``prefixes``. Documentation strings, stack traces, source paths, recorded shapes
    and the producer's metadata are dropped. The result depends on the graph alone, so it is the same every time.

    Args:
        model: a graph without subgraphs or functions.
        keep: names of tensors that must stay, beside the graph's inputs and outputs.
        prefixes: dropped from the front of parameter names, the longest first.
    """
    import onnx

    if model.functions:
        raise ValueError(f"functions must be inlined first, got {[f.name for f in model.functions]}")
    graph = model.graph
    kept = {*keep, *(value.name for value in [*graph.input, *graph.output])}
    names = _parameter_names(graph, kept, prefixes)
    counts: Counter[str] = Counter()
    nodes = []
    for old in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        del node.metadata_props[:]
        node.doc_string = ""
        node.name = _node_name(old, names, counts)
        for position, name in enumerate(old.output):
            if name and name not in kept:
                names[name] = node.name + (f".output{position}" if position else ".output")
        _replace(node, names)
        nodes.append(node)
    return _rebuilt(model, nodes, names)


def _rebuilt(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: Mapping[str, str]) -> onnx.ModelProto:
    import onnx

    used = [name for node in nodes for name in node.input]
    order = {name: position for position, name in reversed(list(enumerate(used)))}
    graph = onnx.GraphProto(name="danlu")
    for value in model.graph.input:
        graph.input.append(_bare_value(value))
    for value in model.graph.output:
        graph.output.append(_bare_value(value))
    tensors = []
    for old in model.graph.initializer:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(old)
        tensor.name, tensor.doc_string = names.get(old.name, old.name), ""
        del tensor.metadata_props[:]
        if tensor.name in order:
            tensors.append(tensor)
    graph.initializer.extend(sorted(tensors, key=lambda tensor: order[tensor.name]))
    graph.node.extend(nodes)
    result = onnx.ModelProto(ir_version=IR_VERSION, producer_name="danlu", graph=graph)
    result.opset_import.extend(sorted(model.opset_import, key=lambda entry: entry.domain))
    return result


def _bare_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    import onnx

    bare = onnx.ValueInfoProto(name=value.name)
    bare.type.CopyFrom(value.type)
    return bare


def _parameter_names(graph: onnx.GraphProto, kept: set[str], prefixes: Sequence[str]) -> dict[str, str]:
    """Old name -> new name of all initialisers, in the order of their first use."""
    stored = {tensor.name for tensor in graph.initializer}
    names: dict[str, str] = {}
    constants = 0
    for node in graph.node:
        for name in node.input:
            if name not in stored or name in names or name in kept:
                continue
            prefix = next((p for p in sorted(prefixes, key=len, reverse=True) if name.startswith(p)), "")
            names[name] = name.removeprefix(prefix)
            if "." not in name:  # made by the exporter; parameters carry the path of their module
                names[name], constants = f"constant.{constants}", constants + 1
    if len(set(names.values())) < len(names):
        raise ValueError("two parameters have one name once their prefixes are dropped")
    return names


def _node_name(node: onnx.NodeProto, names: Mapping[str, str], counts: Counter[str]) -> str:
    weight = next((names[name] for name in node.input[1:] if names.get(name, "").endswith(".weight")), None)
    stem = weight.removesuffix(".weight") if weight else node.op_type.lower()
    counts[stem] += 1
    return stem if weight and counts[stem] == 1 else f"{stem}.{counts[stem]}"


def _replace(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for values in (node.input, node.output):
        renamed = [names.get(name, name) for name in values]
        del values[:]
        values.extend(renamed)


def describe(model: onnx.ModelProto, info: ArtifactInfo) -> onnx.ModelProto:
    """Write ``info`` into the metadata of ``model``, replacing what stood there, and return it."""
    from danlu.core.version import __version__

    model.producer_name, model.producer_version, model.doc_string = "danlu", __version__, ""
    del model.metadata_props[:]
    for key, value in info.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    return model


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
    front = [node for node in changed.graph.node if node.name.startswith(_FRONT)]
    if not front:
        return changed
    last = front[-1]
    shape = next(
        list(onnx.numpy_helper.to_array(attribute.t)) if attribute.HasField("t") else list(attribute.ints)
        for node in front
        if last.input[1] in node.output
        for attribute in node.attribute
    )
    nodes = [node for node in changed.graph.node if not node.name.startswith(_FRONT)]
    for node in nodes:
        _replace(node, {last.output[0]: INPUT})
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

    front = [node for node in model.graph.node if node.name.startswith(_FRONT)]
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
