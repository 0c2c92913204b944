"""Inception-ResNet-v2 for CIFAR-100, its modules as tables of (channels, kernel, stride) run by one interpreter.

In the precision of its input: 100 batch norms amplify the rounding of float32 beyond 1e-5 where one side has float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A branch is a list of steps (channels, (height, width) of the kernel, stride); "max" is 3×3 pooling.
ONE, THREE, TALL, FLAT = (1, 1), (3, 3), (7, 1), (1, 7)
A = [[(32, ONE, 1)], [(32, ONE, 1), (32, THREE, 1)], [(32, ONE, 1), (48, THREE, 1), (64, THREE, 1)]]
B = [[(192, ONE, 1)], [(128, ONE, 1), (160, FLAT, 1), (192, TALL, 1)]]
C = [[(192, ONE, 1)], [(192, ONE, 1), (224, (1, 3), 1), (256, (3, 1), 1)]]
REDUCTION_A = [[(384, THREE, 2)], [(256, ONE, 1), (256, THREE, 1), (384, THREE, 2)], ["max"]]
REDUCTION_B = [
    [(256, ONE, 1), (384, THREE, 2)],
    [(256, ONE, 1), (288, THREE, 2)],
    [(256, ONE, 1), (288, THREE, 1), (320, THREE, 2)],
    ["max"],
]


class Step(nn.Module):
    """Holds a convolution and its batch norm."""

    def __init__(self, seen: int, channels: int, kernel: tuple[int, int], stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(seen, channels, kernel, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.stride = stride
        self.around = tuple(side // 2 for side in kernel) if pad and stride == 1 else (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, self.conv.weight, None, self.stride, self.around)).clamp(min=0)


class Table(nn.ModuleList):
    """One of the tables above for maps of ``seen`` channels; ``channels`` is what comes out."""

    def __init__(self, seen: int, table: list) -> None:
        super().__init__()
        self.channels = 0
        for branch in table:
            inside, steps = seen, []
            for step in branch:
                if step == "max":
                    steps.append(nn.MaxPool2d(3, 2))
                else:
                    steps.append(Step(inside, *step))
                    inside = step[0]
            # A branch of one convolution bears its names itself.
            self.append(steps[0] if len(steps) == 1 else nn.Sequential(*steps))
            self.channels += inside

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


class Module(Table):
    """Branches of a table, a projection, a projected shortcut."""

    def __init__(self, seen: int, out: int, table: list, scale: float) -> None:
        super().__init__(seen, table)
        self.scale = scale
        self.project = nn.Conv2d(self.channels, out, 1)
        self.shortcut = nn.Conv2d(seen, out, 1)
        self.bn = nn.BatchNorm2d(out)
        self.branches = len(table)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self[number](x) for number in range(self.branches)], dim=1)
        return self.bn(self.shortcut(x) + self.scale * self.project(joined)).clamp(min=0)


class InceptionResNetV2(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 100]."""

    def __init__(self) -> None:
        super().__init__()
        fourth = nn.ModuleDict({"conv": Step(64, 96, THREE)})
        fifth = nn.ModuleList(
            [
                nn.Sequential(Step(160, 64, ONE), Step(64, 96, THREE)),
                nn.Sequential(Step(160, 64, ONE), Step(64, 64, TALL), Step(64, 64, FLAT), Step(64, 96, THREE)),
            ]
        )
        sixth = nn.ModuleDict({"conv": Step(192, 192, THREE)})
        first = Step(3, 32, THREE, pad=False)
        self.stem = nn.ModuleList([first, Step(32, 32, THREE), Step(32, 64, THREE), fourth, fifth, sixth])
        self.inception_a = nn.Sequential(*(Module(384, 384, A, 1.0) for _ in range(5)))
        self.reduction_a = Table(384, REDUCTION_A)
        self.inception_b = nn.Sequential(*(Module(1154 if i else 1152, 1154, B, 0.1) for i in range(10)))
        self.reduction_b = Table(1154, REDUCTION_B)
        self.inception_c = nn.Sequential(*(Module(2048 if i else 2146, 2048, C, 0.1) for i in range(5)))
        self.classifier = nn.Linear(2048, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem[2](self.stem[1](self.stem[0](x)))
        x = torch.cat([self.stem[3]["conv"](x), F.max_pool2d(x, 3, 1, 1)], dim=1)
        x = torch.cat([branch(x) for branch in self.stem[4]], dim=1)
        x = torch.cat([self.stem[5]["conv"](x), F.max_pool2d(x, 3, 1, 1)], dim=1)
        for stage in (self.inception_a, self.reduction_a, self.inception_b, self.reduction_b, self.inception_c):
            x = stage(x)
        return self.classifier(x.mean(dim=(2, 3)))
