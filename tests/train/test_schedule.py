"""Every schedule against torch's own or its paper's formula; a warm-up before each; by step or by epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from danlu.core.errors import InputError
from danlu.core.settings import apply_overrides
from danlu.train.recipes import RECIPES
from danlu.train.schedule import (
    ConstantSettings,
    CosineSettings,
    CyclicSettings,
    LinearSettings,
    OneCycleSettings,
    PiecewiseSettings,
    SgdrSettings,
    StepSettings,
    learning_rate,
)
from danlu.train.settings import TrainConfig

TOTAL, EPOCHS, PEAK = 120, 12, 0.4
ALL: list[Any] = [
    ConstantSettings(),
    CosineSettings(warmup=0.0),
    LinearSettings(),
    StepSettings(),
    PiecewiseSettings(),
    CyclicSettings(),
    OneCycleSettings(),
    SgdrSettings(t_0=2),
]


def rates(schedule: Any, total: int = TOTAL) -> list[float]:
    return [learning_rate(step, total, PEAK, schedule, EPOCHS) for step in range(total)]


def torchs(make: Any, total: int = TOTAL) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (CosineSettings(warmup=0.0), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, TOTAL)),
        (LinearSettings(), lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, TOTAL)),
        (StepSettings(), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [TOTAL // 2, 3 * TOTAL // 4])),
        (SgdrSettings(t_0=4, t_mult=2), lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 40, 2)),
        (
            CyclicSettings(cycles=3, floor=0.1),
            lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.1 * PEAK, PEAK, 20, cycle_momentum=False),
        ),
        (
            CyclicSettings(cycles=3, floor=0.1, decay=0.5),
            lambda o: torch.optim.lr_scheduler.CyclicLR(
                o, 0.1 * PEAK, PEAK, 20, mode="triangular2", cycle_momentum=False
            ),
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_torch_gives_the_same(schedule: Any, make: Any) -> None:
    assert rates(schedule) == pytest.approx(torchs(make), abs=1e-9)


def test_one_cycle_is_torchs_but_for_where_its_last_step_stands() -> None:
    """torch reaches the final rate at the last step, here it is that of the step after the last."""
    theirs = torchs(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, PEAK, TOTAL + 1, pct_start=37 / 121, final_div_factor=1e4, cycle_momentum=False
        )
    )
    assert rates(OneCycleSettings(rise=0.3)) == pytest.approx(theirs, abs=1e-8)


def test_piecewise() -> None:
    found = rates(PiecewiseSettings(points=((0.1, 0.5), (0.2, 1.0), (0.9, 0.0))))
    assert found[0] == found[12] == 0.5 * PEAK
    assert found[18] == pytest.approx(0.75 * PEAK)
    assert found[24] == pytest.approx(PEAK)
    assert found[66] == pytest.approx(0.5 * PEAK)
    assert found[108] == found[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ALL, ids=lambda one: str(one.name))
def test_a_warm_up_before_each(schedule: Any) -> None:
    warm = rates(schedule.model_copy(update={"warmup": 0.1}))
    assert warm[:12] == pytest.approx([PEAK * (step + 1) / 13 for step in range(12)])
    assert warm[12] == pytest.approx(rates(schedule)[0])
    assert all(math.isfinite(rate) and -1e-12 <= rate <= PEAK * (1 + 1e-9) for rate in warm)


@pytest.mark.parametrize("schedule", ALL, ids=lambda one: str(one.name))
def test_by_epoch_it_stays_within_one(schedule: Any) -> None:
    found = rates(schedule.model_copy(update={"by_epoch": True}))
    steps = rates(schedule)
    for epoch in range(EPOCHS):
        assert set(found[10 * epoch : 10 * epoch + 10]) == {steps[10 * epoch]}


def test_by_epoch_the_warm_up_still_moves_by_step() -> None:
    found = rates(StepSettings(warmup=0.125, by_epoch=True, milestones=(0.5,)))
    assert found[:15] == pytest.approx([PEAK * (step + 1) / 16 for step in range(15)])
    assert found[15:70] == [PEAK] * 55, "an epoch that begins before the middle keeps its rate"
    assert found[70:] == pytest.approx([0.1 * PEAK] * 50)


def test_the_table_of_43_networks_warms_up_for_an_epoch_and_falls_after_60_120_and_160() -> None:
    config = RECIPES.get("cifar100-table")(50_000)
    found = [learning_rate(step, 200 * 390, 0.1, config.schedule, 200) for step in range(200 * 390)]
    assert found[:390] == pytest.approx(np.arange(1, 391) * 0.1 / 391)
    falls = {step: rate for step, rate in enumerate(found) if step >= 390 and rate != found[step - 1]}
    assert falls == pytest.approx({390: 0.1, 60 * 390: 0.02, 120 * 390: 0.004, 160 * 390: 0.0008})


@pytest.mark.parametrize(("first", "times", "epochs"), [(10, 1, 150), (20, 1, 300), (1, 2, 90)])
def test_no_restart_is_missed_by_a_rounding(first: int, times: int, epochs: int) -> None:
    schedule = SgdrSettings(t_0=first, t_mult=times)
    for per_epoch in range(5, 200, 3):
        epoch, length = first, first * times
        while epoch < epochs:
            assert learning_rate(epoch * per_epoch, epochs * per_epoch, 1.0, schedule, epochs) == pytest.approx(1.0)
            epoch, length = epoch + length, length * times


@pytest.mark.parametrize("schedule", ALL, ids=lambda one: str(one.name))
def test_one_step_is_enough(schedule: Any) -> None:
    assert math.isfinite(learning_rate(0, 1, PEAK, schedule, 1))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"schedule.name": "cosinus"}, "did you mean: cosine"),
        ({"schedule.name": "step", "schedule.milestones": [0.5, 0.2]}, "milestones must rise"),
        ({"schedule.name": "piecewise", "schedule.points": [[0.5, 1], [0.5, 0]]}, "rising first numbers"),
        ({"schedule.name": "sgdr", "schedule.t_mult": 0.5}, "schedule.t_mult = 0.5"),
        ({"schedule.name": "sgdr", "schedule.t_0": 1e-13}, "schedule.t_0 = 1e-13"),
        ({"schedule.cycles": 3}, "schedule.name = cosine has no key 'cycles'; cyclic has it"),
    ],
)
def test_what_does_not_fit_is_named(override: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        apply_overrides(TrainConfig(), override)
