"""Surgery on ONNX graphs: fitting pictures of any size in front, stable names, nothing of this machine inside.

Torch-free. Graphs are ``onnx.ModelProto``; functions return new ones and leave what they are given as it is, except
where they say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from danlu.deploy.artifact import ArtifactInfo

if TYPE_CHECKING:
    import onnx

__all__ = [
    "FRONT",
    "IR_VERSION",
    "OPSET",
    "add_fitting",
    "cleaned",
    "describe",
    "fitting",
    "replace_names",
]

OPSET = 18  # the first whose Resize can be antialiased
IR_VERSION = 10
FRONT = "fit."  # what the names of the fitting's nodes and tensors begin with

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
        replace_names(node, names)
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


def replace_names(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Give the tensors a node reads and makes their names of ``names``, in place."""
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
