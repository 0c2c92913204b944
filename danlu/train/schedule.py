"""The learning rate of each step, as a function of the step alone, so that resume needs no scheduler state.

Every schedule may begin with a linear warm-up and may move by step or by epoch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from danlu.core.settings import Settings

__all__ = [
    "ConstantSettings",
    "CosineSettings",
    "CyclicSettings",
    "LinearSettings",
    "OneCycleSettings",
    "PiecewiseSettings",
    "ScheduleSettings",
    "SgdrSettings",
    "StepSettings",
    "learning_rate",
]

Share = Annotated[float, Field(ge=0.0, le=1.0)]

# Of a share of the steps, or of an epoch: less than a step of any training.
_ROUNDING = 1e-9


class _Common(Settings):
    """What all schedules have.

    Attributes:
        warmup: share of all steps that rise linearly from nothing, before the schedule begins.
        by_epoch: after the warm-up the rate stays the same within an epoch, as most papers have it.
    """

    warmup: float = Field(default=0.0, ge=0.0, lt=1.0)
    by_epoch: bool = False


class ConstantSettings(_Common):
    """The peak throughout."""

    name: Literal["constant"] = "constant"


class CosineSettings(_Common):
    """Half a cosine from the peak down (Loshchilov and Hutter 2016).

    Attributes:
        final: learning rate at the end, as a share of the peak.
    """

    name: Literal["cosine"] = "cosine"
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)
    final: Share = 0.0


class LinearSettings(_Common):
    """A straight line from the peak down.

    Attributes:
        final: learning rate at the end, as a share of the peak.
    """

    name: Literal["linear"] = "linear"
    final: Share = 0.0


class StepSettings(_Common):
    """Multiplied by ``factor`` after each of ``milestones`` (He et al. 2015: a tenth at 1/2 and 3/4).

    Attributes:
        milestones: shares of the steps after the warm-up, rising.
        factor: what the rate is multiplied by at each.
    """

    name: Literal["step"] = "step"
    milestones: tuple[Share, ...] = (0.5, 0.75)
    factor: float = Field(default=0.1, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _rising(self) -> StepSettings:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, got {self.milestones}")
        return self


class PiecewiseSettings(_Common):
    """Straight lines between points (share of the steps, share of the peak).

    Attributes:
        points: in rising order of the first number; before the first and after the last the rate stays.
    """

    name: Literal["piecewise"] = "piecewise"
    points: tuple[tuple[Share, Share], ...] = ((0.0, 0.0), (0.2, 1.0), (1.0, 0.0))

    @model_validator(mode="after")
    def _rising(self) -> PiecewiseSettings:
        shares = [share for share, _ in self.points]
        if not shares or shares != sorted(set(shares)):
            raise ValueError(f"points must have rising first numbers, got {self.points}")
        return self


class CyclicSettings(_Common):
    """Triangles between ``floor`` and the peak (Smith 2015).

    Attributes:
        cycles: triangles in all.
        floor: lowest rate, as a share of the peak.
        decay: what the height of each triangle is, relative to the one before.
    """

    name: Literal["cyclic"] = "cyclic"
    cycles: int = Field(default=4, ge=1, le=10_000)
    floor: Share = 0.1
    decay: float = Field(default=1.0, gt=0.0, le=1.0)


class OneCycleSettings(_Common):
    """Up along half a cosine and down along another, far below the start (Smith and Topin 2017).

    Attributes:
        rise: share of the steps that rise.
        start: first rate, as a share of the peak.
        final: last rate, as a share of the peak.
    """

    name: Literal["one_cycle"] = "one_cycle"
    rise: float = Field(default=0.3, gt=0.0, lt=1.0)
    start: Share = 0.04
    final: Share = 4e-6


class SgdrSettings(_Common):
    """Cosines with warm restarts (Loshchilov and Hutter 2016): T_0, T_0·T_mult, T_0·T_mult², … epochs.

    Attributes:
        t_0: epochs of the first cosine, a thousandth at least.
        t_mult: how much longer each is than the one before.
        final: lowest rate, as a share of the peak.
    """

    name: Literal["sgdr"] = "sgdr"
    t_0: float = Field(default=10.0, ge=1e-3)
    t_mult: float = Field(default=2.0, ge=1.0)
    final: Share = 0.0


ScheduleSettings = Annotated[
    ConstantSettings
    | CosineSettings
    | LinearSettings
    | StepSettings
    | PiecewiseSettings
    | CyclicSettings
    | OneCycleSettings
    | SgdrSettings,
    Field(discriminator="name"),
]


def learning_rate(step: int, total: int, peak: float, schedule: ScheduleSettings, epochs: int = 1) -> float:
    """Return the learning rate of ``step``, counted from 0, of ``total`` steps.

    Over the warm-up it rises linearly to ``peak``; its first step is already above 0. What falls reaches its end at the
    step after the last.

    Args:
        step: which one.
        total: steps of the whole training.
        peak: the highest rate.
        schedule: its form.
        epochs: of the whole training; only what counts in epochs needs them.
    """
    per_epoch = total / epochs
    warmup = round(total * schedule.warmup)
    if step < warmup:
        # Always by step: a whole epoch at the first of its rates would be an epoch lost.
        return peak * (step + 1) / (warmup + 1)
    if schedule.by_epoch:
        step = max(warmup, round(step // per_epoch * per_epoch))
    done = (step - warmup) / max(total - warmup, 1)
    return peak * _SHAPES[type(schedule)](schedule, done, (total - warmup) / per_epoch)


def _fall(share: float, final: float) -> float:
    """Return half a cosine from 1 down to ``final``."""
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * share))


def _piecewise(schedule: PiecewiseSettings, done: float, epochs: float) -> float:
    points = schedule.points
    if done <= points[0][0]:
        return points[0][1]
    for (begin, low), (end, high) in itertools.pairwise(points):
        if done <= end:
            return low + (high - low) * (done - begin) / (end - begin)
    return points[-1][1]


def _cyclic(schedule: CyclicSettings, done: float, epochs: float) -> float:
    cycle, place = divmod(done * schedule.cycles, 1.0)
    height = (1.0 - abs(2.0 * place - 1.0)) * schedule.decay ** int(cycle)
    return schedule.floor + (1.0 - schedule.floor) * height


def _one_cycle(schedule: OneCycleSettings, done: float, epochs: float) -> float:
    if done < schedule.rise:
        return 1.0 - (1.0 - schedule.start) * _fall(done / schedule.rise, 0.0)
    return _fall((done - schedule.rise) / (1.0 - schedule.rise), schedule.final)


def _sgdr(schedule: SgdrSettings, done: float, epochs: float) -> float:
    # A restart must not be missed because its share of all steps is no whole number of them by a rounding.
    epoch, length = done * epochs, schedule.t_0
    while epoch >= length - _ROUNDING:
        epoch = max(epoch - length, 0.0)
        length *= schedule.t_mult
    return _fall(epoch / length, schedule.final)


_SHAPES: dict[type[Settings], Callable[[Any, float, float], float]] = {
    ConstantSettings: lambda schedule, done, epochs: 1.0,
    CosineSettings: lambda schedule, done, epochs: _fall(done, schedule.final),
    LinearSettings: lambda schedule, done, epochs: 1.0 - (1.0 - float(schedule.final)) * done,
    StepSettings: lambda schedule, done, epochs: (
        float(schedule.factor) ** sum(done >= milestone - _ROUNDING for milestone in schedule.milestones)
    ),
    PiecewiseSettings: _piecewise,
    CyclicSettings: _cyclic,
    OneCycleSettings: _one_cycle,
    SgdrSettings: _sgdr,
}
