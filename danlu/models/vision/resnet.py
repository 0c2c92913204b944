"""The residual networks for ImageNet, 18 to 152 layers, and the same with a small stem for pictures of 32 pixels.

Title: Deep Residual Learning for Image Recognition
Authors: Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun
Year: 2015 (CVPR 2016)
Link: https://arxiv.org/abs/1512.03385
New: each block learns what to add to its input; bottlenecks of 1×1, 3×3 and 1×1 convolutions make 152 layers cheap.
Table: table 1 (layers). Its 3.8, 7.6 and 11.3 G multiply-adds for 50, 101 and 152 layers are those of the stride in the
    first 1×1 convolution; with the stride in the 3×3 they are 4.1, 7.8 and 11.5 G.

Deviations:
- A bottleneck halves the picture in its 3×3 convolution (the form called v1.5), the paper in its first 1×1.
- The shortcut is a projection with batch norm where the shape changes (option B), also in 18 and 34 layers.
- Convolutions start as He et al. 2015 propose for the backward pass, the classifier uniformly; the paper does not say.
- The `_cifar` forms, which are not in the paper, begin with a 3×3 convolution of stride 1 and do not pool; the paper's
  own networks for CIFAR are resnet20 to resnet110.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "BasicBlock", "Bottleneck", "ResNet", "Residual", "SmallStem", "Stem", "to_torchvision"]


class Residual(nn.Module, ABC):
    """A building block: relu(shortcut(x) + residual(x)).

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)].

    Attributes:
        channels: how many come out.
        shortcut: the identity, or a projection where the shape changes (option B).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.channels = channels
        changes = stride != 1 or in_channels != channels
        self.shortcut = self.projection(in_channels, stride) if changes else nn.Identity()

    def projection(self, in_channels: int, stride: int) -> nn.Module:
        """Return the layers of a shortcut that changes the shape."""
        return nn.Sequential(
            nn.Conv2d(in_channels, self.channels, 1, stride, bias=False), nn.BatchNorm2d(self.channels)
        )

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Return what the block adds to its input, in the shape of its output."""

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + residual(x))."""
        return F.relu(self.shortcut(x) + self.residual(x), inplace=True)


class BasicBlock(Residual):
    """Two 3×3 convolutions of ``width`` channels."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        """Return [B, width, H', W']."""
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out: Tensor = self.norm2(self.conv2(x))
        return out


class Bottleneck(Residual):
    """1×1 to ``width`` channels, 3×3, and 1×1 to four times as many."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, 4 * width, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)

    def residual(self, x: Tensor) -> Tensor:
        """Return [B, 4 width, H', W']."""
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)  # [B, width, H, W]
        x = F.relu(self.norm2(self.conv2(x)), inplace=True)  # [B, width, H', W']
        out: Tensor = self.norm3(self.conv3(x))
        return out


class Stem(nn.Module):
    """conv1 of ImageNet: 7×7 with stride 2; conv2_x begins with a maximum over 3×3 with stride 2.

    Attributes:
        strides: of what conv1 gives, and of what is left of it after :meth:`pool`.
    """

    strides = (2, 4)

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = self.convolution(in_channels, channels)
        self.norm = nn.BatchNorm2d(channels)

    def convolution(self, in_channels: int, channels: int) -> nn.Module:
        """Return the layers before the batch norm."""
        return nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, H / 2, W / 2] for pictures [B, C, H, W]."""
        return F.relu(self.norm(self.conv(x)), inplace=True)

    def pool(self, x: Tensor) -> Tensor:
        """Return [B, channels, H / 4, W / 4], which the first block sees."""
        return F.max_pool2d(x, 3, stride=2, padding=1)


class SmallStem(Stem):
    """conv1 for pictures of 32 pixels: 3×3 with stride 1, no pooling."""

    strides = (1, 1)

    def convolution(self, in_channels: int, channels: int) -> nn.Module:
        """Return the layer before the batch norm."""
        return nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)

    def pool(self, x: Tensor) -> Tensor:
        """Return the maps as they are."""
        return x


class ResNet(VisionModel):
    """The residual network of table 1.

    Args:
        block: builds a block from its channels in, its width and its stride.
        blocks: how many in each stage, conv2_x onwards; the width doubles and the picture halves from one to the next.
        stem: builds conv1 from channels in and channels out.
        width: of conv1 and of the blocks of conv2_x; 64 in the paper.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 32 pixels and more (8 with the small stem), returns logits [B, K].
    """

    def __init__(
        self,
        block: Callable[[int, int, int], Residual],
        blocks: Sequence[int],
        stem: type[Stem] = Stem,
        width: int = 64,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = stem(in_channels, width)
        seen, (first, stride) = width, stem.strides
        stages = [Stage("conv1", width, first)]
        for number, count in enumerate(blocks):
            stage = nn.Sequential()
            for each in range(count):
                halves = number > 0 and each == 0
                stage.append(built := block(seen, width * 2**number, 2 if halves else 1))
                seen = built.channels
            stride *= 1 if number == 0 else 2
            stages.append(Stage(f"conv{number + 2}_x", seen, stride))
            self.add_module(stages[-1].name, stage)
        self.stages = tuple(stages)
        self.classifier = nn.Linear(seen, num_classes)
        self.smallest = stride
        self.input_reason = f"its strides multiply to {stride}"
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1, conv2_x … for pictures [B, C, H, W]; conv1 before it is pooled."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.conv1(x)  # [B, 64, H/2, W/2]
        x = self.conv1.pool(x)  # [B, 64, H/4, W/4]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # each with twice the channels and half the side
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for the maps of the last stage."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(
            old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype
        )  # drawn uniformly from ±1 / √in_features, as in __init__
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


to_torchvision = renamer(
    (r"^conv1\.conv\.", "conv1."),
    (r"^conv1\.norm\.", "bn1."),
    (r"\.norm(\d)\.", r".bn\1."),
    (r"\.shortcut\.", ".downsample."),
    (r"^conv2_x\.", "layer1."),
    (r"^conv3_x\.", "layer2."),
    (r"^conv4_x\.", "layer3."),
    (r"^conv5_x\.", "layer4."),
    (r"^classifier\.", "fc."),
)

_PAPER = Paper(
    title="Deep Residual Learning for Image Recognition",
    authors="He, Zhang, Ren, Sun",
    year=2015,
    link="https://arxiv.org/abs/1512.03385",
)
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _arguments(layers: int) -> dict[str, object]:
    return {"block": BasicBlock if layers < 50 else Bottleneck, "blocks": _BLOCKS[layers]}


def _variant(layers: int, parameters: int, macs: int, published: str, accuracy: float) -> Variant:
    return Variant(
        name=f"resnet{layers}",
        model=ResNet,
        arguments=_arguments(layers),
        paper=_PAPER,
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
            f"torchvision resnet{layers}",
            to_torchvision,
            builder=f"torchvision.models:resnet{layers}",
        ),
        smallest=32,
        representative=layers in (18, 50),
        check_input=(3, 64, 64),
        learning=Learning(arguments={"blocks": (2, 1, 1, 1), "width": 12}, size=32, steps=200, rate=3e-3),
    )


def _small(layers: int, parameters: int, macs: int, published: str, accuracy: float) -> Variant:
    return Variant(
        name=f"resnet{layers}_cifar",
        model=ResNet,
        arguments={**_arguments(layers), "stem": SmallStem},
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
            f"torchvision resnet{layers} with a 3×3 stem",
            to_torchvision,
            builder="proof.references.resnet:small",
            arguments={"name": f"resnet{layers}"},
        ),
        smallest=8,
        representative=layers == 18,
        check_input=(3, 16, 16),
        learning=Learning(arguments={"blocks": (2, 1, 1, 1), "width": 8}, size=8, steps=200, rate=3e-3),
    )


VARIANTS = (
    _variant(18, 11_689_512, 1_814_073_344, "1.8141 G", 69.758),
    _variant(34, 21_797_672, 3_663_761_408, "3.6638 G", 73.314),
    _variant(50, 25_557_032, 4_089_184_256, "4.0892 G", 76.13),
    _variant(101, 44_549_160, 7_801_405_440, "7.8014 G", 77.374),
    _variant(152, 60_192_808, 11_513_626_624, "11.5136 G", 78.312),
    _small(18, 11_220_132, 555_468_800, "555.5 M", 75.61),
    _small(34, 21_328_292, 1_159_448_576, "1159.4 M", 76.76),
    _small(50, 23_705_252, 1_298_014_208, "1298.0 M", 77.39),
    _small(101, 42_697_380, 2_510_168_064, "2510.2 M", 77.78),
    _small(152, 58_341_028, 3_722_321_920, "3722.3 M", 77.69),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
