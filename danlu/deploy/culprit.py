"""The likely cause of a difference, read off the values alone: what made ``b`` of ``a``. Torch-free.

A cause is a hypothesis that was tried and explains the values; where none does, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.deploy.graph_diff import rounding_of

__all__ = ["ANSWERS", "input_cause", "logits_cause", "probabilities_cause", "sigmoid", "softmax", "stage_cause"]

Floats = NDArray[np.float32]
_EXPLAINED = 2e-3
_SHIFT = 3


def _residual(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the largest difference as a share of the spread of ``a``."""
    if a.shape != b.shape or not np.isfinite(b).all():
        return float("inf")
    return float(np.abs(a - b).max()) / max(float(np.abs(a).max()), 1e-12)


def _affine(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return gain and offset by channel [C] with which ``a`` [B, C, H, W] becomes ``b``, and what is left."""
    axes = (0, 2, 3)
    mean_a, mean_b = a.mean(axes), b.mean(axes)
    centred = a - mean_a[:, None, None]
    spread = np.maximum((centred**2).sum(axes), 1e-12)
    gain = (centred * (b - mean_b[:, None, None])).sum(axes) / spread
    offset = mean_b - gain * mean_a
    made = a * gain[:, None, None] + offset[:, None, None]
    return gain, offset, float(np.abs(made - b).max()) / max(float(np.abs(b).max()), 1e-12)


def input_cause(ours: Floats, theirs: Floats) -> tuple[str, str]:
    """Return (stage, cause) for a network's input [B, C, H, W] that became another one.

    The stage is ``colour order``, ``crop``, ``resize`` or ``normalise``.
    """
    if ours.shape != theirs.shape:
        if ours.transpose(0, 2, 3, 1).shape == theirs.shape:
            return "normalise", "layout: channels last instead of channels first"
        return "resize", f"another input size: {list(theirs.shape[1:])}, not {list(ours.shape[1:])}"
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if not np.isfinite(b).all():
        return "normalise", "values are not finite (a deviation of zero, or overflow)"
    gain, offset, left = _affine(a, b)
    _, _, left_bgr = _affine(a[:, ::-1], b)
    if a.shape[1] == 3 and left_bgr < _EXPLAINED and left_bgr < left / 4:
        return "colour order", "BGR instead of RGB"
    if left < _EXPLAINED:
        return "normalise", _affine_cause(gain, offset)
    flat = a.transpose(0, 2, 3, 1).reshape(a.shape)
    for cause, made in (("layout: bytes [H, W, C] are read as [C, H, W]", flat), *_turned(a)):
        if made.shape == b.shape and _affine(made, b)[2] < _EXPLAINED:
            return ("normalise" if cause.startswith("layout") else "crop"), cause
    if shift := _shifted(a, b):
        return "crop", shift
    low, high = float(b.min()), float(b.max())
    if (low > a.min() or high < a.max()) and _residual(np.clip(a, low, high), b) < _EXPLAINED:
        return "normalise", f"saturation: values are clipped to {low:.3g}…{high:.3g}"
    if kind := rounding_of(theirs):
        return "normalise", f"silent {kind}: the values are rounded"
    if left < 0.02:
        return "normalise", "the values are rounded, or normalised by other numbers in places"
    if np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.8:
        return "resize", "another interpolation or border on the way to the network's input"
    return "normalise", "the input of the network is another one"


def _affine_cause(gain: NDArray[np.float64], offset: NDArray[np.float64]) -> str:
    if np.allclose(gain, 255, rtol=0.02):
        return "0-255 instead of 0-1: the division by 255 is missing"
    if np.allclose(gain, 1 / 255, rtol=0.02):
        return "0-1 instead of 0-255: divided by 255 once more"
    if np.allclose(gain, 1, rtol=1e-3):
        return f"mean: shifted by {_numbers(offset)}"
    if (gain < 0).all():
        return f"the pictures are inverted (gain {_numbers(gain)})"
    return f"mean or std: multiplied by {_numbers(gain)}, shifted by {_numbers(offset)}"


def _numbers(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _turned(a: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    return [
        ("layout: height and width are swapped", a.swapaxes(2, 3)),
        ("the picture is mirrored left to right", a[..., ::-1]),
        ("the picture is upside down", a[:, :, ::-1]),
    ]


def _shifted(a: NDArray[np.float64], b: NDArray[np.float64]) -> str | None:
    """Say by how much ``b`` is moved, judged on what both still show."""
    rows, columns = a.shape[2:]
    reach = min(_SHIFT, rows // 3, columns // 3)
    for y, x in sorted(product(range(-reach, reach + 1), repeat=2), key=lambda one: abs(one[0]) + abs(one[1])):
        inner_a = a[:, :, max(0, y) : rows + min(0, y), max(0, x) : columns + min(0, x)]
        inner_b = b[:, :, max(0, -y) : rows + min(0, -y), max(0, -x) : columns + min(0, -x)]
        if (y, x) != (0, 0) and inner_a.std() > 0 and _residual(inner_a, inner_b) < _EXPLAINED:
            return f"crop offset: {y} rows and {x} columns"
    return None


def stage_cause(ours: Floats, theirs: Floats) -> str | None:
    """Return the likely cause for a stage's values [B, …] that differ, or None."""
    if ours.shape != theirs.shape:
        return f"another shape: {list(theirs.shape[1:])}, not {list(ours.shape[1:])}"
    if not np.isfinite(theirs).all():
        return "values are not finite: overflow (saturation)"
    if (kind := rounding_of(theirs)) and rounding_of(ours) != kind:
        return f"silent {kind}: the values are rounded"
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    low, high = float(b.min()), float(b.max())
    for bottom, top in ((a.min(), high), (low, high), (low, a.max())):
        if _residual(np.clip(a, bottom, top), b) < 1e-4:
            return f"saturation: values are clipped to {bottom:.3g}…{top:.3g}"
    if a.ndim == 4 and _residual(a.swapaxes(2, 3), b) < _EXPLAINED and a.shape[2] == a.shape[3]:
        return "layout: height and width are swapped"
    if a.ndim == 4 and (shift := _shifted(a, b)):
        return f"padding or {shift}"
    gain = float((a * b).sum() / max((a * a).sum(), 1e-12))
    if abs(gain - 1) > 1e-3 and _residual(a * gain, b) < _EXPLAINED:
        return f"all values are multiplied by {gain:.4g}"
    if a.ndim > 1 and (order := _permuted(a, b)) is not None:
        return f"channels are in another order: {order[:8].tolist()}…"
    return None


def _permuted(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Return the order in which the channels (axis 1) of ``a`` give ``b``, where there is one."""
    flat_a = a.swapaxes(0, 1).reshape(a.shape[1], -1)
    flat_b = b.swapaxes(0, 1).reshape(a.shape[1], -1)
    distance = np.abs(flat_a[None, :, :64] - flat_b[:, None, :64]).max(axis=2)
    order = distance.argmin(axis=1)
    if len(set(order.tolist())) < len(order) or (order == np.arange(len(order))).all():
        return None
    return order if _residual(flat_a[order], flat_b) < _EXPLAINED else None


def logits_cause(ours: Floats, theirs: Floats, task: str = "classification") -> str | None:
    """Return the likely cause for logits [B, K] that differ, or None."""
    if ours.shape != theirs.shape:
        return f"label order: {theirs.shape[1]} classes, not {ours.shape[1]}"
    if (order := _permuted(ours.astype(np.float64), theirs.astype(np.float64))) is not None:
        return f"label order: the classes are in the order {order[:10].tolist()}"
    if _residual(ANSWERS[task](ours), theirs) < _EXPLAINED:
        return f"{ANSWERS[task].__name__} twice: the logits are probabilities already"
    return stage_cause(ours, theirs)


def probabilities_cause(logits: Floats, theirs: Floats, task: str = "classification") -> str:
    """Return the likely cause for probabilities [B, K] that are not the ``ANSWERS[task]`` of their logits."""
    answer, other = ANSWERS[task], ANSWERS["classification" if task == "multilabel" else "multilabel"]
    named, once = answer.__name__, answer(logits)
    if theirs.shape != logits.shape:
        return f"another shape: {list(theirs.shape[1:])}, not {list(logits.shape[1:])}"
    made = {
        f"the {named} is missing": logits,
        f"{named} twice": answer(once),
        f"{other.__name__} instead of {named}": other(logits),
        "logarithm of the probabilities instead of the probabilities": np.log(np.maximum(once, 1e-30)),
    }
    for cause, values in made.items():
        if _residual(values, theirs) < _EXPLAINED:
            return cause
    if (order := _permuted(once.astype(np.float64), theirs.astype(np.float64))) is not None:
        return f"label order: the classes are in the order {order[:10].tolist()}"
    if answer is softmax and _residual(softmax(logits, axis=0), theirs) < _EXPLAINED:
        return "softmax over the batch instead of the classes (axis)"
    for factor in (0.5, 2.0, 0.1, 10.0):
        if _residual(answer(logits * np.float32(factor)), theirs) < _EXPLAINED:
            return f"a temperature: the logits are multiplied by {factor}"
    return f"they are not the {named} of the logits"


def softmax(logits: NDArray[Any], axis: int = 1) -> NDArray[Any]:
    """Return the softmax of logits [B, K] over ``axis``."""
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True), dtype=logits.dtype)


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the sigmoid of logits of any shape."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700))), dtype=logits.dtype)


# What makes a task's probabilities [B, K] of its logits.
ANSWERS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {"classification": softmax, "multilabel": sigmoid}
