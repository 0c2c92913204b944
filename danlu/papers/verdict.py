"""The rule that compares our seeds with a published value, and the interval a second run must fall into.

*reproduced*: the mean is no worse than the published value by more than the margin, which is the row's tolerance or two
standard errors, whichever is larger. *better*: it is better by more than the margin; that is flagged, because it may
mean that something easier was measured. *close*: worse by at most twice the margin. *missed*: worse than that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["VERDICTS", "judge", "prediction_interval", "spread", "standard_error"]

VERDICTS = ("reproduced", "better", "close", "missed", "not run")

# Differences of decimal figures: 1.05 - 0.95 must count as 0.1.
_DIGITS = 9

# Two-sided 95 % points of Student's t for 1, 2, … 30 degrees of freedom; beyond them the normal one is near enough.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def spread(values: Sequence[float]) -> float:
    """Return the sample standard deviation of the seeds' values; 0 for a single one, which shows none."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean, s / √n."""
    return spread(values) / math.sqrt(len(values))


def judge(values: Sequence[float], published: float, tolerance: float, better: str) -> str:
    """Return the verdict on one row.

    Args:
        values: one a seed.
        published: what the paper says.
        tolerance: how much worse still counts as the same, in the unit of the values.
        better: ``lower``, ``higher`` or ``same`` (any difference is worse).

    Raises:
        ValueError: another word for ``better``.
    """
    if not values:
        return "not run"
    over = statistics.fmean(values) - published
    if better not in ("lower", "higher", "same"):
        raise ValueError(f"better = {better!r}: must be lower, higher or same")
    worse = round(over if better == "lower" else -over if better == "higher" else abs(over), _DIGITS)
    margin = round(max(tolerance, 2.0 * standard_error(values)), _DIGITS)
    if worse < -margin:
        return "better"
    if worse <= margin:
        return "reproduced"
    return "close" if worse <= round(2.0 * margin, _DIGITS) else "missed"


def prediction_interval(values: Sequence[float], more: int = 1) -> tuple[float, float] | None:
    """Return the 95 % interval for the mean of ``more`` further seeds; None where fewer than two were run.

    mean ± t · s · √(1/n + 1/m): both the recorded mean and the new one scatter.
    """
    if len(values) < 2:
        return None
    freedom = len(values) - 1
    t = _T[freedom - 1] if freedom <= len(_T) else 1.96
    half = t * spread(values) * math.sqrt(1.0 / len(values) + 1.0 / more)
    mean = statistics.fmean(values)
    return mean - half, mean + half
