"""What puts parts of other samples into a picture.

The partners are drawn as indices into the data set, for each sample by itself, so that they are the same whatever the
batch. The caller loads them (:meth:`danlu.augment.chain.Chain.scene` does) and hands them on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.augment.base import Augmentation, Draws, Scene
from danlu.core.errors import InputError

__all__ = ["Partnered", "check_scenes", "other_samples", "per_box"]


class Partnered(Augmentation):
    """Base of augmentations that need further samples of the data set."""

    @abstractmethod
    def partners(self, draws: Draws, count: int) -> NDArray[np.int64]:
        """Return int64 [B, n], the n partners of each of B samples out of a data set of ``count``."""

    @abstractmethod
    def apply(self, scene: Scene, parameters: Any, partners: Sequence[Scene] = ()) -> Scene:
        """Return the augmented batch.

        Args:
            scene: B samples.
            parameters: what ``draw`` returned.
            partners: n scenes of B samples each, of the same size and with the same things on them; sample i of the
                k-th is the one that ``partners()[i, k]`` named.

        Raises:
            InputError: partners that are missing or of another kind.
        """


def other_samples(draws: Draws, count: int, slots: int) -> NDArray[np.int64]:
    """Return int64 [B, slots]: samples drawn with repetition from all but the one itself (where there are two)."""
    if count < 2:
        return np.zeros((len(draws.samples), slots), dtype=np.int64)
    drawn = np.stack([draws.integers(count - 1, f"partner-{slot}") for slot in range(slots)], axis=1)
    return np.asarray(drawn + (drawn >= draws.samples[:, None]), dtype=np.int64)


def check_scenes(name: str, scene: Scene, partners: Sequence[Scene], slots: int) -> None:
    """Refuse partners that do not fit ``scene``.

    Raises:
        InputError: another number than ``slots``, another size, or other things on them; points, which nothing could
            say of that they are hidden; pictures that are mixed already.
    """

    def kind(one: Scene) -> tuple[Any, ...]:
        return one.pictures.shape, one.masks is None, one.boxes is None, one.labels is None

    if len(partners) != slots:
        mend = "let Chain.scene load them"
        raise InputError(f"needs {slots} partners for each sample, got {len(partners)}", where=name, mend=mend)
    for one in (scene, *partners):
        if one.points is not None or one.mix is not None:
            raise InputError("takes no points, and no pictures that are mixed already", where=name)
        if kind(one) != kind(scene):
            raise InputError(f"a partner {kind(one)} does not fit {kind(scene)}", where=name)


def per_box(scene: Scene) -> list[torch.Tensor]:
    """Return the visible share of every box, float32 [n] for each of B samples: 1 where nothing was cut off yet."""
    if scene.visible is not None:
        return scene.visible
    return [torch.ones(len(boxes)) for boxes in scene.boxes or ()]
