"""torchvision's ShuffleNetV2 changed into the form for 32×32 pictures."""

from __future__ import annotations

from typing import Any

from torch import nn


def shufflenet_v2_cifar() -> nn.Module:
    """A bare convolution of stride 1 first, 24 channels inside the first unit, biases; 100 classes."""
    from torchvision.models import shufflenet_v2_x1_0

    model: Any = shufflenet_v2_x1_0(num_classes=100)
    model.conv1 = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24))
    model.maxpool = nn.Identity()
    branch = model.stage2[0].branch2
    branch[0], branch[1], branch[4] = nn.Conv2d(24, 24, 1), nn.BatchNorm2d(24), nn.BatchNorm2d(24)
    branch[3] = nn.Conv2d(24, 24, 3, 2, 1, groups=24)
    branch[5] = nn.Conv2d(24, 58, 1)
    for layer in list(model.modules()):
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_channels))
    built: nn.Module = model
    return built
