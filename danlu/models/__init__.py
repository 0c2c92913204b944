"""Every architecture in one file, named as its paper names it, with its published counts beside it.

``create_model("resnet20", num_classes=7)`` builds one; ``list_models()`` names them without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danlu.core.errors import InputError
from danlu.core.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from danlu.models.base import Variant, VisionModel

__all__ = ["MODELS", "create_model", "list_models"]

MODELS: Registry[Variant] = Registry("model", "danlu.models")


def list_models() -> list[str]:
    """Return the names of all models, sorted; imports neither them nor torch."""
    return MODELS.names()


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: Path | str | None = None,
) -> VisionModel:
    """Build the model called ``name``, initialised as its paper says or with given weights, in train mode.

    Args:
        name: one of :func:`list_models`.
        num_classes: K, the length of the logits; the variant's published number when not given.
        in_channels: C of the pictures; the variant's published number when not given.
        weights: a file of weights, ours or those of the implementation the network is compared with; or the name of
            published ones, see :func:`danlu.models.hub.find_weights`, which are then fetched.

    Returns:
        a network that takes float32 pictures [B, C, H, W] and returns logits [B, K].

    Raises:
        InputError: an unknown name (with the nearest ones), a count below one, or weights that cannot be had or do not
            fit.
    """
    variant = MODELS.get(name)
    for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value is not None and value < 1:
            raise InputError(f"{key} = {value}: must be at least 1", where=f"model {name}")
    model = variant.build(num_classes=num_classes, in_channels=in_channels)
    if weights is not None:
        from danlu.models.hub import find_weights
        from danlu.models.weights import load_weights

        load_weights(model, find_weights(weights, variant))
    return model
