"""The learning-rate range test (Smith 2015): the rate grows from step to step until the loss explodes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core import seeds
from danlu.core.log import progress
from danlu.data.load import Data
from danlu.models import MODELS
from danlu.models.hub import find_weights
from danlu.train.batches import make_batch
from danlu.train.start import check_start, choose, fresh, settled, take_over

__all__ = ["find_rate", "suggest"]

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120
# Of the running mean of the losses; a single batch says little.
_SMOOTH = 0.9
_EXPLODED = 4.0


def find_rate(
    data: Data,
    *,
    model: str = "auto",
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    weights: Path | None = None,
) -> dict[str, Any]:
    """Train a network for at most 120 steps under a rate that grows from 1e-6 to 10; nothing is written.

    It is fresh, or begins from ``weights``, with the stages frozen that are frozen in the first epoch.

    Returns:
        ``rates`` and smoothed ``losses``, one a step, and ``suggested``: a tenth of the rate of the least loss, as is
        usual (None where the loss never fell).

    Raises:
        InputError: what training would refuse.
    """
    plan, _ = choose(data, model=model, recipe=recipe, overrides=dict(overrides or {}), seed=seed, device=device)
    check_start(plan.config, weights)
    plan = plan.with_threads(threads or plan.threads)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    with settled(plan), progress("find rate", STEPS, "steps") as bar:
        training = fresh(plan, data)
        if weights is not None:
            take_over(training, plan, find_weights(weights, MODELS.get(plan.model)))
        training.model.train()
        if training.transfer is not None:
            training.transfer.begin(0)
        size = training.samples_a_step
        order = seeds.permutation(len(training.train), "train/order", seed, 0)
        for step in range(STEPS):
            chosen = np.take(order, np.arange(step * size, (step + 1) * size), mode="wrap")
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
            batch = make_batch(training, chosen, training.train.loader.pictures(chosen), 0)
            loss = float(training.do_step(batch, rate, step)["loss"].detach())
            mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
            smoothed = mean / (1 - _SMOOTH ** (step + 1))
            bar(step + 1, f"rate {rate:.1e}, loss {smoothed:.3f}")
            if not math.isfinite(smoothed) or (losses and smoothed > _EXPLODED * min(losses)):
                break
            rates.append(rate)
            losses.append(smoothed)
    return {"rates": rates, "losses": losses, "suggested": suggest(rates, losses)}


def suggest(rates: list[float], losses: list[float]) -> float | None:
    """Return a tenth of the rate of the least loss, None where no later loss is below the first."""
    if not losses:
        return None
    best = int(np.argmin(losses))
    return rates[best] / 10 if losses[best] < 0.98 * losses[0] else None
