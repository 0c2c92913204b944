"""One figure a file, in numpy, each with its interval where it has one.

A metric takes labels [N] and what it needs of the outputs, and returns figures as records hold them:
``{"value", "low", "high", "n"}``. The index says of each metric what it ``takes`` (``predictions`` [N] or
``log_probabilities`` [N, K]; of several labels a picture, which are [N, K] of 0 and 1, ``label_sets`` or
``label_scores`` [N, K]), which ``direction`` is better, and its ``unit``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from danlu.core.registry import Registry

__all__ = ["METRICS"]

METRICS: Registry[Callable[..., Any]] = Registry("metric", "danlu.metrics")
