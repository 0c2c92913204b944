"""ResNeXt 32×4d of torchvision with a 3×3 stem that does not pool, and with first convolutions in 32 groups."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet


def small(blocks: tuple[int, ...]) -> nn.Module:
    """Return the network for pictures of 32 pixels and 100 classes."""
    net: Any = ResNet(Bottleneck, list(blocks), num_classes=100, groups=32, width_per_group=4)
    net.conv1 = nn.Conv2d(3, 64, kernel_size=(3, 3), padding=(1, 1), bias=False)
    net.maxpool = nn.Sequential()
    for module in net.modules():
        if isinstance(module, Bottleneck):
            first = module.conv1
            module.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 1, groups=32, bias=False)
    return net  # type: ignore[no-any-return]
