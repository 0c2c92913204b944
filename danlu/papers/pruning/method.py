"""One weight in twelve: the networks are trained, pruned with retraining and measured as coded files."""

from __future__ import annotations

from danlu.papers.compressing import compressed
from danlu.papers.kinds import Attempt, Measured

__all__ = ["error"]


def error(attempt: Attempt, keep: float) -> Measured:
    """Return the test error with the share ``keep`` of all weights left."""
    return compressed(attempt, "prune", {"keep": keep, "by": "sensitivity", "rounds": 4, "epochs": 4})
