"""timm's InceptionV4 with what the CIFAR-100 form replaces: stem, long kernels, pooling, ε."""

from __future__ import annotations

from timm.models import inception_v4 as build
from torch import nn


def turn(block: nn.Module) -> None:
    """Let a 7×1 kernel lie down and a 1×7 one stand up."""
    old = block.conv
    kernel, around = old.kernel_size[::-1], old.padding[::-1]
    block.conv = nn.Conv2d(old.in_channels, old.out_channels, kernel, padding=around, bias=False)


def cifar() -> nn.Module:
    """Takes [B, 3, 32, 32], returns logits [B, 100]."""
    net = build(num_classes=100)
    layers = net.features
    for part in layers[:6].modules():
        if isinstance(part, nn.Conv2d):
            part.stride, part.padding = (1, 1), tuple(side // 2 for side in part.kernel_size)
        if isinstance(part, nn.MaxPool2d):
            part.stride, part.padding = 1, 1
    layers[0].conv.padding = (0, 0)
    for long in (layers[4].branch1[1], layers[4].branch1[2]):
        turn(long)
    for module in layers[11:18]:
        for long in module.branch2[1:]:
            turn(long)
    for module in layers[19:]:
        turn(module.branch2_1)
        turn(module.branch2_2)
    layers[18].branch0[1].conv.padding = layers[18].branch1[3].conv.padding = (1, 1)
    layers[18].branch2.padding = 1
    for part in net.modules():
        if isinstance(part, nn.AvgPool2d):
            part.count_include_pad = True
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-5
    return net
