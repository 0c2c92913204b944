"""The residual networks of torchvision with a 3×3 stem that does not pool, for pictures of 32 pixels."""

from __future__ import annotations

from typing import Any

import torchvision.models
from torch import nn


def small(name: str, classes: int = 100) -> nn.Module:
    """Return torchvision's network ``name`` with another first convolution and no pooling after it."""
    net: Any = getattr(torchvision.models, name)(num_classes=classes)
    net.conv1 = nn.Conv2d(3, 64, kernel_size=(3, 3), padding=(1, 1), bias=False)
    net.maxpool = nn.Sequential()
    return net  # type: ignore[no-any-return]
