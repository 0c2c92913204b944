"""Count multiply-adds and activation bytes, operator by operator, without computing anything.

The network runs on the meta device, where tensors have shapes and no values, under a dispatch mode that sees every
operator below autograd. The hooks that follow the modules also keep torch from running a whole attention layer as one
operator, which would hide its products. What runs inside a module's forward but in none of its children is that
module's own.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from danlu.core.errors import InputError
from danlu.models.base import VisionModel

__all__ = ["Count", "Own", "count", "stage_shapes", "tensors_in"]

M = TypeVar("M", bound=nn.Module)
aten = torch.ops.aten


@dataclass
class Own:
    """What one module does itself, its children left out.

    Attributes:
        macs: multiply-adds of convolutions, linear layers and matrix products.
        activation_bytes: bytes of the tensors it makes.
        operations: number of operators that make tensors.
        output: shape of what it returned last, empty when that is no tensor.
        calls: number of calls.
    """

    macs: int = 0
    activation_bytes: int = 0
    operations: int = 0
    output: list[int] = field(default_factory=list)
    calls: int = 0


@dataclass(frozen=True)
class Count:
    """Counts of one forward.

    Attributes:
        macs: multiply-adds in all; FLOPs are twice as many.
        activation_bytes: bytes of all tensors made on the way, views left out.
        peak_activation_bytes: the most bytes of them alive at once, with the input, as eager execution frees them.
        modules: name -> what that module does itself, in the order in which they start to work; ``""`` is the network.
        output: shape of the network's output.
    """

    macs: int
    activation_bytes: int
    peak_activation_bytes: int
    modules: dict[str, Own]
    output: list[int]


def count(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Count:
    """Count one forward of ``model``, in eval mode, on an input of ``shape``.

    Args:
        model: stays as it is; a copy without values runs.
        shape: of the input, e.g. (1, 3, 224, 224).
        dtype: of the input.

    Raises:
        InputError: the network needs values to decide where to go, or refuses the shape.
    """
    twin = _on_meta(model).eval()
    owns: dict[str, Own] = {}
    stack: list[Own] = []
    counter = _Counter(stack)
    handles = _follow(twin, owns, stack)
    try:
        pictures = torch.empty(shape, dtype=dtype, device="meta")
        counter.hold(pictures)
        with torch.no_grad(), counter:
            output = twin(pictures)
    except (NotImplementedError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "meta" not in str(error).lower():
            raise
        first = str(error).partition("\n")[0]
        raise InputError(f"cannot be counted without values: {first}", where=type(model).__name__) from error
    finally:
        for handle in handles:
            handle.remove()
    own = list(owns.values())
    return Count(
        macs=sum(one.macs for one in own),
        activation_bytes=sum(one.activation_bytes for one in own),
        peak_activation_bytes=counter.peak,
        modules=owns,
        output=_shape(output),
    )


def stage_shapes(model: VisionModel, shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Return stage name -> shape of its output for an input of ``shape``, without computing anything."""
    with torch.no_grad():
        features = _on_meta(model).eval().features(torch.empty(shape, device="meta"))
    return {name: list(tensor.shape) for name, tensor in features.items()}


def _on_meta(model: M) -> M:
    """Copy ``model`` with meta tensors in place of its own, without copying a value."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _follow(model: nn.Module, owns: dict[str, Own], stack: list[Own]) -> list[Any]:
    """Keep on ``stack`` whose forward is running; note every module in ``owns`` when it starts."""
    handles: list[Any] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            own = owns.setdefault(name, Own())
            own.calls += 1
            stack.append(own)

        return hook

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        stack.pop().output = _shape(output)

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    return handles


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped in some versions
    """Adds what each operator costs to the module on top of the stack."""

    def __init__(self, stack: list[Own]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = stack
        self.living: dict[int, int] = {}
        self.alive = 0
        self.peak = 0

    def hold(self, tensor: Tensor) -> int:
        """Count ``tensor`` as alive until its storage goes; return its bytes if the storage is new."""
        storage = tensor.untyped_storage()
        # The address of the C++ storage: the same for all views, and free again once the storage is gone.
        key = storage._cdata
        if key in self.living:
            return 0
        size = tensor.numel() * tensor.element_size()
        self.living[key] = size
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, key)
        return size

    def _free(self, key: int) -> None:
        self.alive -= self.living.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        own = self.stack[-1] if self.stack else Own()
        rule = _RULES.get(func.overloadpacket)
        if rule is not None:
            own.macs += rule(args, kwargs, output)
        inputs = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        made = [tensor for tensor in tensors_in(output) if tensor.untyped_storage()._cdata not in inputs]
        if made or func._schema.is_mutable:
            own.operations += 1
        for tensor in made:
            own.activation_bytes += self.hold(tensor)
        return output


def _convolution(args: Any, kwargs: Any, output: Tensor) -> int:
    inputs, weight, transposed = args[0], args[1], args[6]
    # A transposed convolution multiplies every input pixel by a kernel, an ordinary one gathers for every output pixel.
    return int((inputs if transposed else output).numel() * math.prod(weight.shape[1:]))


def _matrix(first: int) -> Callable[[Any, Any, Tensor], int]:
    """Return the rule for products whose left factor is argument ``first``."""
    return lambda args, kwargs, output: int(output.numel() * args[first].shape[-1])


def _attention(args: Any, kwargs: Any, output: Any) -> int:
    query, key, value = args[:3]  # [B, heads, N, E], [B, heads, M, E], [B, heads, M, D]
    return int(math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


_RULES: dict[Any, Callable[[Any, Any, Any], int]] = {
    aten.convolution: _convolution,
    aten.mm: _matrix(0),
    aten.bmm: _matrix(0),
    aten.mv: lambda args, kwargs, output: int(args[0].numel()),
    aten.dot: lambda args, kwargs, output: int(args[0].numel()),
    aten.addmm: _matrix(1),
    aten.baddbmm: _matrix(1),
    aten.linear: _matrix(0),
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
}


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dictionaries."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from tensors_in(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from tensors_in(value)


def _shape(output: Any) -> list[int]:
    return list(output.shape) if isinstance(output, Tensor) else []
