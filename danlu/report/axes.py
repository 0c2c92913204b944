"""Scales and ticks of charts: round numbers, few of them, on linear and logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Scale", "log_ticks", "tick_labels", "ticks", "whole_ticks"]


def _step(span: float, wanted: int) -> float:
    """Return the 1, 2 or 5 × 10ⁿ that cuts ``span`` into at most ``wanted`` parts."""
    raw = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5, 10):
        if raw <= factor * power * (1 + 1e-9):
            return factor * power
    raise AssertionError("unreachable")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round values that enclose [low, high]; equal ends are spread apart first."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    step = _step(high - low, wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(position * step, 12) for position in range(first, last + 1)]


def whole_ticks(low: int, high: int, wanted: int = 6) -> list[int]:
    """Return whole values inside [low, high], e.g. epochs; ``low`` is always one of them."""
    if high <= low:
        return [low]
    step = max(1, round(_step(high - low, wanted)))
    inside = [value for value in range(0, high + 1, step) if value > low]
    return [low, *(value for value in inside if value - low >= step / 2)]


def log_ticks(low: float, high: float, *, decades: bool = False) -> list[float]:
    """Return values of a logarithmic axis that enclose [low, high]: powers of ten, with 2 and 5 on short axes
    unless ``decades`` alone are wanted.
    """
    if low <= 0 or high < low:
        raise ValueError(f"a logarithmic axis needs 0 < low <= high, got {low} and {high}")
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last <= first:
        last = first + 1
    powers = range(first, last + 1)
    if decades or last - first > 3:
        step = math.ceil((last - first) / 7)
        last = first + step * math.ceil((last - first) / step)
        return [10.0**power for power in range(first, last + 1, step)]
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    below = [value for value in values if value <= low * (1 + 1e-9)]
    above = [value for value in values if value >= high * (1 - 1e-9)]
    return [value for value in values if below[-1] <= value <= (above[0] if above else values[-1])]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Return the labels of ticks, all with as many decimals as the finest step needs."""
    gaps = [abs(b - a) for a, b in pairwise(values)] or [abs(values[0]) or 1.0]
    smallest = min(gaps)
    places = 0 if smallest >= 1 else min(9, math.ceil(-math.log10(smallest) - 1e-9))
    return ["0" if value == 0 else f"{value:,.{places}f}" for value in values]


@dataclass(frozen=True)
class Scale:
    """Maps values of [low, high] to pixels of [start, end]; beyond the ends it stops there."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of ``value``, to a tenth."""
        if self.log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)
