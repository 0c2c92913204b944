"""How the range of an activation is chosen from what calibration pictures show: four rules over one histogram.

- ``min-max``: the smallest and largest value seen.
- ``percentile``: all but 0.01 % of the values, half of it at each end where values are signed.
- ``entropy``: the clip whose rounded distribution is nearest to the clipped one (Kullback-Leibler; Migacz, "8-bit
  Inference with TensorRT", 2017).
- ``mse``: the clip with the least squared error of clipping and rounding together.

Ranges always hold 0. Two passes over the pictures: one for the ends, one for the histograms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

__all__ = ["CALIBRATIONS", "Histogram", "choose_range", "collect", "measured_tensors"]

CALIBRATIONS = ("min-max", "percentile", "entropy", "mse")
BINS = 2048
_LEVELS = 256
_CUT = 1e-4
_SHARES = np.linspace(0.2, 1.0, 81)
# Pictures that run at once: all activations of a network stand in memory together.
_AT_ONCE = 16


@dataclass(frozen=True)
class Histogram:
    """Counts [BINS] of an activation's values between ``least`` ≤ 0 and ``most`` ≥ 0."""

    least: float
    most: float
    counts: NDArray[np.int64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        edges = np.linspace(self.least, self.most, len(self.counts) + 1)
        return (edges[:-1] + edges[1:]) / 2


def choose_range(histogram: Histogram, rule: str) -> tuple[float, float]:
    """Return the range (≤ 0, ≥ 0) that ``rule``, one of :data:`CALIBRATIONS`, chooses."""
    least, most = histogram.least, histogram.most
    if rule not in CALIBRATIONS:
        raise ValueError(f"rule {rule!r}, allowed are {CALIBRATIONS}")
    if rule == "min-max" or most - least <= 0 or not histogram.counts.any():
        return least, most
    if rule == "percentile":
        return _percentile(histogram)
    cost = _squared_errors if rule == "mse" else _divergences
    share = float(_SHARES[int(np.argmin(cost(histogram)))])
    return least * share, most * share


def _percentile(histogram: Histogram) -> tuple[float, float]:
    below = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = np.linspace(histogram.least, histogram.most, len(histogram.counts) + 1)
    cut = _CUT / 2 if histogram.least < 0 else _CUT
    low = edges[int(np.searchsorted(below, cut))] if histogram.least < 0 else 0.0
    high = edges[min(int(np.searchsorted(below, 1 - cut)) + 1, len(edges) - 1)]
    return min(float(low), 0.0), max(float(high), 0.0)


def _squared_errors(histogram: Histogram) -> NDArray[np.float64]:
    """Return the squared error of each share of both ends."""
    x, weight = histogram.centres, histogram.counts / histogram.counts.sum()
    errors = []
    for share in _SHARES:
        least, most = histogram.least * share, histogram.most * share
        step = (most - least) / (_LEVELS - 1)
        zero = np.round(-least / step)
        rounded = (np.clip(np.round(x / step) + zero, 0, _LEVELS - 1) - zero) * step
        errors.append(float((weight * (rounded - x) ** 2).sum()))
    return np.array(errors)


def _divergences(histogram: Histogram) -> NDArray[np.float64]:
    """Return, for each share of both ends, the divergence of the rounded distribution from the clipped one."""
    x, counts = histogram.centres, histogram.counts.astype(np.float64)
    found = []
    for share in _SHARES:
        least, most = histogram.least * share, histogram.most * share
        inside = (x >= least) & (x <= most)
        place = np.clip(((x[inside] - least) / (most - least) * _LEVELS).astype(np.int64), 0, _LEVELS - 1)
        clipped = counts[inside].copy()
        seen = clipped > 0
        sums = np.bincount(place, clipped, _LEVELS)
        filled = np.bincount(place, seen, _LEVELS)
        rounded = np.where(seen, (sums / np.maximum(filled, 1))[place], 0.0)
        # What lies outside falls on the outermost bins: the distribution that the clip really makes.
        clipped[0] += counts[x < least].sum()
        clipped[-1] += counts[x > most].sum()
        found.append(_divergence(clipped, rounded))
    return np.array(found)


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    p, q = p / p.sum(), q / max(q.sum(), 1e-12)
    held = p > 0
    return float((p[held] * np.log(p[held] / np.maximum(q[held], 1e-9))).sum())


def measured_tensors(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """Return the activations of the quantised graph ``after`` that have a range of their own, as ``before`` names them.

    Tensors that share a range, as those before and after a maximum pooling do, count once. Where the tool folded a ReLU
    into a range, the tensor is the output of the ReLU.
    """
    stored = {tensor.name for tensor in after.graph.initializer}
    made = {name for node in before.graph.node for name in node.output} | {v.name for v in before.graph.input}
    rounded = [n for n in after.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in stored]
    return sorted({node.input[1].removesuffix("_scale") for node in rounded} & made)


def collect(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[NDArray[np.uint8]]
) -> dict[str, Histogram]:
    """Return a histogram for each of the float32 ``tensors`` over all pictures [B, H, W, C]."""
    import onnx
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    for name in tensors:
        shown.graph.output.append(onnx.ValueInfoProto(name=name))
        shown.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    parts = [batch[k : k + _AT_ONCE] for batch in batches for k in range(0, len(batch), _AT_ONCE)]
    ends: Mapping[str, list[float]] = {name: [0.0, 0.0] for name in tensors}
    for part in parts:
        for name, values in zip(tensors, session.run(list(tensors), {feed: part}), strict=True):
            ends[name][:] = min(ends[name][0], float(values.min())), max(ends[name][1], float(values.max()))
    counts: dict[str, Any] = {name: np.zeros(BINS, dtype=np.int64) for name in tensors}
    for part in parts:
        for name, values in zip(tensors, session.run(list(tensors), {feed: part}), strict=True):
            least, most = ends[name]
            if most > least:
                counts[name] += np.histogram(values, BINS, (least, most))[0]
    return {name: Histogram(ends[name][0], ends[name][1], counts[name]) for name in tensors}
