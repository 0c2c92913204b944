"""ResNet-D: the residual network with a stem of three 3×3 convolutions and shortcuts that average before they project.

Title: Bag of Tricks for Image Classification with Convolutional Neural Networks
Authors: Tong He, Zhi Zhang, Hang Zhang, Zhongyue Zhang, Junyuan Xie, Mu Li
Year: 2018 (CVPR 2019)
Link: https://arxiv.org/abs/1812.01187
New: no convolution skips pixels any more: the stride moves from 1×1 convolutions into 3×3 ones (B), the 7×7 stem
    becomes three 3×3 (C), and the shortcut averages 2×2 pixels before its 1×1 projection (D).
Table: table 5 (ResNet-50-D: 77.16 % top-1, 4.3 G multiply-adds) and figure 2; the other depths are not in the paper.

Deviations:
- A map of odd side is averaged with a last column or row of its own, of fewer pixels, as in timm; the paper's pictures
  leave no odd side that is halved.
- Convolutions start as He et al. 2015 propose for the backward pass; the paper starts from a uniform distribution
  (Xavier).
"""

from __future__ import annotations

from torch import nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Variant, WeightMapping, renamer
from danlu.models.vision.resnet import BasicBlock, Bottleneck, ResNet, Stem, to_torchvision

__all__ = ["VARIANTS", "BasicBlockD", "BottleneckD", "DeepStem"]


class DeepStem(Stem):
    """conv1 as three 3×3 convolutions, the first of stride 2; the first two have half of the channels."""

    def convolution(self, in_channels: int, channels: int) -> nn.Module:
        """Return the layers before the last batch norm."""
        return nn.Sequential(
            nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1, bias=False),  # [B, 32, H/2, W/2]
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels, 3, padding=1, bias=False),  # [B, 64, H/2, W/2]
        )


class BasicBlockD(BasicBlock):
    """Two 3×3 convolutions; the shortcut averages before it projects."""

    def projection(self, in_channels: int, stride: int) -> nn.Module:
        """Return the layers of a shortcut that changes the shape."""
        return _averaged(in_channels, self.channels, stride)


class BottleneckD(Bottleneck):
    """1×1, 3×3 and 1×1 convolutions; the shortcut averages before it projects."""

    def projection(self, in_channels: int, stride: int) -> nn.Module:
        """Return the layers of a shortcut that changes the shape."""
        return _averaged(in_channels, self.channels, stride)


def _averaged(in_channels: int, channels: int, stride: int) -> nn.Module:
    halve = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(
        halve if stride > 1 else nn.Identity(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


_DEEP_STEM = renamer((r"^conv1\.conv\.", "conv1."))


def _rename(name: str) -> str:
    return to_torchvision(_DEEP_STEM(name))


_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _variant(layers: int, parameters: int, macs: int, published: Published) -> Variant:
    return Variant(
        name=f"resnet{layers}d",
        model=ResNet,
        arguments={
            "block": BasicBlockD if layers < 50 else BottleneckD,
            "blocks": _BLOCKS[layers],
            "stem": DeepStem,
        },
        paper=Paper(
            title="Bag of Tricks for Image Classification with Convolutional Neural Networks",
            authors="He, Zhang, Zhang, Zhang, Xie, Li",
            year=2018,
            link="https://arxiv.org/abs/1812.01187",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=published,
        mapping=WeightMapping(f"timm resnet{layers}d", _rename, builder=f"timm.models:resnet{layers}d"),
        smallest=32,
        representative=layers in (18, 50),
        check_input=(3, 64, 64),
        learning=Learning(arguments={"blocks": (2, 1, 1, 1), "width": 12}, size=32, steps=200, rate=3e-3),
    )


def _not_in_the_paper(parameters: str) -> Published:
    return Published(parameters=parameters, source="counted from timm 1.0.31, built on the meta device")


VARIANTS = (
    _variant(18, 11_708_744, 2_053_713_920, _not_in_the_paper("11,708,744")),
    _variant(34, 21_816_904, 3_903_401_984, _not_in_the_paper("21,816,904")),
    _variant(
        50,
        25_576_264,
        4_328_824_832,
        Published(
            parameters="25,576,264",
            macs="4.3288 G",
            accuracy={"ImageNet-1K": 77.16},
            source="counts of timm 1.0.31; accuracy of table 5 (without the training tricks that follow it)",
        ),
    ),
    _variant(101, 44_568_392, 8_041_046_016, _not_in_the_paper("44,568,392")),
    _variant(152, 60_212_040, 11_753_267_200, _not_in_the_paper("60,212,040")),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
