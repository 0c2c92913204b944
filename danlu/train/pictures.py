"""The picture of one augmented batch that the report shows: what the network really sees."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from danlu.core import files, seeds
from danlu.train.batches import make_batch

if TYPE_CHECKING:
    from danlu.tasks.classification import Batch
    from danlu.train.loop import Training

__all__ = ["first_batch", "grid", "show_batch", "write_augmented"]

_COLUMNS, _ROWS, _GAP = 12, 4, 2
_CELL = 56


def grid(pictures: NDArray[np.uint8], columns: int = _COLUMNS, cell: int = _CELL) -> NDArray[np.uint8]:
    """Return uint8 pictures [B, H, W, C] side by side, each enlarged by whole pixels to about ``cell``.

    Returns:
        uint8 [rows, columns, 3], with white gaps.
    """
    count, height, width, channels = pictures.shape
    factor = max(1, cell // max(height, width))
    large = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    if channels == 1:
        large = large.repeat(3, axis=3)
    rows = -(-count // columns)
    step_y, step_x = height * factor + _GAP, width * factor + _GAP
    canvas = np.full((rows * step_y + _GAP, columns * step_x + _GAP, 3), 255, dtype=np.uint8)
    for place, picture in enumerate(large):
        y, x = _GAP + place // columns * step_y, _GAP + place % columns * step_x
        canvas[y : y + height * factor, x : x + width * factor] = picture
    return canvas


def first_batch(training: Training) -> Batch:
    """Return the first pictures of the first epoch, augmented as training sees them."""
    shown = max(1, _COLUMNS * _ROWS // training.config.repeats)
    order = seeds.permutation(len(training.train), "train/order", training.seed, 0)[:shown]
    return make_batch(training, order, training.train.loader.pictures(order), 0)


def show_batch(training: Training) -> None:
    """Give the trackers the first augmented pictures, and the graph of the network on two of them."""
    if not training.trackers.trackers:
        return
    pictures = first_batch(training).pictures
    training.trackers.tell("picture", "augmented", torch.from_numpy(grid(pictures.cpu().numpy())), 0)
    training.model.eval()
    training.trackers.tell("graph", training.model.network, training.model.preprocess(pictures[:2]))
    training.model.train()


def write_augmented(training: Training, path: Path) -> None:
    """Write the first pictures of the first epoch, augmented as training sees them, as a PNG file."""
    pictures: NDArray[np.uint8] = first_batch(training).pictures.cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(grid(pictures)).save(buffer, format="PNG", optimize=True)
    path.parent.mkdir(exist_ok=True)
    files.write_whole(path, buffer.getvalue())
