"""A list of augmentations as one: successive geometric ones are multiplied and the pictures resampled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Augmentation, Draws, Geometric, Scene, warp_scene
from danlu.augment.in_batch import InBatch
from danlu.augment.partnered import Partnered
from danlu.augment.warp import PLAIN, Sampling
from danlu.core.errors import InputError
from danlu.core.settings import make_settings

__all__ = ["Chain", "make_augmentation", "make_chain"]


def make_augmentation(values: Mapping[str, Any], where: str = "augment") -> Augmentation:
    """Return the augmentation that ``{"name": NAME, setting: value, …}`` describes.

    Raises:
        InputError: no name, an unknown name or setting, or a value out of its range.
    """
    name = values.get("name")
    if not isinstance(name, str):
        raise InputError(
            f"{dict(values)!r} names no augmentation",
            where=where,
            allowed=AUGMENTATIONS.names(),
            mend='write [{"name": "flip"}]',
        )
    kind = AUGMENTATIONS.get(name, where)
    return make_settings(kind, {key: value for key, value in values.items() if key != "name"}, f"{where}, {name}")


def make_chain(augmentations: Sequence[Mapping[str, Any]], where: str = "augment") -> Chain:
    """Return the chain that a list of ``{"name": …}`` describes; an empty list changes nothing.

    Raises:
        InputError: see :func:`make_augmentation`; the message says which element. One that mixes the pictures of a
            batch is not the last.
    """
    made = [make_augmentation(values, f"{where}[{place}]") for place, values in enumerate(augmentations)]
    for place, one in enumerate(made[:-1]):
        if isinstance(one, InBatch):
            raise InputError(
                f"{augmentations[place]['name']} mixes the pictures of a batch, and more is done to them after it",
                where=f"{where}[{place}]",
                mend="put it last; for Mixup and CutMix in turn there is mixup_or_cutmix",
            )
    return Chain(made)


class Chain:
    """Augmentations in the order they are applied."""

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self.augmentations = tuple(augmentations)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> list[Any]:
        """Return each augmentation's parameters for B samples; two of one kind draw independently."""
        return [
            augmentation.draw(draws.named(f"{place}-{type(augmentation).__name__}"), sizes)
            for place, augmentation in enumerate(self.augmentations)
        ]

    def apply(
        self, scene: Scene, parameters: Sequence[Any], partners: Mapping[int, Sequence[Scene]] | None = None
    ) -> Scene:
        """Return the augmented batch; runs of geometric augmentations are one matrix and one resampling.

        A run ends where fill or interpolation change: one resampling cannot honour both.

        Args:
            scene: B samples.
            parameters: one for each augmentation, as :meth:`draw` returns them.
            partners: place of an augmentation in the chain -> the scenes it needs; :meth:`scene` finds them.
        """
        pending: NDArray[np.float64] | None = None
        sampling: Sampling | None = None
        for place, (augmentation, values) in enumerate(zip(self.augmentations, parameters, strict=True)):
            wanted = augmentation.sampling() if isinstance(augmentation, Geometric) else None
            joins = isinstance(augmentation, Geometric) and (wanted is None or sampling in (None, wanted))
            if pending is not None and not joins:
                scene, pending, sampling = warp_scene(scene, pending, sampling or PLAIN), None, None
            if isinstance(augmentation, Geometric):
                pending = values if pending is None else values @ pending
                sampling = wanted or sampling
            elif isinstance(augmentation, Partnered):
                scene = augmentation.apply(scene, values, (partners or {}).get(place, ()))
            else:
                scene = augmentation.apply(scene, values)
        return scene if pending is None else warp_scene(scene, pending, sampling or PLAIN)

    @property
    def mixes(self) -> bool:
        """Whether pictures of a batch are mixed with one another."""
        return any(isinstance(augmentation, InBatch) for augmentation in self.augmentations)

    def pictures(self, pictures: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Return uint8 pictures [B, H, W, C] augmented by their samples' draws."""
        return self.batch(pictures, draws).pictures

    def batch(self, pictures: torch.Tensor, draws: Draws) -> Scene:
        """Return uint8 pictures [B, H, W, C] augmented by their samples' draws, and what was mixed into them."""
        scene = Scene(pictures)
        return self.apply(scene, self.draw(draws, _sizes(scene))) if self.augmentations else scene

    def scene(self, load: Callable[[NDArray[np.int64]], Scene], draws: Draws, count: int) -> Scene:
        """Return the samples of ``draws`` augmented, with the partners that the chain asks for.

        A partner passes through what stands before the augmentation that asks for it, with draws that depend on the
        sample it is wanted for and its place there, and asks for partners of its own in turn.

        Args:
            load: indices [M] into the data set -> these samples, all of one size.
            draws: of B samples.
            count: samples in the data set.
        """
        return self._until(len(self.augmentations), load, draws.samples, draws, count)

    def _until(
        self,
        end: int,
        load: Callable[[NDArray[np.int64]], Scene],
        samples: NDArray[np.int64],
        draws: Draws,
        count: int,
    ) -> Scene:
        """Return ``samples`` [B], wanted for those of ``draws``, after the first ``end`` augmentations."""
        head, scene = Chain(self.augmentations[:end]), load(samples)
        partners: dict[int, list[Scene]] = {}
        for place, augmentation in enumerate(head.augmentations):
            if isinstance(augmentation, Partnered):
                own = draws.named(f"{place}-{type(augmentation).__name__}")
                chosen = augmentation.partners(replace(own, samples=samples), count)
                partners[place] = [
                    self._until(place, load, chosen[:, slot], own.named(f"of-{slot}"), count)
                    for slot in range(chosen.shape[1])
                ]
        return head.apply(scene, head.draw(draws, _sizes(scene)), partners)

    def check_pictures(self, height: int, width: int, channels: int, where: str = "augment") -> None:
        """Refuse what would change nothing of pictures of this size and so many channels, or leave nothing of them.

        Raises:
            InputError: it says which augmentation, and why.
        """
        for place, augmentation in enumerate(self.augmentations):
            if fault := augmentation.fault(height, width, channels):
                what = f"{type(augmentation).__name__}: {fault}"
                raise InputError(what, where=f"{where}[{place}]", mend="leave it out, or change its settings")

    def check_one_label(self, where: str = "augment") -> None:
        """Refuse what takes samples with boxes, where each picture has one label and no boxes.

        Raises:
            InputError: a part of another picture would come without its label.
        """
        for place, augmentation in enumerate(self.augmentations):
            if isinstance(augmentation, Partnered):
                raise InputError(
                    f"{type(augmentation).__name__} puts parts of several pictures into one, each with its boxes; "
                    "these pictures have one label and no boxes, so that no label would be right for all of it",
                    where=f"{where}[{place}]",
                    mend="use mixup or cutmix, which mix the labels by share",
                )


def _sizes(scene: Scene) -> NDArray[np.int64]:
    return np.tile(np.array(scene.pictures.shape[1:3], dtype=np.int64), (len(scene.pictures), 1))
