"""Places of a network that have two ways: as the library computes them, and by one kernel of ``kernels.cpp``.

A kernel does batch norm, an addition and ReLU (or ReLU and maximum pooling) in two passes over memory instead of eight.
Sums are taken in float and double and rounded once at the end; the library rounds after each operator, so results are
equal within the rounding of the format, not bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.train.measured import Measured
from danlu.train.native import PoolShape, kernel

__all__ = ["Fused", "FusedNorm", "FusedPool"]

# Its share of the library's time that a kernel may take at most to be chosen.
_WORTH = 0.9
_LAST = torch.channels_last


class _Norm(torch.autograd.Function):
    """relu(batch_norm(x) + rest), with statistics of the batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rest: Tensor | None, norm: nn.BatchNorm2d, relu: bool, *_: Tensor | None
    ) -> Tensor:
        out = torch.empty_like(x, memory_format=_LAST)
        channels = x.shape[1]
        statistics = x.new_empty(4, channels, dtype=torch.float32)  # mean, 1 / deviation, slope and offset of the map
        kernel("norm_forward", x.dtype)(
            x.data_ptr(),
            None if rest is None else rest.data_ptr(),
            *_pointers(norm.weight, norm.bias, norm.running_mean, norm.running_var),
            out.data_ptr(),
            *_pointers(*statistics),
            x.numel() // channels,
            channels,
            norm.eps,
            norm.momentum,
            relu,
            torch.get_num_threads(),
        )
        ctx.save_for_backward(x, out if relu and rest is not None else None, norm.weight, statistics)
        ctx.relu, ctx.has_rest = relu, rest is not None
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, out, weight, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=_LAST)
        before = torch.empty_like(x, memory_format=_LAST)
        # Without ReLU the sum's gradient goes to both sides as it is.
        rest = torch.empty_like(x, memory_format=_LAST) if out is not None else None
        of_weight, of_bias = torch.empty_like(statistics[:2])
        channels = x.shape[1]
        kernel("norm_backward", x.dtype)(
            gradient.data_ptr(),
            *_pointers(x, out),
            ctx.relu,
            *_pointers(weight, *statistics),
            before.data_ptr(),
            *_pointers(rest, of_weight, of_bias),
            x.numel() // channels,
            channels,
            torch.get_num_threads(),
        )
        if ctx.has_rest and rest is None:
            rest = gradient
        learnt = (of_weight, of_bias) if weight is not None else (None, None)
        return before, rest, None, None, *learnt


class _Pool(torch.autograd.Function):
    """max_pool2d(relu(x)), or max_pool2d(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel_size: int, stride: int, padding: int, relu: bool) -> Tensor:
        count, channels, height, width = x.shape
        sides = [(side + 2 * padding - kernel_size) // stride + 1 for side in (height, width)]
        out = torch.empty(count, channels, *sides, dtype=x.dtype, memory_format=_LAST)
        place = torch.empty_like(out, dtype=torch.uint8)
        shape = PoolShape(count, height, width, channels, *sides, kernel_size, stride, padding)
        ctx.save_for_backward(place)
        ctx.shape, ctx.before = shape, x.shape
        threads = torch.get_num_threads()
        kernel("pool_forward", x.dtype)(*_pointers(x, out, place), shape, relu, threads)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (place,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=_LAST)
        before = torch.empty(ctx.before, dtype=gradient.dtype, memory_format=_LAST)
        threads = torch.get_num_threads()
        kernel("pool_backward", gradient.dtype)(*_pointers(gradient, place, before), ctx.shape, threads)
        return before, None, None, None, None


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _fits(x: Tensor) -> bool:
    """Return whether the kernels can read ``x``."""
    right = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return right and x.dim() == 4 and x.numel() > 0 and x.is_contiguous(memory_format=_LAST)


class Fused(nn.Module, ABC):
    """A place of the graph that has two ways: the library's, and ours where ``native`` says so.

    Attributes:
        native: whether our kernel is taken.
        measured: measure both ways in the next forward pass, and note the faster one here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.native, self.measured = True, None

    native: bool
    measured: Measured | None

    @abstractmethod
    def library(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return what the network's code says."""

    @abstractmethod
    def fused(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return the same by our kernel."""

    def can(self, x: Tensor, rest: Tensor | None) -> bool:
        """Return whether our kernel can do it."""
        return _fits(x) and (rest is None or (_fits(rest) and rest.shape == x.shape and rest.dtype == x.dtype))

    @abstractmethod
    def describe(self) -> str:
        """Return what the time depends on, beside the shape."""

    def forward(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return the output by the way that was chosen."""
        if self.measured is not None:
            self._measure(self.measured, x, rest)
        if self.native and self.can(x, rest):
            return self.fused(x, rest)
        return self.library(x, rest)

    def _measure(self, measured: Measured, x: Tensor, rest: Tensor | None) -> None:
        self.native, self.measured = False, None
        if self.can(x, rest):
            shape = "x".join(map(str, x.shape))
            what = f"{self.describe()}{' + rest' if rest is not None else ''} {shape} {x.dtype}"
            ways = {"library": self._back_and_forth(self.library, x, rest)}
            ways["fused"] = self._back_and_forth(self.fused, x, rest)
            self.native = measured.fastest(f"{what} {torch.get_num_threads()} threads", ways, _WORTH) == "fused"

    def _back_and_forth(
        self, way: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, rest: Tensor | None
    ) -> Callable[[], None]:
        def both() -> None:
            with torch.enable_grad():
                given = [one.detach().clone().requires_grad_() for one in (x, rest) if one is not None]
                begin = way(given[0], given[1] if len(given) > 1 else None)
                torch.autograd.grad(begin, given, torch.ones_like(begin))

        return both


class FusedNorm(Fused):
    """relu(norm(x) + rest) for maps [B, C, H, W]; addition and ReLU only where they stand in the graph."""

    def __init__(self, norm: nn.BatchNorm2d, relu: bool) -> None:
        super().__init__()
        self.norm, self.relu = norm, relu

    def library(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return what the network's code says."""
        out = self.norm(x)
        if rest is not None:
            out = out + rest
        return F.relu(out, inplace=True) if self.relu else out

    def fused(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return the same by our kernel."""
        norm = self.norm
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        out: Tensor = _Norm.apply(x, rest, norm, self.relu, norm.weight, norm.bias)
        return out

    def can(self, x: Tensor, rest: Tensor | None) -> bool:
        """Return whether our kernel can do it: frozen statistics and averages over all batches are the library's."""
        norm = self.norm
        return norm.training and norm.momentum is not None and x.numel() > x.shape[1] and super().can(x, rest)

    def describe(self) -> str:
        """Return what the time depends on, beside the shape."""
        return "norm relu" if self.relu else "norm"


class FusedPool(Fused):
    """Maximum pooling, after ReLU where that stands in the graph: [B, C, H, W] -> [B, C, H', W']."""

    def __init__(self, kernel_size: int, stride: int, padding: int, relu: bool) -> None:
        super().__init__()
        self.window, self.relu = (kernel_size, stride, padding), relu

    def library(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return what the network's code says."""
        del rest
        return F.max_pool2d(F.relu(x) if self.relu else x, *self.window)

    def fused(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return the same by our kernel."""
        del rest
        out: Tensor = _Pool.apply(x, *self.window, self.relu)
        return out

    def can(self, x: Tensor, rest: Tensor | None) -> bool:
        """Return whether our kernel can do it: every window sees a pixel."""
        kernel_size, _, padding = self.window
        return super().can(x, rest) and kernel_size <= min(x.shape[2:]) + 2 * padding

    def describe(self) -> str:
        """Return what the time depends on, beside the shape."""
        return f"{'relu ' if self.relu else ''}pool {'/'.join(map(str, self.window))}"
