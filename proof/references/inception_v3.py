"""torchvision's Inception3 with what the CIFAR-100 form replaces: stem, ε, order of 7×1 and 1×7, pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import inception as tv


class Conv(tv.BasicConv2d):
    def __init__(self, seen: int, out: int, **kwargs: Any) -> None:
        super().__init__(seen, out, **kwargs)
        self.bn.eps = 1e-5


class A(tv.InceptionA):
    def __init__(self, seen: int, pool_features: int) -> None:
        super().__init__(seen, pool_features, conv_block=Conv)
        self.branch_pool = Conv(seen, pool_features, kernel_size=3, padding=1)


class B(tv.InceptionB):
    def __init__(self, seen: int) -> None:
        super().__init__(seen, conv_block=Conv)


class C(tv.InceptionC):
    def __init__(self, seen: int, channels_7x7: int) -> None:
        super().__init__(seen, channels_7x7, conv_block=Conv)
        self.branch7x7_2 = Conv(channels_7x7, channels_7x7, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7_3 = Conv(channels_7x7, 192, kernel_size=(1, 7), padding=(0, 3))


class D(tv.InceptionD):
    def __init__(self, seen: int) -> None:
        super().__init__(seen, conv_block=Conv)

    def forward(self, x: Tensor) -> Tensor:
        three, seven, _ = self._forward(x)
        return torch.cat([three, seven, F.avg_pool2d(x, 3, 2)], dim=1)


class E(tv.InceptionE):
    def __init__(self, seen: int) -> None:
        super().__init__(seen, conv_block=Conv)


def cifar() -> nn.Module:
    """Takes [B, 3, 32, 32], returns logits [B, 100]."""
    blocks = [Conv, A, B, C, D, E, tv.InceptionAux]
    net = tv.Inception3(100, aux_logits=False, init_weights=False, inception_blocks=blocks)
    net.Conv2d_1a_3x3 = Conv(3, 32, kernel_size=3, padding=1)
    net.Conv2d_2a_3x3 = Conv(32, 32, kernel_size=3, padding=1)
    net.maxpool1 = net.maxpool2 = nn.Identity()
    return net
