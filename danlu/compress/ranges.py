"""Quantisers whose ranges learn by gradient: LSQ, PACT, and a learned minimum and maximum.

A rounded value is ``step · (integer − zero)``, the integer one of ``low … high``. Going forward all three round alike;
what differs is the gradient that moves the range. x passes its gradient on where it lies within the range.

- ``lsq``: the step learns (Esser et al., "Learned Step Size Quantization", 2020, equations 2 to 5): with u = x / step,
  its gradient is round(u) − u within the range, ``low`` below it, ``high`` above it, times 1 / √(N · high).
- ``pact``: the clip α learns (Choi et al., "PACT: Parameterized Clipping Activation", 2018, equation 3): its gradient
  is 1 where x reaches α, else 0, and α is held back by an L2 penalty. The paper has unsigned activations; for signed
  values the other end moves with α and counts −1.
- ``minmax``: both ends learn. With u = (x − min) / step of n steps, max gets (round(u) − u) / n within the range and 1
  above it, min the opposite of the first and 1 below (the straight-through gradient of an affine quantiser).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Lattice", "LearnedClip", "LearnedRange", "LearnedStep", "Quantiser", "Ranges", "best_shrink", "limits"]

Ranges = Literal["lsq", "pact", "minmax"]
# Shares of the largest value that are tried for the first range, and how many values of a tensor are looked at.
_SHARES = 40
_SEEN = 1 << 16
_LEAST = 1e-8


def limits(bits: int, signed: bool) -> tuple[int, int]:
    """Return the least and the largest integer: 0 … 2ᵇ − 1, or −2ᵇ⁻¹ … 2ᵇ⁻¹ − 1."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


class LearnedStep(torch.autograd.Function):
    """LSQ: ``apply(x, step, low, high, scale)``; ``step`` broadcasts against x, ``scale`` multiplies its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int, scale: float) -> Tensor:
        """Return x rounded to the lattice."""
        ctx.save_for_backward(x, step)
        ctx.low, ctx.high, ctx.scale = low, high, scale
        return (x / step).round_().clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of x and step."""
        (grad,) = grads
        x, step = ctx.saved_tensors
        u = x / step
        below, above = u <= ctx.low, u >= ctx.high
        of_step = (u.round() - u).masked_fill_(below, ctx.low).masked_fill_(above, ctx.high)
        of_step = (grad * of_step).sum_to_size(step.shape) * ctx.scale
        return grad.masked_fill(below | above, 0.0), of_step, None, None, None


class LearnedClip(torch.autograd.Function):
    """PACT: ``apply(x, alpha, low, high)``; the step is alpha / high."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, low: int, high: int) -> Tensor:
        """Return x clipped and rounded to the lattice."""
        ctx.save_for_backward(x, alpha)
        ctx.least = low / high
        step = alpha / high
        return (x / step).round_().clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of x and alpha."""
        (grad,) = grads
        x, alpha = ctx.saved_tensors
        above, below = x >= alpha, x <= ctx.least * alpha
        of_alpha = (grad * above).sum_to_size(alpha.shape)
        if ctx.least < 0:
            of_alpha = of_alpha - (grad * below).sum_to_size(alpha.shape)
        return grad.masked_fill(below | above, 0.0), of_alpha, None, None


class LearnedRange(torch.autograd.Function):
    """Learned ends: ``apply(x, least, most, levels)``; the range holds 0 and is moved until 0 is an integer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: Tensor, most: Tensor, levels: int) -> Tensor:
        """Return x clipped and rounded to the lattice."""
        step = (most - least) / levels
        zero = (-least / step).round().clamp(0, levels)
        ctx.save_for_backward(x, step, zero)
        ctx.levels = levels
        return ((x / step).round_().add_(zero).clamp_(0, levels) - zero).mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of x, least and most."""
        (grad,) = grads
        x, step, zero = ctx.saved_tensors
        u = x / step + zero
        below, above = u <= 0, u >= ctx.levels
        share = ((u.round() - u) / ctx.levels).masked_fill_(below | above, 0.0)
        of_least = (grad * (below.to(u.dtype) - share)).sum_to_size(step.shape)
        of_most = (grad * (above.to(u.dtype) + share)).sum_to_size(step.shape)
        return grad.masked_fill(below | above, 0.0), of_least, of_most, None


class Lattice:
    """What a quantiser has learned: ``step`` [C] or [1] and ``zero`` [1], both float32; integers ``low`` … ``high``."""

    def __init__(self, step: Tensor, zero: Tensor, low: int, high: int) -> None:
        self.step, self.zero, self.low, self.high = step, zero, low, high


class Quantiser(nn.Module):
    """Rounds a tensor to a lattice whose range learns.

    Args:
        kind: which gradient moves the range.
        bits: of an integer.
        values: a sample of what will be rounded; the first range is the one of least squared error on it.
        channels: one range for each of the first dimension (weights); else one for all.

    Attributes:
        signed: whether integers below zero are used.
    """

    def __init__(self, kind: Ranges, bits: int, values: Tensor, channels: bool = False) -> None:
        super().__init__()
        values = values.detach().float()
        self.kind, self.channels = kind, channels
        self.signed = channels or bool(values.min() < 0)
        self.low, self.high = limits(bits, self.signed)
        if channels and bits == 8:
            self.low = -self.high  # the 256th integer would cost the symmetry that int8 kernels are made for
        self._shape = (-1, *[1] * (values.dim() - 1)) if channels else (1,)
        # LSQ: N is how many values share the step; for activations those of one picture.
        self._count = values.numel() // (len(values) or 1)
        if kind == "minmax" and not channels:
            least, most = values.min().clamp(max=0.0), values.max().clamp(min=_LEAST)
            share = _ends_shrink(values, least, most, 2**bits - 1)
            self.low, self.high = 0, 2**bits - 1
            self.range = nn.Parameter(torch.stack([least, most]) * share)
        else:
            step = best_shrink(values, self.low, self.high, channels)
            self.range = nn.Parameter(step if kind == "lsq" else step * self.high)
        self.register_buffer("floor", self.range.detach().abs().amax() * 1e-4, persistent=False)

    @property
    def is_range(self) -> bool:
        """Whether both ends learn; else one number a channel does."""
        return self.kind == "minmax" and not self.channels

    def forward(self, x: Tensor) -> Tensor:
        """Return x rounded, in its shape."""
        out: Any
        if self.is_range:
            out = LearnedRange.apply(x, self.range[:1], self.range[1:], self.high)
        elif self.kind == "lsq":
            scale = (self._count * self.high) ** -0.5
            out = LearnedStep.apply(x, self.range.view(self._shape), self.low, self.high, scale)
        else:
            out = LearnedClip.apply(x, self.range.view(self._shape), self.low, self.high)
        rounded: Tensor = out
        return rounded

    @torch.no_grad()
    def settle(self) -> None:
        """Keep the range open after a step of the optimiser: steps and clips positive, 0 between the ends."""
        floor: Any = self.floor
        if self.is_range:
            self.range[0].clamp_(max=0.0)
            self.range[1].copy_(torch.maximum(self.range[1], self.range[0] + floor).clamp(min=0.0))
        else:
            self.range.clamp_(min=float(floor))

    @torch.no_grad()
    def lattice(self) -> Lattice:
        """Return what was learned, for the deployed network."""
        if self.is_range:
            step = (self.range[1:] - self.range[:1]) / self.high
            zero = (-self.range[:1] / step).round().clamp(0, self.high)
            return Lattice(step.clone(), zero, 0, self.high)
        step = self.range if self.kind == "lsq" else self.range / self.high
        return Lattice(step.clone(), torch.zeros_like(step[:1]), self.low, self.high)


def _sample(values: Tensor) -> Tensor:
    flat = values.flatten()
    return flat[:: max(1, flat.numel() // _SEEN)]


@torch.no_grad()
def best_shrink(values: Tensor, low: int, high: int, channels: bool = False) -> Tensor:
    """Return the step of least squared error, [C] for values [C, …] with ``channels``, else [1]; tried on a grid."""
    rows = values.flatten(1) if channels else _sample(values)[None]
    most = rows.abs().amax(1, keepdim=True).clamp(min=_LEAST)
    best, found = torch.full_like(most, torch.inf), most / high
    for k in range(1, _SHARES + 1):
        step = most * (k / _SHARES) / high
        error = ((rows / step).round().clamp(low, high) * step - rows).square().mean(1, keepdim=True)
        better = error < best
        best, found = torch.where(better, error, best), torch.where(better, step, found)
    return found.flatten()


@torch.no_grad()
def _ends_shrink(values: Tensor, least: Tensor, most: Tensor, levels: int) -> Tensor:
    """Return the share of both ends that gives the least squared error."""
    rows = _sample(values)
    best, found = torch.tensor(torch.inf), torch.ones(())
    for k in range(1, _SHARES + 1):
        low, high = least * k / _SHARES, most * k / _SHARES
        step = (high - low) / levels
        zero = (-low / step).round()
        error = (((rows / step).round() + zero).clamp(0, levels).sub(zero).mul(step) - rows).square().mean()
        if error < best:
            best, found = error, torch.tensor(k / _SHARES)
    return found.to(values.device)
