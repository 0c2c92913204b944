"""AlexNet in one tower: the narrower form for one device, which is what most people call AlexNet today.

Title: One weird trick for parallelizing convolutional neural networks
Authors: Alex Krizhevsky
Year: 2014
Link: https://arxiv.org/abs/1404.5997
New: convolutions are shared out by pictures, fully connected layers by units; one tower replaces the two of 2012.
Table: section 5 (64, 192, 384, 256, 256 kernels); counts and accuracy are torchvision's.

Deviations:
- There is no response normalisation, as in torchvision; the author's configuration has it after conv1 and conv2.
- conv1 pads its input by two pixels, so that 224×224 pictures give 55×55 maps, as in torchvision.
- Dropout acts on the input of fc6 and of fc7, as in torchvision.
- Maps of other pictures than 224×224 are averaged to 6×6 before fc6, as in torchvision.
- Weights start uniform in ±1 / √fan-in, biases included, which is torchvision's start; the paper does not say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping

__all__ = ["VARIANTS", "AlexNetOneTower"]


class AlexNetOneTower(VisionModel):
    """Five convolutions, three maximum poolings, three fully connected layers.

    Args:
        widths: kernels of conv1 to conv5.
        hidden: units of fc6 and fc7.
        dropout: probability before fc6 and before fc7.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 63×63 pixels and more, returns logits [B, K].
    """

    smallest = 63
    input_reason = "conv1 and three poolings leave nothing of a smaller picture"

    def __init__(
        self,
        widths: Sequence[int],
        hidden: int,
        dropout: float,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        w1, w2, w3, w4, w5 = widths
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stages = tuple(
            Stage(f"conv{i}", width, stride)
            for i, (width, stride) in enumerate(zip(widths, (4, 8, 16, 16, 16), strict=True), 1)
        )
        self.conv1 = nn.Conv2d(in_channels, w1, 11, stride=4, padding=2)
        self.conv2 = nn.Conv2d(w1, w2, 5, padding=2)
        self.conv3 = nn.Conv2d(w2, w3, 3, padding=1)
        self.conv4 = nn.Conv2d(w3, w4, 3, padding=1)
        self.conv5 = nn.Conv2d(w4, w5, 3, padding=1)
        self.dropout6, self.dropout7 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.fc6 = nn.Linear(w5 * 6 * 6, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1 to conv5 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = F.relu(self.conv1(x))  # [B, 64, H/4, W/4]
        x = out["conv2"] = F.relu(self.conv2(F.max_pool2d(x, 3, 2)))  # [B, 192, H/8, W/8]
        x = out["conv3"] = F.relu(self.conv3(F.max_pool2d(x, 3, 2)))  # [B, 384, H/16, W/16]
        x = out["conv4"] = F.relu(self.conv4(x))  # [B, 256, H/16, W/16]
        x = out["conv5"] = F.relu(self.conv5(x))  # [B, 256, H/16, W/16]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for conv5 [B, 256, H/16, W/16]."""
        x = F.adaptive_avg_pool2d(F.max_pool2d(x, 3, 2), (6, 6))  # [B, 256, 6, 6]
        x = F.relu(self.fc6(self.dropout6(x.flatten(1))))
        x = F.relu(self.fc7(self.dropout7(x)))  # [B, 4096]
        logits: Tensor = self.fc8(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace fc8 by a fresh one for ``num_classes`` classes."""
        weight = self.fc8.weight
        self.fc8 = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.fc8)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        bound = 1 / math.sqrt(math.prod(module.weight.shape[1:]))
        assert module.bias is not None
        for part in (module.weight, module.bias):
            nn.init.uniform_(part, -bound, bound)


_NAMES = {
    **{f"conv{i}": f"features.{place}" for i, place in enumerate((0, 3, 6, 8, 10), 1)},
    **{f"fc{i}": f"classifier.{place}" for i, place in enumerate((1, 4, 6), 6)},
}


def _rename(name: str) -> str:
    layer, kind = name.split(".")
    return f"{_NAMES[layer]}.{kind}"


VARIANTS = (
    Variant(
        name="alexnet",
        model=AlexNetOneTower,
        arguments={"widths": (64, 192, 384, 256, 256), "hidden": 4096, "dropout": 0.5},
        paper=Paper(
            title="One weird trick for parallelizing convolutional neural networks",
            authors="Krizhevsky",
            year=2014,
            link="https://arxiv.org/abs/1404.5997",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=61_100_840,
        macs=714_188_480,
        published=Published(
            parameters="61,100,840",
            macs="0.714 G",
            accuracy={"ImageNet-1K": 56.522},
            source="torchvision 0.29.1 weights meta AlexNet_Weights.IMAGENET1K_V1",
        ),
        mapping=WeightMapping("torchvision alexnet", _rename, builder="torchvision.models:alexnet"),
        smallest=63,
        aliases=("alexnet_one_tower",),
        representative=True,
        check_input=(3, 95, 95),
        learning=Learning(
            data="mnist",
            arguments={"widths": (16, 24, 32, 32, 32), "hidden": 256, "dropout": 0.1},
            size=63,
            steps=160,
            rate=1.5e-3,
        ),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
