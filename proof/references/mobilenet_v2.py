"""torchvision's MobileNetV2 changed into the form for 32×32 pictures."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Block(nn.Module):
    """An inverted residual whose convolutions have biases and which always expands."""

    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: int, norm_layer: Any = None) -> None:
        super().__init__()
        wide = inp * expand_ratio
        self.adds = stride == 1 and inp == oup
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(inp, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6()),
            nn.Sequential(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6()),
            nn.Conv2d(wide, oup, 1),
            nn.BatchNorm2d(oup),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        if self.adds:
            out = out + x
        return out


def mobilenet_v2_cifar() -> nn.Module:
    """A 1×1 stem between zeros, three strides, biases everywhere; 100 classes."""
    from torchvision.models import MobileNetV2

    rows = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 1], [6, 320, 1, 1]]
    model: Any = MobileNetV2(num_classes=100, inverted_residual_setting=rows, block=Block, dropout=0.0)
    model.features[0][0] = nn.Conv2d(3, 32, 1, padding=1)
    model.features[-1][0] = nn.Conv2d(320, 1280, 1)
    built: nn.Module = model
    return built
