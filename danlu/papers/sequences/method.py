"""Sequential MNIST waits for the sequence models."""

from __future__ import annotations

from danlu.papers.kinds import Attempt, Measured, NotRunnable

__all__ = ["sequential"]


def sequential(attempt: Attempt, network: str) -> Measured:
    """Return the test accuracy of a network that reads the pixels one after the other.

    Raises:
        NotRunnable: always, until the zoo has sequence models.
    """
    raise NotRunnable(attempt.row.reason)
