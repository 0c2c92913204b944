"""ResNeXt: residual networks whose bottleneck is many narrow paths beside each other, written as a grouped convolution.

Title: Aggregated Residual Transformations for Deep Neural Networks
Authors: Saining Xie, Ross Girshick, Piotr Dollár, Zhuowen Tu, Kaiming He
Year: 2016 (CVPR 2017)
Link: https://arxiv.org/abs/1611.05431
New: cardinality, the number of paths, as a dimension beside depth and width.
Table: table 1 (ResNeXt-50 32×4d, stages), table 4 (ImageNet), table 7 (CIFAR, 29 layers).

Deviations:
- Blocks are of form (c), a grouped 3×3 convolution, which equals the forms (a) and (b) that the paper draws first.
- Convolutions start as He et al. 2015 propose for the backward pass, the classifier uniformly.
- resnext101_32x8d is not in the paper; torchvision trained it, and gave all of its weights other recipes.
- The `_cifar` forms are those of a much-used table, not the paper's: a 3×3 stem without pooling before four stages, and
  the first 1×1 convolution of a block is grouped as well, so that its paths see only a part of the channels.
- resnext152_cifar has 3, 4, 36 and 3 blocks, four fewer in conv3_x than 152 layers have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Variant, WeightMapping, renamer
from danlu.models.vision.resnet import Residual, ResNet, SmallStem, Stem, to_torchvision

__all__ = ["VARIANTS", "AggregatedBottleneck", "GroupedBottleneck", "ResNeXt"]


class AggregatedBottleneck(Residual):
    """1×1 to ``cardinality`` paths, a 3×3 convolution in each, and 1×1 to four times ``width`` channels.

    Args:
        in_channels: channels in.
        width: 64 in conv2_x, twice as many from stage to stage; a quarter of what comes out.
        stride: of the 3×3 convolutions.
        cardinality: C, the number of paths.
        depth: d, the channels of a path where ``width`` is 64.
    """

    def __init__(self, in_channels: int, width: int, stride: int, cardinality: int, depth: int) -> None:
        super().__init__(in_channels, 4 * width, stride)
        paths = cardinality * (depth * width // 64)
        self.conv1 = self.reduction(in_channels, paths, cardinality)
        self.norm1 = nn.BatchNorm2d(paths)
        self.conv2 = nn.Conv2d(paths, paths, 3, stride, padding=1, groups=cardinality, bias=False)
        self.norm2 = nn.BatchNorm2d(paths)
        self.conv3 = nn.Conv2d(paths, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)

    def reduction(self, in_channels: int, paths: int, cardinality: int) -> nn.Module:
        """Return the first convolution: every path sees all channels."""
        return nn.Conv2d(in_channels, paths, 1, bias=False)

    def residual(self, x: Tensor) -> Tensor:
        """Return [B, 4 width, H', W']."""
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)  # [B, C d, H, W]
        x = F.relu(self.norm2(self.conv2(x)), inplace=True)  # [B, C d, H', W']
        out: Tensor = self.norm3(self.conv3(x))
        return out


class GroupedBottleneck(AggregatedBottleneck):
    """The same, but each path sees only its part of the channels."""

    def reduction(self, in_channels: int, paths: int, cardinality: int) -> nn.Module:
        """Return the first convolution: the c-th path sees the c-th part of the channels."""
        return nn.Conv2d(in_channels, paths, 1, groups=cardinality, bias=False)


class ResNeXt(ResNet):
    """The network of table 1 (or 29 layers of section 5.3), whose stages are those of ResNet.

    Args:
        blocks: how many in each stage, conv2_x onwards.
        cardinality: C, the number of paths; 32 in ResNeXt-50 32×4d.
        depth: d, the channels of a path in conv2_x; 4 in ResNeXt-50 32×4d.
        block: the class of the blocks.
        stem: builds conv1 from channels in and channels out.
        width: of conv1; 64 in the paper.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W], returns logits [B, K].
    """

    def __init__(
        self,
        blocks: Sequence[int],
        cardinality: int,
        depth: int,
        block: Callable[..., Residual] = AggregatedBottleneck,
        stem: type[Stem] = Stem,
        width: int = 64,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        paths = partial(block, cardinality=cardinality, depth=depth)
        super().__init__(paths, blocks, stem, width, num_classes, in_channels)


_TO_PYTORCHCV = renamer(
    (r"^conv1\.conv\.", "features.init_block.conv."),
    (r"^conv1\.norm\.", "features.init_block.bn."),
    (r"\.shortcut\.0\.", ".identity_conv.conv."),
    (r"\.shortcut\.1\.", ".identity_conv.bn."),
    (r"\.conv(\d)\.", r".body.conv\1.conv."),
    (r"\.norm(\d)\.", r".body.conv\1.bn."),
    (r"^classifier\.", "output."),
)


def _to_pytorchcv(name: str) -> str:
    stage, _, rest = _TO_PYTORCHCV(name).partition(".")
    if not stage.startswith("conv"):  # the stem and the classifier
        return f"{stage}.{rest}"
    block, _, rest = rest.partition(".")
    return f"features.stage{int(stage[4]) - 1}.unit{int(block) + 1}.{rest}"


_PAPER = Paper(
    title="Aggregated Residual Transformations for Deep Neural Networks",
    authors="Xie, Girshick, Dollár, Tu, He",
    year=2016,
    link="https://arxiv.org/abs/1611.05431",
)
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 4, 36, 3)}
_TWIN = {"blocks": (2, 1, 1, 1), "width": 16, "cardinality": 2, "depth": 16}


def _variant(name: str, parameters: int, macs: int, published: Published, library: str, **more: Any) -> Variant:
    layers, _, template = name.removeprefix("resnext").partition("_")
    cardinality, depth = template.removesuffix("d").split("x")
    return Variant(
        name=name,
        model=ResNeXt,
        arguments={"blocks": _BLOCKS[int(layers)], "cardinality": int(cardinality), "depth": int(depth)},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=published,
        mapping=WeightMapping(f"{library} {name}", to_torchvision, builder=f"{library}.models:{name}"),
        smallest=32,
        check_input=(3, 64, 64),
        learning=Learning(arguments=_TWIN, size=32, steps=200, rate=3e-3),
        **more,
    )


def _small(name: str, layers: int, parameters: int, macs: int, published: str, accuracy: float, **more: Any) -> Variant:
    return Variant(
        name=name,
        model=ResNeXt,
        arguments={
            "blocks": _BLOCKS[layers],
            "cardinality": 32,
            "depth": 4,
            "block": GroupedBottleneck,
            "stem": SmallStem,
        },
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=published,
            accuracy={"CIFAR-100": accuracy},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its network",
        ),
        mapping=WeightMapping(
            f"torchvision's ResNet of {_BLOCKS[layers]} blocks 32×4d, with a 3×3 stem and grouped first convolutions",
            to_torchvision,
            builder="proof.references.resnext:small",
            arguments={"blocks": _BLOCKS[layers]},
        ),
        smallest=8,
        check_input=(3, 16, 16),
        learning=Learning(arguments=_TWIN, size=8, steps=200, rate=3e-3),
        **more,
    )


_SOURCE = "torchvision 0.29.1 weights meta IMAGENET1K_V1; multiply-adds "
VARIANTS = (
    _variant(
        "resnext50_32x4d",
        25_028_904,
        4_230_479_872,
        Published("25,028,904", "4.2305 G", {"ImageNet-1K": 77.618}, _SOURCE + "of timm 1.0.31"),
        "torchvision",
        aliases=("resnext50",),
        representative=True,
    ),
    _variant(
        "resnext101_32x4d",
        44_177_704,
        7_969_996_800,
        Published("44,177,704", "7.9700 G", {"ImageNet-1K": 78.8}, "counts of timm 1.0.31; 21.2 % error of table 4"),
        "timm",
        aliases=("resnext101",),
    ),
    _variant(
        "resnext101_32x8d",
        88_791_336,
        16_414_015_488,
        Published("88,791,336", "16.414 G", {"ImageNet-1K": 79.312}, _SOURCE + "there, too"),
        "torchvision",
    ),
    _variant(
        "resnext101_64x4d",
        83_455_272,
        15_460_270_080,
        Published("83,455,272", "15.4603 G", {"ImageNet-1K": 79.6}, "counts of timm 1.0.31; 20.4 % error of table 4"),
        "torchvision",
    ),
    Variant(
        name="resnext29_8x64d",
        model=ResNeXt,
        arguments={"blocks": (3, 3, 3), "cardinality": 8, "depth": 64, "stem": SmallStem},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=10,
        parameters=34_426_698,
        macs=5_387_266_048,
        published=Published(
            parameters="34.4 M",
            accuracy={"CIFAR-10": 96.35, "CIFAR-100": 82.23},
            source="table 7: 100 % minus the test error, mean of ten runs",
        ),
        mapping=WeightMapping(
            "pytorchcv's ResNeXt for CIFAR with 29 layers, 8×64d",
            _to_pytorchcv,
            builder="pytorchcv.models.resnext_cifar:get_resnext_cifar",
            arguments={"num_classes": 10, "blocks": 29, "cardinality": 8, "bottleneck_width": 64},
        ),
        smallest=4,
        representative=True,
        learning=Learning(arguments={**_TWIN, "blocks": (2, 1, 1)}, size=8, steps=200, rate=3e-3),
    ),
    _small("resnext50_32x4d_cifar", 50, 14_788_772, 750_919_680, "750.9 M", 77.77, representative=True),
    _small("resnext101_32x4d_cifar", 101, 25_303_204, 1_419_386_880, "1419.4 M", 77.78),
    _small("resnext152_cifar", 152, 33_343_652, 1_930_567_680, "1930.6 M", 77.60, aliases=("resnext152",)),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
