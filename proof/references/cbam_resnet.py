"""pytorchcv's CBAM-ResNet with its last pooling over any size, so that small pictures can be compared."""

from __future__ import annotations

from pytorchcv.models import cbamresnet
from torch import nn


def cbam_resnet(layers: int) -> nn.Module:
    """Takes [B, 3, H, W], returns logits [B, 1000]."""
    net: nn.Module = getattr(cbamresnet, f"cbam_resnet{layers}")()
    net.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return net
