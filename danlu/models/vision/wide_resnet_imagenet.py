"""Wide residual networks for ImageNet: the inner convolution of every bottleneck has twice the channels.

Title: Wide Residual Networks
Authors: Sergey Zagoruyko, Nikos Komodakis
Year: 2016 (BMVC)
Link: https://arxiv.org/abs/1605.07146
New: width instead of depth: 50 layers with wide bottlenecks are better than 152 thin ones, and faster on a GPU.
Table: table 8 (WRN-50-2-bottleneck, 68.9 M parameters); the networks for CIFAR are in wide_resnet.py.

Deviations:
- The order within a block is convolution, batch norm, ReLU, as in ResNet; the paper's networks for CIFAR are
  pre-activated.
- A bottleneck halves the picture in its 3×3 convolution (v1.5).
- wide_resnet101_2 is not in the paper; torchvision trained it, and wide_resnet50_2, from scratch.
- Convolutions start as He et al. 2015 propose for the backward pass, the classifier uniformly.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Variant, WeightMapping
from danlu.models.vision.resnet import Residual, ResNet, to_torchvision

__all__ = ["VARIANTS", "WideBottleneck"]

_WIDEN = 2  # k of WRN-50-2


class WideBottleneck(Residual):
    """1×1 to twice ``width`` channels, 3×3, and 1×1 to four times ``width``."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, 4 * width, stride)
        wide = _WIDEN * width
        self.conv1 = nn.Conv2d(in_channels, wide, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.conv3 = nn.Conv2d(wide, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)

    def residual(self, x: Tensor) -> Tensor:
        """Return [B, 4 width, H', W']."""
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)  # [B, 2 width, H, W]
        x = F.relu(self.norm2(self.conv2(x)), inplace=True)  # [B, 2 width, H', W']
        out: Tensor = self.norm3(self.conv3(x))
        return out


def _variant(layers: int, third: int, parameters: int, macs: int, published: str, accuracy: float) -> Variant:
    return Variant(
        name=f"wide_resnet{layers}_2",
        model=ResNet,
        arguments={"block": WideBottleneck, "blocks": (3, 4, third, 3)},
        paper=Paper(
            title="Wide Residual Networks",
            authors="Zagoruyko, Komodakis",
            year=2016,
            link="https://arxiv.org/abs/1605.07146",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=published,
            accuracy={"ImageNet-1K": accuracy},
            source="torchvision 0.29.1 weights meta IMAGENET1K_V1; multiply-adds of timm 1.0.31",
        ),
        mapping=WeightMapping(
            f"torchvision wide_resnet{layers}_2",
            to_torchvision,
            builder=f"torchvision.models:wide_resnet{layers}_2",
        ),
        smallest=32,
        representative=layers == 50,
        check_input=(3, 64, 64),
        learning=Learning(arguments={"blocks": (2, 1, 1, 1), "width": 8}, size=32, steps=200, rate=3e-3),
    )


VARIANTS = (
    _variant(50, 6, 68_883_240, 11_398_021_120, "11.3980 G", 78.468),
    _variant(101, 23, 126_886_696, 22_753_050_624, "22.7531 G", 78.848),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
