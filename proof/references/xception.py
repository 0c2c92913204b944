"""timm's legacy Xception with what the CIFAR-100 form replaces: stem, third block, shortcuts."""

from __future__ import annotations

from timm.models.xception import legacy_xception
from torch import nn


def cifar() -> nn.Module:
    """Takes [B, 3, 32, 32], returns logits [B, 100]."""
    net = legacy_xception(num_classes=100)
    net.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
    net.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
    for number, stride in ((1, 2), (2, 2), (3, 1), (12, 2)):
        block = net.get_submodule(f"block{number}")
        old = block.skip
        block.skip = nn.Conv2d(old.in_channels, old.out_channels, 1, stride)
        block.rep[-1] = nn.MaxPool2d(3, stride, 1)
    return net
