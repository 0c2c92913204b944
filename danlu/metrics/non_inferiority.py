"""Whether a network is not worse than another by more than a margin, both asked the same pictures.

The pictures on which both are right or both wrong say nothing; what counts are those on which they differ. The interval
of the difference is the adjusted Wald interval of Agresti and Min 2005, "Simple improved confidence intervals for
comparing matched proportions": half a picture is added to each of the four cells of the table, so that it does not
shrink to nothing when the two never differ. Not worse: its lower end is above minus the margin.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from danlu.metrics.accuracy import Z_95

__all__ = ["non_inferiority"]


def non_inferiority(baseline: ArrayLike, candidate: ArrayLike, margin: float, z: float = Z_95) -> dict[str, Any]:
    """Compare two networks on the same N pictures.

    Args:
        baseline: which pictures the reference has right: true or false, [N], or [seeds, N] of several trainings.
        candidate: the same of the network in question; of as many pictures, in the same order.
        margin: how much worse it may be, in points of accuracy (0.30 is 0.30 %).
        z: point of the normal distribution; the default gives a two-sided interval of 95 %, so that the one-sided error
            of the claim is 2.5 %.

    Returns:
        ``difference`` (candidate - baseline), ``low``, ``high`` and ``margin`` in points, ``n``, ``seeds``, ``gained``
        and ``lost`` (pictures only the candidate, only the baseline has right; of all seeds), ``holds``.

    Raises:
        ValueError: shapes that differ or no pictures, or a negative margin.
    """
    a, b = (np.atleast_2d(np.asarray(one)).astype(bool) for one in (baseline, candidate))
    if a.shape != b.shape or a.ndim != 2 or not a.shape[1]:
        raise ValueError(f"baseline {a.shape} and candidate {b.shape}: both must be [N] or [seeds, N], N above 0")
    if margin < 0:
        raise ValueError(f"margin = {margin}: must not be negative")
    seeds, n = a.shape
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
    # Trainings share their pictures: what one picture contributes is its mean over them, and pictures are what varies.
    each = (b.astype(np.float64) - a.astype(np.float64)).mean(axis=0)
    total, squares = float(each.sum()), float(np.square(each).sum())
    # Half a picture in each cell: two pictures more, one of which differs, half to each side.
    centre, squares = total / (n + 2), (squares + 1.0) / (n + 2)
    half = z * math.sqrt(max(squares - centre * centre, 0.0) / (n + 2))
    low, high = centre - half, centre + half
    return {
        "difference": 100 * total / n,
        "low": 100 * low,
        "high": 100 * high,
        "margin": margin,
        "n": n,
        "seeds": seeds,
        "gained": gained,
        "lost": lost,
        "holds": bool(100 * low > -margin),
    }
