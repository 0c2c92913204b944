"""What a training would do, without doing it: the settings that would take effect and the rate of each step."""

from __future__ import annotations

from typing import Any

from danlu.data.load import Data
from danlu.train.schedule import learning_rate
from danlu.train.start import choose, fresh, settled

__all__ = ["preview"]


def preview(
    data: Data,
    *,
    model: str = "auto",
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Return what :func:`danlu.train.train` would choose; nothing is written.

    Returns:
        ``effective`` as in ``config.json`` (a budget's epochs and the threads are only known once steps were measured),
        ``why``, ``steps`` in all, and ``learning_rates``, one a step.

    Raises:
        InputError: what training would refuse.
    """
    plan, why = choose(data, model=model, recipe=recipe, overrides=dict(overrides or {}), seed=seed, device=device)
    with settled(plan):
        training = fresh(plan, data)  # what fits this data and network only when it is built is found here
    config, steps = plan.config, training.total_steps
    rates = [learning_rate(step, steps, config.optimizer.lr, config.schedule, config.epochs) for step in range(steps)]
    return {"effective": plan.to_json(), "why": why, "steps": steps, "learning_rates": rates}
