"""Forty times smaller: pruning, shared weights and Huffman coding, measured in bytes of a file that is read again."""

from __future__ import annotations

from danlu.papers.compressing import compressed
from danlu.papers.kinds import Attempt, Measured

__all__ = ["coded"]


def coded(attempt: Attempt, keep: float) -> Measured:
    """Return the ratio or the test error of the coded file, pruned to the share of weights the paper keeps."""
    return compressed(attempt, "deep", {"prune.keep": keep, "prune.rounds": 4, "prune.epochs": 4})
