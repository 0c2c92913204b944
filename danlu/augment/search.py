"""A small search over sub-policies on a proxy: random ones are scored alone, then the best are put together greedily.

The proxy is the caller's: a function that trains something small and short with a policy and returns its validation
accuracy. AutoAugment's own search (Cubuk et al., 2018) trained 15,000 networks for this; random search followed by
taking the best K comes near it at a small part of the cost (Lim et al., Fast AutoAugment, 2019, keep the best of random
candidates in the same way).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from danlu.augment.autoaugment import LEVELS, AutoAugment, Step, SubPolicy
from danlu.augment.operations import OPERATIONS
from danlu.core import seeds
from danlu.core.errors import InputError, nearest_names
from danlu.core.log import logger

__all__ = ["Found", "Score", "Trial", "draw_sub_policies", "search"]

Score = Callable[[tuple[SubPolicy, ...]], float]

_STRENGTHLESS = ("autocontrast", "equalize", "invert")


@dataclass(frozen=True)
class Trial:
    """One call of the score.

    Args:
        policy: what was scored.
        score: what came out; higher is better.
    """

    policy: tuple[SubPolicy, ...]
    score: float


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        policy: the sub-policies kept, in the order in which they were taken.
        score: of the policy as a whole.
        trials: every call of the score, in order.
    """

    policy: tuple[SubPolicy, ...]
    score: float
    trials: tuple[Trial, ...]

    def augmentation(self) -> AutoAugment | None:
        """Return the policy as an augmentation, whose ``model_dump()`` are its settings; ``None`` if nothing helped."""
        return AutoAugment(sub_policies=self.policy) if self.policy else None


def draw_sub_policies(count: int, seed: int, operations: Sequence[str] = OPERATIONS[1:]) -> list[SubPolicy]:
    """Return ``count`` different sub-policies: operation, probability in tenths (0.1…1), level, twice.

    Raises:
        InputError: an operation there is not.
    """
    for name in operations:
        if name not in OPERATIONS:
            raise InputError(
                f"unknown operation {name!r}",
                where="search",
                nearest=nearest_names(name, OPERATIONS),
                allowed=OPERATIONS,
            )
    if not operations:
        raise InputError("no operations to search over", where="search", allowed=OPERATIONS)
    # Far more than needed, because two may be alike.
    numbers = np.arange(100 * count)
    draws = [
        [seeds.integers(high, f"search/{what}-{step}", seed, numbers).tolist() for what, high in _highs(operations)]
        for step in range(2)
    ]
    found: dict[SubPolicy, None] = {}
    for number in range(len(numbers)):
        first, second = (_step(operations[names[number]], *(row[number] for row in rest)) for names, *rest in draws)
        found.setdefault((first, second))
        if len(found) == count:
            return list(found)
    raise InputError(f"there are no {count} different sub-policies of {', '.join(operations)}", where="search")


def _highs(operations: Sequence[str]) -> list[tuple[str, int]]:
    return [("operation", len(operations)), ("probability", 10), ("level", LEVELS)]


def _step(name: str, tenths: int, level: int) -> Step:
    return name, (1 + tenths) / 10, 0 if name in _STRENGTHLESS else level


def search(
    score: Score,
    *,
    candidates: int = 64,
    shortlist: int = 16,
    keep: int = 5,
    seed: int = 0,
    operations: Sequence[str] = OPERATIONS[1:],
) -> Found:
    """Return the best policy of at most ``keep`` sub-policies.

    The empty policy and ``candidates`` random sub-policies are scored alone. Of the ``shortlist`` best, the one that
    helps the policy most is added to it until ``keep`` are taken or none helps: at most
    ``1 + candidates + keep · shortlist`` calls. The same seed and the same scores give the same result; of equal scores
    the one drawn first is taken.

    Args:
        score: validation accuracy of a short training with a policy (empty: without one). It must not see the test
            split, and must itself be repeatable where the search is to be.
        candidates: random sub-policies to try.
        shortlist: how many of them are tried together.
        keep: the greatest number of sub-policies of the policy.
        seed: of the candidates.
        operations: to build sub-policies from.

    Raises:
        InputError: a number below 1, an unknown operation, or a score that is not finite.
    """
    for name, value in (("candidates", candidates), ("shortlist", shortlist), ("keep", keep)):
        if value < 1:
            raise InputError(f"{name} = {value}", where="search", allowed=["1 and more"])
    trials: list[Trial] = []

    def scored(policy: tuple[SubPolicy, ...]) -> float:
        value = float(score(policy))
        if not math.isfinite(value):
            raise InputError(f"the score of {policy!r} is {value}", where="search", allowed=["finite numbers"])
        trials.append(Trial(policy, value))
        return value

    best = scored(())
    drawn = draw_sub_policies(candidates, seed, operations)
    alone = np.array([scored((one,)) for one in drawn])
    short = [drawn[place] for place in np.argsort(-alone, kind="stable")[:shortlist]]
    policy: tuple[SubPolicy, ...] = ()
    while len(policy) < keep:
        rest = [one for one in short if one not in policy]
        # The first round was scored already.
        values = [alone[drawn.index(one)] if not policy else scored((*policy, one)) for one in rest]
        if not values or max(values) <= best:
            break
        best = float(max(values))
        policy = (*policy, rest[int(np.argmax(values))])
        logger.info("search: %d sub-policies, score %.4f", len(policy), best)
    return Found(policy, best, tuple(trials))
