"""The grid of an augmented batch: every picture whole, enlarged by whole pixels."""

from __future__ import annotations

import numpy as np
import pytest

from danlu.train.pictures import grid


@pytest.mark.parametrize("shape", [(5, 8, 8, 1), (13, 32, 32, 3), (1, 60, 44, 3), (2, 200, 100, 3)])
def test_every_picture_stands_in_the_grid(shape: tuple[int, int, int, int]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    canvas = grid(pictures, columns=4, cell=56)
    count, height, width, _ = shape
    factor = max(1, 56 // max(height, width))
    for place in range(count):
        y = 2 + place // 4 * (height * factor + 2)
        x = 2 + place % 4 * (width * factor + 2)
        cell = canvas[y : y + height * factor : factor, x : x + width * factor : factor]
        np.testing.assert_array_equal(cell, np.broadcast_to(pictures[place], cell.shape))
    assert canvas.dtype == np.uint8
    assert (canvas[0] == 255).all()
