"""3×3 matrices of the usual moves, vectorised over the samples, in float64.

Angles are in degrees and turn clockwise as seen (x to the right, y down). Where a centre is not given it is the middle
of the picture, (W/2, H/2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["affine_matrices", "perspective_matrices", "window_matrices"]

Matrices = NDArray[np.float64]
Value = float | NDArray[np.float64]


def affine_matrices(
    sizes: NDArray[np.int64],
    angle: Value = 0.0,
    translate: tuple[Value, Value] = (0.0, 0.0),
    scale: Value = 1.0,
    shear: tuple[Value, Value] = (0.0, 0.0),
    centre: tuple[float, float] | None = None,
) -> Matrices:
    """Return matrices [B, 3, 3]: shear along x, shear along y, scale, turn (all about the centre), then shift.

    The parameters mean what torchvision's ``affine`` means by them, so that equal ones give equal pictures.

    Args:
        sizes: [B, 2] (height, width).
        angle: [B] or one, degrees.
        translate: (x, y) in pixels, each [B] or one.
        scale: [B] or one, above 0.
        shear: (x, y) in degrees, each [B] or one, within (-90, 90).
        centre: (x, y) in pixels of all pictures; ``None`` is the middle of each.
    """
    count = len(sizes)
    turn, shear_x, shear_y = (np.broadcast_to(np.deg2rad(v), (count,)) for v in (angle, *shear))
    factor = np.broadcast_to(np.asarray(scale, dtype=np.float64), (count,))
    x, y = (sizes[:, 1] / 2, sizes[:, 0] / 2) if centre is None else (np.full(count, c) for c in centre)
    a, c = np.cos(turn - shear_y) / np.cos(shear_y), np.sin(turn - shear_y) / np.cos(shear_y)
    b, d = -a * np.tan(shear_x) - np.sin(turn), -c * np.tan(shear_x) + np.cos(turn)
    matrices = np.zeros((count, 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = a * factor, b * factor
    matrices[:, 1, 0], matrices[:, 1, 1] = c * factor, d * factor
    matrices[:, 0, 2] = x + translate[0] - matrices[:, 0, 0] * x - matrices[:, 0, 1] * y
    matrices[:, 1, 2] = y + translate[1] - matrices[:, 1, 0] * x - matrices[:, 1, 1] * y
    matrices[:, 2, 2] = 1.0
    return matrices


def window_matrices(sizes: NDArray[np.int64], windows: NDArray[np.float64]) -> Matrices:
    """Return matrices [B, 3, 3] that stretch windows [B, 4] (top, left, height, width) over the whole picture."""
    matrices = np.zeros((len(sizes), 3, 3))
    matrices[:, 0, 0] = sizes[:, 1] / windows[:, 3]
    matrices[:, 1, 1] = sizes[:, 0] / windows[:, 2]
    matrices[:, 0, 2] = -windows[:, 1] * matrices[:, 0, 0]
    matrices[:, 1, 2] = -windows[:, 0] * matrices[:, 1, 1]
    matrices[:, 2, 2] = 1.0
    return matrices


def perspective_matrices(start: NDArray[np.float64], end: NDArray[np.float64]) -> Matrices:
    """Return matrices [B, 3, 3] that take four points onto four others.

    Args:
        start: [B, 4, 2] points (x, y), no three on one line.
        end: [B, 4, 2] where they go.
    """
    count = len(start)
    system, right = np.zeros((count, 8, 8)), np.zeros((count, 8, 1))
    # Each point gives two equations in the matrix's eight unknown entries; the ninth is 1.
    for row, axis in ((slice(0, 8, 2), 0), (slice(1, 8, 2), 1)):
        system[:, row, 3 * axis : 3 * axis + 2] = start
        system[:, row, 3 * axis + 2] = 1.0
        system[:, row, 6:] = -start * end[:, :, axis, None]
        right[:, row, 0] = end[:, :, axis]
    solved = np.linalg.solve(system, right)[:, :, 0] if count else np.zeros((0, 8))
    return np.concatenate([solved, np.ones((count, 1))], axis=1).reshape(count, 3, 3)
