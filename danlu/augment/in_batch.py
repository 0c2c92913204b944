"""What mixes the pictures of a batch with one another, and with them their labels.

Partners are a permutation of the batch that depends on (seed, epoch, repeat) and the batch's first sample, which no
other batch of the epoch begins with. So these are the augmentations whose draws depend on the batch a sample stands in;
they come last, when everything else has been done to the pictures.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment.base import Augmentation, Draws, Mix, Scene
from danlu.core import seeds
from danlu.core.errors import InputError

__all__ = ["InBatch", "Pairing", "cut_boxes", "paste_boxes", "symmetric_beta"]


@dataclass(frozen=True)
class Pairing:
    """How the pictures of one batch are mixed.

    Attributes:
        partner: int64 [B], the place in the batch of each picture's partner.
        share: float64 [B] in [0, 1], how much is left of the picture itself.
        boxes: int64 [B, 4], the rectangle (x1, y1, x2, y2) that comes from the partner, empty where the whole picture
            is mixed; None where no picture is cut.
        whole: bool [B], which pictures are mixed as a whole rather than cut; None: all of them, or none with ``boxes``.
    """

    partner: NDArray[np.int64]
    share: NDArray[np.float64]
    boxes: NDArray[np.int64] | None = None
    whole: NDArray[np.bool_] | None = None


class InBatch(Augmentation):
    """Base of what pairs pictures within the batch.

    Attributes:
        per: whether one share is drawn for the ``batch``, as in the papers, or one for each ``sample``.
        probability: of mixing at all, once a batch or once a sample likewise.
    """

    per: Literal["batch", "sample"] = "batch"
    probability: float = Field(default=1.0, ge=0.0, le=1.0)

    @abstractmethod
    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Pairing:
        """Return the pairing of B samples whose pictures have ``sizes`` [B, 2] (height, width)."""

    def apply(self, scene: Scene, parameters: Pairing) -> Scene:
        """Return the mixed pictures, and in ``mix`` what was mixed.

        Raises:
            InputError: there are masks, boxes or points, or the pictures are mixed already.
        """
        if not (scene.masks is None and scene.boxes is None and scene.points is None):
            raise InputError(
                "mixes pictures that have one label each, and there are masks, boxes or points",
                where=type(self).__name__,
                mend="use mosaic or copy_paste",
            )
        if scene.mix is not None:
            raise InputError("the pictures are mixed already", where=type(self).__name__)
        device = scene.pictures.device
        partner = torch.from_numpy(parameters.partner).to(device)
        share = torch.from_numpy(parameters.share.astype(np.float32)).to(device)
        return replace(scene, pictures=_mixed(scene.pictures, partner, share, parameters), mix=Mix(partner, share))

    def numbers(self, draws: Draws, what: str) -> NDArray[np.float64]:
        """Return uniform values [B] in [0, 1): all equal, or one for each sample."""
        found = draws.uniform(what)
        return np.full_like(found, found[0]) if self.per == "batch" and len(found) else found

    def partners(self, draws: Draws) -> NDArray[np.int64]:
        """Return a permutation of the batch; a picture may be its own partner."""
        if not len(draws.samples):
            return np.zeros(0, dtype=np.int64)
        first = int(draws.samples[0]), int(np.broadcast_to(draws.repeat, draws.samples.shape)[0])
        return seeds.permutation(len(draws.samples), f"{draws.purpose}/partner", draws.seed, draws.epoch, *first)

    def untouched(self, draws: Draws) -> NDArray[np.bool_]:
        """Return [B]: which pictures are not mixed, so that their share is 1."""
        return self.numbers(draws, "mixed") >= self.probability


def _mixed(pictures: torch.Tensor, partner: torch.Tensor, share: torch.Tensor, pairing: Pairing) -> torch.Tensor:
    other = pictures[partner]
    if pairing.boxes is None:
        return _blend(pictures, other, share)
    pasted = paste_boxes(pictures, other, pairing.boxes)
    if pairing.whole is None or not pairing.whole.any():
        return pasted
    rows = torch.from_numpy(np.flatnonzero(pairing.whole)).to(pictures.device)
    pasted[rows] = _blend(pictures[rows], other[rows], share[rows])
    return pasted


def _blend(own: torch.Tensor, other: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    weight = share[:, None, None, None]
    # Rounded to whole levels: the error of at most half a level is what any 8-bit picture has against the scene it
    # shows, it favours no side, and batches stay a quarter of their size in floats.
    return (own.float() * weight + other.float() * (1.0 - weight)).round_().clamp_(0, 255).to(torch.uint8)


def paste_boxes(own: torch.Tensor, other: torch.Tensor, boxes: NDArray[np.int64]) -> torch.Tensor:
    """Return uint8 pictures [B, H, W, C]: ``own`` with the pixels of ``other`` inside ``boxes`` [B, 4]."""
    _, height, width, _ = own.shape
    x1, y1, x2, y2 = torch.from_numpy(boxes).to(own.device).unbind(1)
    y, x = torch.arange(height, device=own.device), torch.arange(width, device=own.device)
    rows = (y >= y1[:, None]) & (y < y2[:, None])
    columns = (x >= x1[:, None]) & (x < x2[:, None])
    return torch.where((rows[:, :, None] & columns[:, None, :]).unsqueeze(3), other, own)


def symmetric_beta(alpha: float, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of Beta(alpha, alpha) made from two uniform ones each, for any alpha > 0.

    Student's t by Bailey's polar method (Mathematics of Computation 62, 1994), taken to the beta distribution as in
    Devroye, Random variate generation in one line of code (1996); nothing is rejected, so a sample needs two numbers.
    """
    with np.errstate(divide="ignore", over="ignore"):
        # t² / (2 alpha); infinite for u = 0, which stands for a share of 0 or 1.
        square = np.expm1(-np.log(u) / alpha) * np.cos(2.0 * np.pi * v) ** 2
        beta = 0.5 + np.copysign(0.5 / np.sqrt(1.0 + 1.0 / square), np.cos(2.0 * np.pi * v))
    return np.asarray(beta, dtype=np.float64)


def cut_boxes(
    share: NDArray[np.float64], centre: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return rectangles and the shares that are left once they are cut out.

    Args:
        share: [B], what is wanted.
        centre: [B, 2] uniform in [0, 1): (y, x) of the middle of each rectangle in its picture.
        sizes: [B, 2] (height, width).

    Returns:
        int64 [B, 4] rectangles (x1, y1, x2, y2), of the picture's form and of area (1 - share) before what juts out is
        cut off, and float64 [B] shares: 1 - the area really pasted / the area of the picture.
    """
    middle = np.floor(centre * sizes).astype(np.int64)
    half = (0.5 * np.sqrt(1.0 - share)[:, None] * sizes).astype(np.int64)
    low, high = (middle - half).clip(0, sizes), (middle + half).clip(0, sizes)
    area = (high - low).prod(axis=1) / sizes.prod(axis=1)
    return np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1), 1.0 - area
