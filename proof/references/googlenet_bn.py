"""torchvision's GoogLeNet with what the CIFAR-100 form replaces: stem, the 5×5 branch, biases, pooling, ε."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from torch import nn

# The package has a function of the same name, which hides the module.
tv = importlib.import_module("torchvision.models.googlenet")


class Conv(tv.BasicConv2d):
    def __init__(self, seen: int, out: int, bias: bool = False, **kwargs: Any) -> None:
        super().__init__(seen, out, **kwargs)
        self.conv = nn.Conv2d(seen, out, bias=bias, **kwargs)
        self.bn = nn.BatchNorm2d(out)


class Module(tv.Inception):
    def __init__(self, seen: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int) -> None:
        biased = partial(Conv, bias=True)
        super().__init__(seen, one, reduce3, three, reduce5, five, pool, conv_block=biased)
        self.branch3.append(biased(five, five, kernel_size=3, padding=1))


def cifar() -> nn.Module:
    """Takes [B, 3, 32, 32], returns logits [B, 100]."""
    net = tv.GoogLeNet(100, aux_logits=False, init_weights=False, blocks=[Conv, Module, tv.InceptionAux])
    for name, seen, out in (("conv1", 3, 64), ("conv2", 64, 64), ("conv3", 64, 192)):
        setattr(net, name, Conv(seen, out, kernel_size=3, padding=1))
    net.maxpool1 = nn.Identity()
    for name in ("maxpool2", "maxpool3", "maxpool4"):
        setattr(net, name, nn.MaxPool2d(3, stride=2, padding=1))
    return net
