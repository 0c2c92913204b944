"""Why two graphs differ: layer by layer, by their names where they share them, by their order where they do not.

Torch-free. Only what stands between the last stage that agrees and the first that does not is looked at, so that a
layer that was folded into another in one of them is not blamed where the values agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

__all__ = ["Layer", "differences", "layers_between", "rounding_of"]

# Shape arithmetic and what leaves values as they are.
_SILENT = frozenset({"Constant", "Identity", "Shape", "Dropout", "Gather", "Unsqueeze", "Squeeze", "ConstantOfShape"})
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization"})
# Operators whose second input is a shape: how it was computed is no matter.
_SHAPED = frozenset({"Reshape", "Expand"})
# What an operator does where it says nothing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Conv": {"strides": "ones", "pads": "zeros", "dilations": "ones", "group": 1, "auto_pad": "NOTSET"},
    "MaxPool": {"strides": "ones", "pads": "zeros", "ceil_mode": 0, "auto_pad": "NOTSET"},
    "AveragePool": {"strides": "ones", "pads": "zeros", "ceil_mode": 0, "count_include_pad": 0, "auto_pad": "NOTSET"},
    "BatchNormalization": {"epsilon": 1e-5, "training_mode": 0},
    "LayerNormalization": {"epsilon": 1e-5, "axis": -1},
    "InstanceNormalization": {"epsilon": 1e-5},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Gelu": {"approximate": "none"},
    "Softmax": {"axis": -1},
    "Flatten": {"axis": 1},
    "Concat": {},
    "Resize": {
        "antialias": 0,
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": -0.75,
        "exclude_outside": 0,
        "mode": "nearest",
        "nearest_mode": "round_prefer_floor",
    },
}
_UNTOLD = frozenset({"momentum", "storage_order", "kernel_shape", "seed"})
_NAMED = {
    "epsilon": "epsilon",
    "training_mode": "train-mode batch normalisation",
    "strides": "stride",
    "pads": "padding",
    "auto_pad": "padding",
    "dilations": "dilation",
    "axis": "axis (layout, or another opset's default)",
    "perm": "layout",
}


@dataclass(frozen=True)
class Layer:
    """One node with what it computes from.

    Attributes:
        name: of the node.
        op: the operator.
        attributes: with the operator's defaults filled in.
        weights: constant inputs by their place.
        inputs: how many inputs are given.
    """

    name: str
    op: str
    attributes: dict[str, Any]
    weights: dict[int, NDArray[Any]] = field(repr=False)
    inputs: int


def layers_between(model: onnx.ModelProto, first: Iterable[str], last: str) -> list[Layer]:
    """Return the layers that compute tensor ``last`` from the tensors ``first``, in their order."""
    import onnx

    from danlu.deploy.graph_parts import needed_nodes

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
    found = []
    for place, node in enumerate(needed_nodes(graph.node, [last], first, skip=_SHAPED)):
        if node.op_type in _SILENT or node.name.startswith("fit."):
            continue
        weights = {
            index: onnx.numpy_helper.to_array(constants[name])
            for index, name in enumerate(node.input)
            if name in constants
        }
        attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute if not a.HasField("g")}
        told = {key: value for key, value in attributes.items() if key not in _UNTOLD}
        name = node.name or f"{node.op_type} {place}"
        op = "Reshape" if node.op_type == "Flatten" and told.get("axis", 1) == 1 else node.op_type
        filled = _filled(op, {} if op == "Reshape" else told, weights)
        found.append(Layer(name, op, filled, weights, sum(bool(name) for name in node.input)))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "dims"):
        return "tensor"
    return (
        list(value)
        if isinstance(value, list | tuple) or (hasattr(value, "__len__") and not isinstance(value, str))
        else value
    )


def _filled(op: str, told: Mapping[str, Any], weights: Mapping[int, NDArray[Any]]) -> dict[str, Any]:
    """Add the defaults, and write lists of the same number as one."""
    values = {**_DEFAULTS.get(op, {}), **told}
    for key, value in values.items():
        if isinstance(value, list) and value and len(set(value)) == 1 and key in ("strides", "pads", "dilations"):
            values[key] = {0: "zeros", 1: "ones"}.get(value[0], value)
    return values


def differences(a: list[Layer], b: list[Layer]) -> Iterator[tuple[str, str]]:
    """Yield (layer, cause) for what differs between the layers of the reference ``a`` and of ``b``, in their order."""
    for ours, theirs in _pairs(a, b):
        if ours is None and theirs is not None:
            yield theirs.name, _extra(theirs)
        elif theirs is None and ours is not None:
            yield ours.name, f"the layer {ours.op} is missing"
        elif ours is not None and theirs is not None:
            yield from ((ours.name, cause) for cause in _compare(ours, theirs))


def _pairs(a: list[Layer], b: list[Layer]) -> Iterator[tuple[Layer | None, Layer | None]]:
    names = {layer.name for layer in a} & {layer.name for layer in b}
    weighted = [layer for layer in a if layer.op in _WEIGHTED]
    if weighted and sum(layer.name in names for layer in weighted) * 2 > len(weighted):
        keys = [[layer.name if layer.name in names else layer.op for layer in layers] for layers in (a, b)]
    else:
        keys = [[layer.op for layer in layers] for layers in (a, b)]
    for tag, i, i_end, j, j_end in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        ours, theirs = a[i:i_end], b[j:j_end]
        if tag == "equal" or len(ours) == len(theirs):
            yield from zip(ours, theirs, strict=True)
        else:
            yield from ((layer, None) for layer in ours)
            yield from ((None, layer) for layer in theirs)


def _extra(layer: Layer) -> str:
    to = layer.attributes.get("to")
    if layer.op == "Cast" and to in (10, 16):
        return f"silent {'fp16' if to == 10 else 'bf16'}: values are rounded by a Cast"
    if layer.op == "Clip":
        return "saturation: values are clipped"
    if layer.op in ("QuantizeLinear", "DequantizeLinear"):
        return "values are quantised"
    if layer.op in ("Transpose", "Reshape"):
        return f"layout: a {layer.op} that the reference has not"
    return f"a layer {layer.op} that the reference has not"


def _compare(a: Layer, b: Layer) -> Iterator[str]:
    if a.op != b.op:
        yield f"{b.op} instead of {a.op}"
        return
    for key in sorted({*a.attributes, *b.attributes}):
        ours, theirs = a.attributes.get(key), b.attributes.get(key)
        if ours != theirs and not _close(ours, theirs):
            yield f"{_NAMED.get(key, key)}: {key} is {theirs}, not {ours}"
    if b.inputs < a.inputs and a.op in ("Conv", "Gemm", "ConvTranspose"):
        yield "the bias is dropped"
    for place in sorted({*a.weights} & {*b.weights}):
        if cause := _weight_cause(a, place, a.weights[place], b.weights[place]):
            yield cause


def _close(a: Any, b: Any) -> bool:
    return isinstance(a, float) and isinstance(b, float) and abs(a - b) <= 1e-6 * max(abs(a), abs(b))


_PLACES = {
    "BatchNormalization": {1: "scale", 2: "bias", 3: "running mean", 4: "running variance"},
    "LayerNormalization": {1: "scale", 2: "bias"},
}


def _weight_cause(layer: Layer, place: int, a: NDArray[Any], b: NDArray[Any]) -> str | None:
    kinds = {1: "weights", 2: "bias"} if layer.op in ("Conv", "Gemm", "MatMul", "ConvTranspose") else {}
    kind = _PLACES.get(layer.op, kinds).get(place, "constant")
    if a.shape != b.shape:
        if layer.op == "Reshape" and a.ndim == 1 and a.size and b.size and a.flat[0] in (0, -1) and b.flat[0] > 0:
            return f"fixed batch: a Reshape writes {int(b.flat[0])} pictures"
        return f"the {kind} has the shape {list(b.shape)}, not {list(a.shape)}"
    if np.array_equal(a, b):
        return None
    if layer.op == "Reshape":
        fixed = a.flat[0] in (0, -1) and b.flat[0] > 0
        return f"fixed batch: a Reshape writes {int(b.flat[0])} pictures" if fixed else "layout: another Reshape"
    if not np.issubdtype(a.dtype, np.floating):
        return f"the {kind} is another: {b.tolist() if b.size < 9 else '…'}"
    distance = float(np.abs(a - b).max()) / max(float(np.abs(a).max()), 1e-12)
    if distance < 1e-6:
        return None
    told = f"the {kind} of `{layer.name}` differs by {distance:.2g} of its largest value"
    if not b.any():
        return f"the {kind} is dropped (all zeros)" if kind == "bias" else f"{told}: all zeros"
    if kind == "weights" and a.ndim == 4 and a.shape[1] == 3 and np.allclose(a[:, ::-1], b, rtol=1e-6, atol=1e-9):
        return "BGR instead of RGB: the first layer takes the colours in reverse"
    if kind == "weights" and a.ndim == 4 and np.allclose(a.swapaxes(2, 3), b):
        return f"layout: height and width of the kernel of `{layer.name}` are swapped"
    if (rounded := rounding_of(b)) and not rounding_of(a) and distance < 0.02:
        return f"silent {rounded}: the {kind} of `{layer.name}` is rounded to {rounded}"
    if (limit := float(np.abs(b).max())) < float(np.abs(a).max()) and np.allclose(np.clip(a, -limit, limit), b):
        return f"saturation: the {kind} of `{layer.name}` is clipped to ±{limit:.3g}"
    if a.ndim and a.shape[0] > 1 and np.allclose(np.sort(a, 0), np.sort(b, 0)):
        return f"the rows of the {kind} of `{layer.name}` are in another order"
    return told


def rounding_of(values: NDArray[Any]) -> str | None:
    """Return ``bf16`` or ``fp16`` where every float32 value fits into it, and not into few bits by its nature."""
    flat = np.ascontiguousarray(values, np.float32).ravel()
    flat = flat[(flat != 0) & np.isfinite(flat)]
    if flat.size < 4 or np.unique(flat).size < 4:
        return None
    bits = flat.view(np.uint32)
    if not (bits & 0xFFFF).any():
        return "bf16" if (bits & 0x7FFFFF).any() else None
    with np.errstate(over="ignore"):
        half = flat.astype(np.float16).astype(np.float32)
    return "fp16" if np.array_equal(half, flat) else None
