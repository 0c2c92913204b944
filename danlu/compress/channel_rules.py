"""What each operator does to the labels of channels; see :mod:`danlu.compress.channel_graph`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from danlu.compress.labels import Array, Ties, compress, expand, varying

__all__ = ["RULES", "Labelled", "Rule", "pointwise"]

aten = torch.ops.aten


class Labelled(Protocol):
    """The labels of a network while it runs."""

    ties: Ties
    boxes: list[Array]

    @property
    def here(self) -> str:
        """The module at work."""

    def labels(self, tensor: Tensor) -> Array:
        """Return the labels of ``tensor``."""

    def put(self, tensor: Tensor, labels: Array) -> None:
        """Give ``tensor`` its labels."""

    def vector(self, tensor: Tensor, axis: int, why: str) -> Array:
        """Return the labels along ``axis``."""

    def norm(self, tensors: tuple[Any, ...], line: Array) -> bool:
        """Note the labels of a normalisation."""

    def cross(self, labels: Array) -> None:
        """Note that these channels are mixed without weights."""


Rule = Callable[[Labelled, Any, Any, Any], None]


def _first(output: Any) -> Tensor:
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor


def pointwise(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    """Tie what meets in one number; what is broadcast meets nothing."""
    target = _first(output)
    made: Array = np.zeros((1,) * target.dim(), dtype=np.int64)
    sizes: tuple[int, ...] = (1,) * target.dim()
    for tensor in (one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)):
        lead = (1,) * (target.dim() - tensor.dim())
        labels, shape = state.labels(tensor), lead + tuple(tensor.shape)
        labels = labels.reshape(lead + labels.shape)
        meets = any(sizes[axis] > 1 for axis in varying(labels)) or any(shape[axis] > 1 for axis in varying(made))
        if meets:
            state.ties.tie(made, labels)
        made = _over(made, labels)
        sizes = tuple(max(pair) for pair in zip(sizes, shape, strict=True))
    state.put(target, made)


def _over(one: Array, other: Array) -> Array:
    """Return ``one`` where it has labels, else ``other``, broadcast together."""
    a, b = np.broadcast_arrays(one, other)
    return compress(np.where(a != 0, a, b))


def _same(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    state.put(_first(output), state.labels(args[0]))


def _nothing(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    """The result has the shape its arguments say and no labels."""


def _spatial(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    """Pooling and resizing: pixels may change, channels do not."""
    line = state.vector(args[0], args[0].dim() - 3, "channels on several axes")
    state.put(_first(output), line.reshape((1,) * (args[0].dim() - 3) + (-1, 1, 1)))


def _pad(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
    labels, amounts = state.labels(args[0]), list(args[1])
    around = [(0, 0)] * output.dim()
    for place in range(len(amounts) // 2):
        axis = output.dim() - 1 - place
        if labels.shape[axis] > 1:
            around[axis] = (amounts[2 * place], amounts[2 * place + 1])
    if any(low < 0 or high < 0 for low, high in around):
        state.ties.freeze(labels, f"{state.here}: cuts channels off")
        labels = np.zeros((1,) * output.dim(), dtype=np.int64)
        around = [(0, 0)] * output.dim()
    state.put(output, np.pad(labels, around))


def _reduce(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    source = args[0]
    axes = args[1] if len(args) > 1 else kwargs.get("dim")
    axes = list(range(source.dim())) if axes is None or axes == [] else [axes] if isinstance(axes, int) else list(axes)
    axes = [axis % source.dim() for axis in axes]
    labels = state.labels(source)
    inside = [axis for axis in varying(labels) if axis in axes]
    if inside:
        for axis in inside:
            if set(varying(labels)) - set(axes):
                state.ties.along(labels, axis)
            else:
                state.cross(labels)
        lost = not set(varying(labels)) - set(axes)
        for axis in inside:
            labels = labels.take([0], axis=axis)
        labels = np.zeros_like(labels) if lost else labels
    target = _first(output)
    if target.dim() != source.dim():
        labels = labels.squeeze(axis=tuple(axes))
    for one in [output] if isinstance(output, Tensor) else output:
        state.put(one, labels)


def _softmax(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    labels = state.labels(args[0])
    if args[1] % args[0].dim() in varying(labels):
        state.cross(labels)
    state.put(output, labels)


def _shaped(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
    """Any view of one tensor: the same view of its labels."""
    source, labels = args[0], state.labels(args[0])
    if not varying(labels):
        state.put(output, np.full((1,) * output.dim(), labels.reshape(-1)[0] if labels.size else 0, dtype=np.int64))
        return
    full = expand(labels, source.shape).reshape(tuple(output.shape))
    made = compress(full)
    if len(varying(made)) > len(varying(labels)):
        state.boxes.append(made)
    state.put(output, made)


def _moved(function: Callable[[Array, Any], Array]) -> Rule:
    def rule(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
        state.put(output, function(state.labels(args[0]), args))

    return rule


def _expand(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
    labels = state.labels(args[0])
    state.put(output, labels.reshape((1,) * (output.dim() - labels.ndim) + labels.shape))


def _slice(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
    labels = state.labels(args[0])
    axis = (args[1] if len(args) > 1 else 0) % args[0].dim()
    if labels.shape[axis] > 1 and output.shape[axis] != args[0].shape[axis]:
        state.ties.freeze(labels, f"{state.here}: takes channels by number")
        labels = labels.take([0], axis=axis) * 0
    state.put(output, labels)


def _select(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
    labels, axis = state.labels(args[0]), args[1] % args[0].dim()
    if labels.shape[axis] > 1:
        state.ties.along(labels, axis)
        labels = labels.take([args[2]], axis=axis)
    state.put(output, labels.squeeze(axis=axis))


def _unbind(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    labels = state.labels(args[0])
    axis = (args[1] if len(args) > 1 else 0) % args[0].dim()
    if labels.shape[axis] > 1:
        state.ties.along(labels, axis)
    for place, tensor in enumerate(output):
        row = labels.take([place if labels.shape[axis] > 1 else 0], axis=axis)
        state.put(tensor, row.squeeze(axis=axis))


def _split(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    labels = state.labels(args[0])
    axis = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].dim()
    if labels.shape[axis] == 1:
        pieces = [labels] * len(output)
    else:
        ends = np.cumsum([piece.shape[axis] for piece in output])[:-1]
        pieces = np.split(labels, ends, axis=axis)
        if len({piece.shape[axis] for piece in pieces}) > 1:
            state.ties.freeze(labels, f"{state.here}: splits channels into unequal parts")
        else:
            for piece in pieces[1:]:
                state.ties.tie(pieces[0], piece)
    for tensor, piece in zip(output, pieces, strict=True):
        state.put(tensor, piece)


def _cat(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % output.dim()
    tensors = [one for one in args[0] if one.dim() == output.dim()]
    labels = [state.labels(one) for one in tensors]
    if all(one.shape[axis] == 1 for one in labels) and not any(
        _lone(one, t, axis) for one, t in zip(labels, tensors, strict=True)
    ):
        # Pieces along an axis without channels: what lies at one place of the other axes goes together.
        for one in labels[1:]:
            state.ties.tie(labels[0], one)
        state.put(output, labels[0])
        return
    full = []
    for one, tensor in zip(labels, tensors, strict=True):
        shape = list(one.shape)
        shape[axis] = tensor.shape[axis]
        full.append(np.broadcast_to(one, shape))
    others = np.broadcast_shapes(*[tuple(1 if i == axis else s for i, s in enumerate(one.shape)) for one in full])
    wide = [
        np.broadcast_to(one, tuple(one.shape[axis] if i == axis else s for i, s in enumerate(others))) for one in full
    ]
    state.put(output, np.concatenate(wide, axis=axis))


def _lone(labels: Array, tensor: Tensor, axis: int) -> bool:
    """Return whether a piece without varying labels is cut from labelled channels: a single channel, say."""
    return not varying(labels) and bool(labels.any())


def _stack(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % output.dim()
    labels = [state.labels(one) for one in args[0]]
    for one in labels[1:]:
        state.ties.tie(labels[0], one)
    state.put(output, np.expand_dims(labels[0], axis))


def _batch_norm(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    line = state.vector(args[0], 1, "channels on several axes")
    state.norm(tuple(args[1:5]), line)
    state.put(_first(output), state.labels(args[0]) if line.any() else line[:1].reshape((1,) * args[0].dim()))


def _layer_norm(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    x, over = args[0], args[1]
    if len(over) != 1:
        state.ties.freeze(state.labels(x), f"{state.here}: normalises several axes")
        return
    line = state.vector(x, -1, "channels on several axes")
    state.cross(line)
    if not state.norm(tuple(args[2:4]), line):
        state.ties.freeze(line, f"{state.here}: its width is fixed")
    state.put(_first(output), line.reshape((1,) * (x.dim() - 1) + (-1,)))


def _products(state: Labelled, args: Any, kwargs: Any, output: Tensor) -> None:
    """Products of two batches of matrices [b, n, k] [b, k, m]: heads of an attention stay whole."""
    left, right = (state.labels(one) for one in args[:2])
    if 2 in varying(left) or 1 in varying(right):
        state.ties.tie(left[:, :1], right[:, :, :1].transpose(0, 2, 1))
        state.ties.along(left, 2)
        state.ties.along(right, 1)
        left, right = left[:, :, :1], right[:, :1]
    if 1 in varying(left) and 2 in varying(right):
        for labels in (left, right):
            state.ties.freeze(labels, f"{state.here}: a product of channels by channels")
        state.put(output, np.zeros((1, 1, 1), dtype=np.int64))
        return
    if left.any() and right.any():
        state.ties.tie(left, right)
    state.put(output, right if right.any() else left)


def _attention(state: Labelled, args: Any, kwargs: Any, output: Any) -> None:
    q, k, v = (state.labels(one) for one in args[:3])
    for labels in (q, k, v):
        state.ties.along(labels, 3)
        state.ties.tie(q[..., :1], labels[..., :1])
    state.put(_first(output), v)


def _transposed(labels: Array, args: Any) -> Array:
    return labels.swapaxes(args[1], args[2])


RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            aten.clone,
            aten._to_copy,
            aten.detach,
            aten.alias,
            aten.native_dropout,
            aten.lift_fresh,
            aten.contiguous,
            aten.relu_,
            aten.silu_,
            aten.hardtanh_,
            aten.hardswish_,
            aten.leaky_relu_,
            aten.gelu,
            aten.elu_,
            aten.hardswish,
            aten.hardsigmoid,
            aten.empty_like,
            aten.zeros_like,
            aten.ones_like,
            aten.full_like,
            aten.rand_like,
        ),
        _same,
    ),
    **dict.fromkeys(
        (
            aten.max_pool2d_with_indices,
            aten.avg_pool2d,
            aten._adaptive_avg_pool2d,
            aten.adaptive_max_pool2d,
            aten.upsample_nearest2d,
            aten.upsample_bilinear2d,
            aten._upsample_bilinear2d_aa,
            aten.mkldnn_max_pool2d,
        ),
        _spatial,
    ),
    **dict.fromkeys(
        (
            aten.empty,
            aten.new_empty,
            aten.zeros,
            aten.ones,
            aten.new_zeros,
            aten.new_ones,
            aten.arange,
            aten.full,
            aten.scalar_tensor,
            aten.bernoulli_,
            aten.rand,
            aten.randn,
            aten.fill_,
            aten.uniform_,
        ),
        _nothing,
    ),
    **dict.fromkeys((aten.mean, aten.sum, aten.amax, aten.amin, aten.max, aten.var, aten.std, aten.var_mean), _reduce),
    **dict.fromkeys((aten._softmax, aten._log_softmax, aten._safe_softmax), _softmax),
    **dict.fromkeys((aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias), _shaped),
    aten.permute: _moved(lambda labels, args: labels.transpose(args[1])),
    aten.transpose: _moved(_transposed),
    aten.t: _moved(lambda labels, args: labels.T),
    aten.unsqueeze: _moved(
        lambda labels, args: np.expand_dims(labels, args[1] if args[1] >= 0 else args[1] + labels.ndim + 1)
    ),
    aten.squeeze: _shaped,
    aten.expand: _expand,
    aten.slice: _slice,
    aten.select: _select,
    aten.unbind: _unbind,
    aten.split: _split,
    aten.split_with_sizes: _split,
    aten.cat: _cat,
    aten.stack: _stack,
    aten.constant_pad_nd: _pad,
    **dict.fromkeys(
        (
            aten.native_batch_norm,
            aten.cudnn_batch_norm,
            aten._native_batch_norm_legit,
            aten._native_batch_norm_legit_no_training,
            aten._batch_norm_with_update,
            aten._batch_norm_no_update,
        ),
        _batch_norm,
    ),
    aten.native_layer_norm: _layer_norm,
    aten.bmm: _products,
    **dict.fromkeys(
        (
            aten._scaled_dot_product_flash_attention,
            aten._scaled_dot_product_flash_attention_for_cpu,
            aten._scaled_dot_product_efficient_attention,
            aten._scaled_dot_product_attention_math,
        ),
        _attention,
    ),
}
