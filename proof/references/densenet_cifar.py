"""torchvision's DenseNet for small pictures: its stem a bare 3×3 convolution, no ReLU in its transitions."""

from __future__ import annotations

from torch import nn
from torchvision.models import DenseNet


def densenet(blocks: tuple[int, int, int, int], growth: int) -> nn.Module:
    """Takes [B, 3, H, W], returns logits [B, 100]."""
    net = DenseNet(growth, blocks, 2 * growth, num_classes=100)
    net.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(net.features, name, nn.Identity())
    for number in (1, 2, 3):
        net.features.get_submodule(f"transition{number}").relu = nn.Identity()
    return net
