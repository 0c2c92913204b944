"""Static INT8: weights int8 per channel, activations uint8 per tensor, calibrated on pictures; written as QDQ ONNX.

A quantised value is ``scale * (integer - zero point)``. Weights are symmetric; the range of an activation is the
smallest and largest value seen while the float network answers the calibration pictures (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018), or what another
rule of :mod:`danlu.compress.calibrate` says. On LeNet-5 and ResNet-20 all rules gave the same accuracy and logit error.
Signed activations run at a quarter of the speed in ONNX Runtime. Logits and the output of every fully connected layer
stay in float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.compress import METHODS
from danlu.compress.calibrate import CALIBRATIONS, choose_range, collect, measured_tensors
from danlu.compress.islands import unround_inputs
from danlu.core.errors import InputError
from danlu.core.files import write_whole

if TYPE_CHECKING:
    import onnx

__all__ = ["LayerError", "QuantizeReport", "layer_errors", "quantize_onnx"]

# Operators that multiply by weights; what a report calls a layer.
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Their quantisation would cost digits of the answer and gain nothing.
_FLOAT_OPERATORS = ("Softmax", "LogSoftmax")
# Nodes that only explain an answer (danlu.deploy.activation).
_EXPLAINING = "activation."


@dataclass(frozen=True)
class QuantizeReport:
    """What was quantised, and how.

    Attributes:
        method: how activation ranges were chosen.
        pictures: how many pictures calibrated them.
        calibration_hash: SHA-256 of these pictures' shapes and pixels.
        layers: names of the quantised layers, in the graph's order.
        float_layers: names of the layers that stay in float, in the graph's order.
        bytes_before: of the float file.
        bytes_after: of the quantised file.
        seconds: wall time.
    """

    method: str
    pictures: int
    calibration_hash: str
    layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    seconds: float

    def to_record(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return {**asdict(self), "layers": list(self.layers), "float_layers": list(self.float_layers)}


@dataclass(frozen=True)
class LayerError:
    """How far the network's answer moves when this layer alone is quantised.

    Attributes:
        layer: its name.
        error: the largest change, as a share of the largest answer.
        snr_db: energy of the answers over energy of the change, in decibels; the layer that hurts most has the least.
    """

    layer: str
    error: float
    snr_db: float = math.inf


def quantize_onnx(
    source: Path,
    target: Path,
    calibration: Iterable[NDArray[np.uint8]],
    *,
    float_until: str | None = None,
    reduce_range: bool = False,
    rule: str = "min-max",
    keep_float: Iterable[str] = (),
) -> QuantizeReport:
    """Quantise an ONNX file; the source stays as it is, the target is written whole or not at all.

    Args:
        source: a float ONNX file with one input.
        target: the file to write.
        calibration: batches of uint8 pictures [B, H, W, C], as the graph takes them.
        float_until: the tensor from which on the graph is quantised; what leads to it stays in float.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 8-bit products may saturate.
        rule: how ranges are chosen, one of :data:`danlu.compress.calibrate.CALIBRATIONS`.
        keep_float: names of layers that stay in float.

    Raises:
        InputError: no ONNX file, no such tensor, layer or rule, no calibration pictures, or no layer to quantise.
    """
    import onnx

    begin = time.perf_counter()
    batches = [np.ascontiguousarray(batch) for batch in calibration if len(batch)]
    if not batches:
        raise InputError("no pictures to calibrate with", where=str(source))
    if not source.is_file():
        raise InputError("no such file", where=str(source))
    model = onnx.load(str(source), load_external_data=False)
    excluded = _float_nodes(model, float_until, str(source))
    able = [node.name for node in model.graph.node if node.op_type in _LAYERS and node.name not in excluded]
    if not able:
        raise InputError("has no layer to quantise", where=str(source), allowed=_LAYERS)
    keep_float = list(keep_float)
    if unknown := sorted(set(keep_float) - set(able)):
        raise InputError(f"has no layer {unknown[0]!r}", where=str(source), allowed=able)
    quantised = _ruled(model, batches, excluded | set(keep_float), reduce_range, rule)
    unround_inputs(model, quantised, keep_float)
    inputs = {node.name: node.input[0] for node in quantised.graph.node if node.input}
    layers = tuple(name for name in able if name not in set(keep_float) and "DequantizeLinear" in inputs[name])
    write_whole(target, quantised.SerializeToString(deterministic=True))
    return QuantizeReport(
        method=rule,
        pictures=sum(len(batch) for batch in batches),
        calibration_hash=_hash(batches),
        layers=layers,
        float_layers=tuple(name for name in able if name not in layers),
        bytes_before=source.stat().st_size,
        bytes_after=target.stat().st_size,
        seconds=time.perf_counter() - begin,
    )


def _hash(batches: Iterable[NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for picture in (picture for batch in batches for picture in batch):
        digest.update(repr(picture.shape).encode())
        digest.update(picture.tobytes())
    return digest.hexdigest()


def _float_nodes(model: onnx.ModelProto, until: str | None, where: str) -> set[str]:
    """Return the names of the nodes that stay in float: all that lead to tensor ``until``, and soft-maxima."""
    nodes = model.graph.node
    if any(not node.name for node in nodes) or len({node.name for node in nodes}) < len(nodes):
        raise InputError("has nodes without a name of their own", where=where, mend="export it again")
    producer = {name: node for node in nodes for name in node.output}
    if until is not None and until not in producer:
        raise InputError(f"has no tensor {until!r}", where=where)
    upstream: set[str] = set()
    waiting = [until] if until is not None else []
    while waiting:
        node = producer.get(waiting.pop())
        if node is not None and node.name not in upstream:
            upstream.add(node.name)
            waiting.extend(node.input)
    beside = {n.name for n in nodes if n.op_type in _FLOAT_OPERATORS or n.name.startswith(_EXPLAINING)}
    return upstream | beside


def _ruled(
    model: onnx.ModelProto, batches: list[NDArray[np.uint8]], excluded: set[str], reduce_range: bool, rule: str
) -> onnx.ModelProto:
    """Quantise with the ranges of ``rule``; which activations have one is known from a first quantisation."""
    if rule not in CALIBRATIONS:
        raise InputError(f"unknown rule {rule!r}", where="calibration", allowed=CALIBRATIONS)
    if rule == "min-max":
        return _quantised(model, batches, excluded, reduce_range)
    few = [batches[0][:1]]
    tensors = measured_tensors(model, _quantised(model, few, excluded, reduce_range))
    ranges = {name: choose_range(seen, rule) for name, seen in collect(model, tensors, batches).items()}
    return _quantised(model, few, excluded, reduce_range, ranges)


def _quantised(
    model: onnx.ModelProto,
    batches: list[NDArray[np.uint8]],
    excluded: set[str],
    reduce_range: bool,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> onnx.ModelProto:
    import onnx
    from onnxruntime import quantization as tools

    name = model.graph.input[0].name

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    with tempfile.TemporaryDirectory(prefix="danlu-quantize-") as folder, _quiet():
        # The tool writes beside its source, which may be read-only, so it works on a copy.
        copy, written = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, str(copy))
        tools.quantize_static(
            str(copy),
            str(written),
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            calibrate_method=tools.CalibrationMethod.MinMax,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            nodes_to_exclude=sorted(excluded),
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                "TensorQuantOverrides": {
                    # The tool wants numbers that know their type.
                    name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
                    for name, (low, high) in (ranges or {}).items()
                },
            },
        )
        result = onnx.load(str(written), load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    del result.metadata_props[:], result.graph.value_info[:]
    for key, value in sorted(kept.items()):
        result.metadata_props.add(key=key, value=value)
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tool's prints, its advice on the root logger and the handler that this would install away."""

    def refuse(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(refuse)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"onnx|onnxruntime|numpy")
            yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(silent)


def layer_errors(
    float_model: bytes,
    quantised_model: bytes,
    pictures: NDArray[np.uint8],
    *,
    output: str = "logits",
    seconds: float | None = None,
) -> list[LayerError]:
    """Quantise one layer at a time and measure how far the answer moves: the layer to blame stands first.

    The layer gets the rounded weights and the rounded input it has in ``quantised_model``; all others stay in float.
    Its error is the largest change of ``output`` as a share of the largest |output|.

    Args:
        float_model: the ONNX file's bytes before quantisation.
        quantised_model: and after, by :func:`quantize_onnx`; nodes have the same names in both.
        pictures: uint8 [B, H, W, C] to measure with.
        output: the output to compare.
        seconds: return an empty list where the measurement would take about longer than this.

    Returns:
        one row a quantised layer, the largest error first.
    """
    import onnx

    before, after = onnx.load_model_from_string(float_model), onnx.load_model_from_string(quantised_model)
    begin = time.perf_counter()
    reference = _answer(before, pictures, output)
    once = time.perf_counter() - begin
    in_after = {node.name: node for node in after.graph.node}
    layers = [
        node
        for node in before.graph.node
        if node.op_type in _LAYERS
        and node.name in in_after
        and any(_dequantised(after, name) for name in in_after[node.name].input)
    ]
    if seconds is not None and once * len(layers) > seconds:
        return []
    largest = float(np.abs(reference).max()) or 1.0
    errors = []
    for layer in layers:
        answer = _answer(_one_quantised(before, after, layer.name), pictures, output)
        noise = answer.astype(np.float64) - reference
        energies = float((reference.astype(np.float64) ** 2).sum()), float((noise**2).sum())
        snr = 10 * math.log10(energies[0] / energies[1]) if min(energies) > 0 else math.inf
        errors.append(LayerError(layer.name, float(np.abs(noise).max()) / largest, snr))
    return sorted(errors, key=lambda row: -row.error)


def _dequantised(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    """Return the DequantizeLinear node that makes tensor ``name``, if one does."""
    for node in model.graph.node:
        if name in node.output:
            return node if node.op_type == "DequantizeLinear" else None
    return None


def _one_quantised(before: onnx.ModelProto, after: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    """Return ``before`` with the inputs of ``layer`` rounded as they are in ``after``."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(before)
    place = next(i for i, node in enumerate(model.graph.node) if node.name == layer)
    there = next(node for node in after.graph.node if node.name == layer)
    stored = {tensor.name: tensor for tensor in after.graph.initializer}
    quantisers = {node.output[0]: node for node in after.graph.node if node.op_type == "QuantizeLinear"}
    added: list[onnx.NodeProto] = []
    for position, name in enumerate(there.input):
        dequantise = _dequantised(after, name)
        if dequantise is None:
            continue
        first = dequantise.input[0]
        rounded = f"rounded.{position}"
        if quantise := quantisers.get(first):
            source = model.graph.node[place].input[position]
            added.append(onnx.helper.make_node("QuantizeLinear", [source, *quantise.input[1:]], [rounded]))
            first = rounded
        inputs = [first, *dequantise.input[1:]]
        again = onnx.helper.make_node("DequantizeLinear", inputs, [f"{rounded}.float"])
        again.attribute.extend(dequantise.attribute)
        added.append(again)
        model.graph.initializer.extend(stored[key] for key in inputs if key in stored)
        if position < len(model.graph.node[place].input):
            model.graph.node[place].input[position] = f"{rounded}.float"
    nodes = list(model.graph.node)
    nodes[place:place] = added
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _answer(model: onnx.ModelProto, pictures: NDArray[np.uint8], output: str) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed: Mapping[str, Any] = {session.get_inputs()[0].name: pictures}
    (answer,) = session.run([output], feed)
    return np.asarray(answer, dtype=np.float32)


METHODS.register(
    "quantize",
    quantize_onnx,
    __name__,
    title="INT8: weights per channel, activations per tensor, calibrated on training pictures",
    works_on="onnx",
)
