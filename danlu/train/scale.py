"""Multi-scale training: each step sees its pictures in one of several sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from danlu.core import seeds
from danlu.core.errors import InputError
from danlu.models import MODELS, create_model
from danlu.tasks.preprocess import PictureModel
from danlu.train.settings import TrainConfig

__all__ = ["AtScale", "at_scale", "check_scales", "largest_scale", "scale_of", "typical_scale"]


class AtScale(nn.Module):
    """A picture model that shows its network the pictures resized, bilinearly, to ``size`` × ``size`` pixels.

    They are resized as the floats the preprocessing gives, so nothing is rounded, and where they get smaller each pixel
    is the mean of those it covers, as in decoding: without that, fine patterns would turn into false ones.
    """

    def __init__(self, model: PictureModel, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, pictures: Any) -> Any:
        """Return the network's output for uint8 pictures [B, h, w, C]."""
        x = self.model.preprocess(pictures)
        size = (self.size, self.size)
        if tuple(x.shape[2:]) != size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.model.network(x)


def at_scale(model: PictureModel, config: TrainConfig, seed: int, step: int) -> PictureModel | AtScale:
    """Return ``model`` as step ``step`` of a run sees it; the size depends on seed and step alone."""
    sizes = config.multi_scale
    if not sizes:
        return model
    return AtScale(model, sizes[int(seeds.integers(len(sizes), "train/scale", seed, step).item())])


def scale_of(model: PictureModel | AtScale) -> int | None:
    """Return the size that a model sees its pictures in, None: their own."""
    return model.size if isinstance(model, AtScale) else None


def largest_scale(model: PictureModel, config: TrainConfig) -> PictureModel | AtScale:
    """Return ``model`` as the step that takes the most memory sees it."""
    return AtScale(model, max(config.multi_scale)) if config.multi_scale else model


def check_scales(config: TrainConfig, model: str, channels: int) -> None:
    """Refuse sizes that the network ``model`` for pictures of ``channels`` cannot take.

    Raises:
        InputError: it takes one size only, none as small, or not this one.
    """
    if not config.multi_scale:
        return
    facts = MODELS.index[model]
    if facts["fixed_input"]:
        height, width = facts["input"][1:]
        raise InputError(
            f"multi_scale = {list(config.multi_scale)}: {model} takes pictures of {height}×{width} px only",
            where="settings",
            mend="leave multi_scale out, or give a --model that takes any size",
        )
    smallest = facts.get("smallest", 1)
    if min(config.multi_scale) < smallest:
        raise InputError(
            f"multi_scale = {list(config.multi_scale)}: {model} takes no pictures below {smallest} px",
            where="settings",
            allowed=[f"sizes of at least {smallest}"],
        )
    with torch.device("meta"):
        network = create_model(model, num_classes=2, in_channels=channels).eval()
    for size in sorted(set(config.multi_scale)):
        try:
            network(torch.empty((2, channels, size, size), device="meta"))
        except (RuntimeError, ValueError) as error:
            # Not every network says in its facts which sizes it cannot halve or add up; shapes alone cost little.
            what = f"multi_scale: {model} does not take {size}×{size} px: {error}"
            raise InputError(what, where="settings", mend=f"leave {size} out") from error


def typical_scale(config: TrainConfig) -> TrainConfig:
    """Return settings under which every step costs about the mean of what the steps of ``config`` cost."""
    if not config.multi_scale:
        return config
    mean = sum(size**2 for size in config.multi_scale) / len(config.multi_scale)
    nearest = min(config.multi_scale, key=lambda size: abs(size**2 - mean))
    return config.model_copy(update={"multi_scale": (nearest,)})
