"""AutoAugment: one of a list of sub-policies for each sample, each two operations with probability and level.

Source: Cubuk et al., AutoAugment: Learning Augmentation Policies from Data (2018), https://arxiv.org/abs/1805.09501,
tables 7 to 9: the policies found for CIFAR-10, SVHN and ImageNet.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.operations import OPERATIONS, STANDARD, Steps, number_of
from danlu.augment.policies import POLICIES
from danlu.augment.policy import Policy

__all__ = ["LEVELS", "AutoAugment", "Step", "SubPolicy"]

LEVELS = 10


def _known(name: str) -> str:
    if name not in OPERATIONS:
        raise ValueError(f"{name!r} is no operation; there are {', '.join(OPERATIONS)}")
    return name


Step = tuple[
    Annotated[str, AfterValidator(_known)],
    Annotated[float, Field(ge=0.0, le=1.0)],
    Annotated[int, Field(ge=0, lt=LEVELS)],
]
SubPolicy = tuple[Step, Step]


class AutoAugment(Policy):
    """Draw one sub-policy a sample; each of its two operations is applied with its own probability.

    Args:
        policy: the data set whose found policy is taken.
        sub_policies: others instead, each ``[[operation, probability, level 0…9], [operation, probability, level]]``,
            e.g. from :func:`danlu.augment.search.search`.
    """

    policy: Literal["cifar10", "svhn", "imagenet"] = "cifar10"
    sub_policies: tuple[SubPolicy, ...] = ()

    def chosen(self) -> tuple[SubPolicy, ...]:
        """Return the sub-policies that are drawn from."""
        return self.sub_policies or POLICIES[self.policy]

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Steps:
        """Return two steps for each of B samples."""
        policies = self.chosen()
        numbers = np.array([[number_of(name) for name, _, _ in policy] for policy in policies])
        chances = np.array([[chance for _, chance, _ in policy] for policy in policies])
        levels = np.array([[level for _, _, level in policy] for policy in policies])
        drawn = draws.integers(len(policies), "sub-policy")
        operations, strengths = [], []
        for step in range(2):
            applied = draws.uniform(f"chance-{step}") < chances[drawn, step]
            operation = np.where(applied, numbers[drawn, step], 0)
            negative = draws.uniform(f"sign-{step}") < 0.5
            share = levels[drawn, step] / (LEVELS - 1)
            operations.append(operation)
            strengths.append(STANDARD.magnitudes(operation, share, negative, sizes))
        return Steps(np.stack(operations, axis=1), np.stack(strengths, axis=1))


AUGMENTATIONS.register("autoaugment", AutoAugment, __name__, title="sub-policies found by search", geometric=True)
