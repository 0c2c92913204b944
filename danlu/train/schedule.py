"""The learning rate of each step, as a function of the step alone, so that resume needs no scheduler state."""

from __future__ import annotations

import math

from danlu.train.settings import ScheduleSettings

__all__ = ["learning_rate"]


def learning_rate(step: int, total: int, peak: float, schedule: ScheduleSettings) -> float:
    """Return the learning rate of ``step``, counted from 0, of ``total`` steps.

    It rises linearly to ``peak`` over the warm-up, whose first step is already above 0, then falls along half a cosine
    (Loshchilov and Hutter 2016) to ``peak * schedule.final``, which the step after the last would have.
    """
    warmup = round(total * schedule.warmup)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    return peak * (schedule.final + (1.0 - schedule.final) * 0.5 * (1.0 + math.cos(math.pi * done)))
