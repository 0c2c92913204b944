"""torchvision's MobileNetV3 in the form for 32×32 pictures."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn


def mobilenet_v3_cifar(name: str) -> nn.Module:
    """The first two convolutions of stride 2 get stride 1, batch norm averages faster; 100 classes."""
    from torchvision.models import mobilenetv3

    rows, last = mobilenetv3._mobilenet_v3_conf(name)
    next(row for row in rows if row.stride == 2).stride = 1
    norm: Any = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    model: Any = mobilenetv3.MobileNetV3(rows, last, num_classes=100, norm_layer=norm)
    model.features[0][0].stride = (1, 1)
    built: nn.Module = model
    return built
