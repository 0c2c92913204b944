"""Copy-Paste: some objects of another sample are pasted onto the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Scene
from danlu.augment.partnered import Partnered, check_scenes, other_samples, per_box
from danlu.core import seeds
from danlu.core.errors import InputError

__all__ = ["CopyPaste"]

_KEYS = 2**31


class CopyPaste(Partnered):
    """A random part of the objects of one partner, pasted where they lie there (Ghiasi et al. 2021, section 3).

    With masks an object is those pixels of its box that are of its class; without, it is its box. What it covers is
    taken from the boxes below: with masks a box is drawn anew around what is left of it. As in the paper nothing is
    blended at the edges, which it found to make no difference; its large jitter of scale is a geometric augmentation
    before this one in the chain, which partners pass through too.

    Attributes:
        probability: of each object of the partner to be pasted.
    """

    probability: float = Field(default=0.5, ge=0.0, le=1.0)

    def partners(self, draws: Draws, count: int) -> NDArray[np.int64]:
        """Return int64 [B, 1]."""
        return other_samples(draws, count, 1)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a key for each sample, int64 [B], from which its objects' draws come: their number is not known."""
        del sizes
        return draws.integers(_KEYS, "objects")

    def chosen(self, key: int, objects: int) -> NDArray[np.bool_]:
        """Return [objects]: which objects of the partner are pasted."""
        drawn = seeds.uniform("copy_paste/object", key, np.arange(objects, dtype=np.int64))
        return np.asarray(drawn < self.probability, dtype=np.bool_)

    def apply(self, scene: Scene, parameters: NDArray[np.int64], partners: Sequence[Scene] = ()) -> Scene:
        """Return the pictures with objects pasted; their boxes come after those of the picture.

        Raises:
            InputError: no boxes or labels; see also :func:`danlu.augment.partnered.check_scenes`.
        """
        check_scenes("copy_paste", scene, partners, 1)
        if scene.boxes is None or scene.labels is None:
            raise InputError("pastes objects, and the samples have no boxes with labels", where="copy_paste")
        other = partners[0]
        assert other.boxes is not None
        assert other.labels is not None
        pictures, masks = scene.pictures.clone(), None if scene.masks is None else scene.masks.clone()
        boxes, visible, labels = [], [], []
        seen, seen_there = per_box(scene), per_box(other)
        for i, key in enumerate(parameters.tolist()):
            there = (seen_there[i] > 0).cpu().numpy()
            rows = torch.from_numpy(np.flatnonzero(self.chosen(key, len(there)) & there))
            pasted = torch.zeros(pictures.shape[1:3], dtype=torch.bool, device=pictures.device)
            for row in rows.tolist():
                pasted |= _pixels(other, i, other.boxes[i][row], int(other.labels[i][row]))
            left, share = _uncovered(scene, i, seen[i], pasted)
            pictures[i][pasted] = other.pictures[i][pasted]
            if masks is not None and other.masks is not None:
                masks[i][pasted] = other.masks[i][pasted]
            boxes.append(torch.cat([left, other.boxes[i][rows].float()]))
            visible.append(torch.cat([share, seen_there[i][rows].to(share)]))
            labels.append(torch.cat([scene.labels[i], other.labels[i][rows]]))
        return replace(scene, pictures=pictures, masks=masks, boxes=boxes, visible=visible, labels=labels)


def _pixels(scene: Scene, i: int, box: torch.Tensor, label: int) -> torch.Tensor:
    """Return bool [H, W]: the pixels of one object of sample ``i``; those whose middle its box covers."""
    height, width = scene.pictures.shape[1:3]
    y = torch.arange(height, device=scene.pictures.device) + 0.5
    x = torch.arange(width, device=scene.pictures.device) + 0.5
    x1, y1, x2, y2 = box.tolist()
    rows, columns = (y >= y1) & (y < y2), (x >= x1) & (x < x2)
    inside = torch.logical_and(rows[:, None], columns)
    return inside if scene.masks is None else torch.logical_and(inside, scene.masks[i] == label)


def _uncovered(scene: Scene, i: int, visible: torch.Tensor, pasted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the boxes [n, 4] of sample ``i`` below what is pasted, and how much of each is still seen [n]."""
    assert scene.boxes is not None
    assert scene.labels is not None
    boxes, share = scene.boxes[i].float().clone(), visible.float().clone()
    for row, label in enumerate(scene.labels[i].tolist()):
        own = _pixels(scene, i, boxes[row], label)
        left = own & ~pasted
        before, after = int(own.sum()), int(left.sum())
        if after == before:
            continue
        share[row] *= after / before
        if after and scene.masks is not None:
            y, x = torch.nonzero(left, as_tuple=True)
            tight = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).to(boxes)
            # Never larger than it was: a box may lie between pixels.
            boxes[row, :2] = torch.maximum(boxes[row, :2], tight[:2])
            boxes[row, 2:] = torch.minimum(boxes[row, 2:], tight[2:])
    return boxes, share


AUGMENTATIONS.register("copy_paste", CopyPaste, __name__, title="objects of another sample pasted", partners=1)
