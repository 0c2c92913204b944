"""pytorchcv's residual attention network, its last pooling over any size, so that small pictures can be compared."""

from __future__ import annotations

from pytorchcv.models import resattnet as library
from torch import nn


def resattnet(layers: int) -> nn.Module:
    """Takes [B, 3, H, W], H and W multiples of 32, returns logits [B, 1000]."""
    net: nn.Module = getattr(library, f"resattnet{layers}")()
    net.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return net
