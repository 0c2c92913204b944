"""Pre-activated residual networks of 18 to 152 layers for pictures of 32 pixels, as a much-used table has them.

Title: Identity Mappings in Deep Residual Networks
Authors: Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun
Year: 2016 (ECCV)
Link: https://arxiv.org/abs/1603.05027
New: batch norm and ReLU before each convolution leave the path of the shortcuts free.
Table: none in the paper, whose own networks for CIFAR are preact_resnet110 and preact_resnet164; layers as in table 1
    of He et al. 2015. Accuracies are of the CIFAR-100 table. Its README prints 11.3 and 21.5 M parameters for 18 and 34
    layers, its networks have 11.2 and 21.3 M.

Deviations:
- Every convolution has a bias, although batch norm follows most of them.
- Batch norm and ReLU follow the stem instead of the last addition, so that the classifier sees raw sums.
- Shortcuts that change the shape project the block's input before batch norm and ReLU.
- A bottleneck halves the picture in its first 1×1 convolution, as He et al. 2015 have it.
- Convolutions start as He et al. 2015 propose for the backward pass, the classifier uniformly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "BasicUnit", "BottleneckUnit", "SmallPreActResNet", "Unit"]


class Unit(nn.Module, ABC):
    """shortcut(x) + residual(x), [B, in_channels, H, W] -> [B, channels, ceil(H / stride), ceil(W / stride)].

    Attributes:
        expansion: channels that come out, in widths.
        shortcut: the identity, or a 1×1 projection where the shape changes.
    """

    expansion: int

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        channels = self.expansion * width
        changes = stride != 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride) if changes else nn.Identity()

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Return what is added to the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + residual(x)."""
        out: Tensor = self.shortcut(x) + self.residual(x)
        return out


class BasicUnit(Unit):
    """Two 3×3 convolutions, batch norm and ReLU before each."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def residual(self, x: Tensor) -> Tensor:
        """Return [B, width, H', W']."""
        x = self.conv1(F.relu(self.norm1(x), inplace=True))
        out: Tensor = self.conv2(F.relu(self.norm2(x), inplace=True))
        return out


class BottleneckUnit(Unit):
    """1×1 to ``width`` channels, 3×3, and 1×1 to four times as many, batch norm and ReLU before each."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1)

    def residual(self, x: Tensor) -> Tensor:
        """Return [B, 4 width, H', W']."""
        x = self.conv1(F.relu(self.norm1(x), inplace=True))  # [B, width, H', W']
        x = self.conv2(F.relu(self.norm2(x), inplace=True))
        out: Tensor = self.conv3(F.relu(self.norm3(x), inplace=True))
        return out


class SmallPreActResNet(VisionModel):
    """A 3×3 stem and four stages of pre-activated blocks.

    Args:
        block: class of the blocks.
        blocks: how many in each stage; the width doubles and the picture halves from one to the next.
        width: of the stem and of stage1; 64 in the published ones.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 8×8 pixels and more, returns logits [B, K].
    """

    smallest = 8
    input_reason = "three stages halve the picture"

    def __init__(
        self,
        block: type[Unit],
        blocks: Sequence[int],
        width: int = 64,
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(width)
        stages, seen = [Stage("stem", width, 1)], width
        for number, count in enumerate(blocks):
            stage = nn.Sequential()
            for each in range(count):
                halves = number > 0 and each == 0
                stage.append(block(seen, width * 2**number, 2 if halves else 1))
                seen = block.expansion * width * 2**number
            stages.append(Stage(f"stage{number + 1}", seen, 2**number))
            self.add_module(stages[-1].name, stage)
        self.stages = tuple(stages)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and stage1 to stage4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)  # [B, 64, H, W]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, 64, H, W] … [B, 512, H/8, W/8]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage4."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^stem_conv\.", "conv."),
    (r"^stem_norm\.", "bn."),
    (r"^stage(\d)\.(\d+)\.conv(\d)\.", r"unit_\1_\2.c\3."),
    (r"^stage(\d)\.(\d+)\.norm(\d)\.", r"unit_\1_\2.n\3."),
    (r"^stage(\d)\.(\d+)\.shortcut\.", r"unit_\1_\2.p."),
    (r"^classifier\.", "linear."),
)
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _variant(layers: int, parameters: int, macs: int, published: str, accuracy: float) -> Variant:
    return Variant(
        name=f"preact_resnet{layers}_cifar",
        model=SmallPreActResNet,
        arguments={"block": BasicUnit if layers < 50 else BottleneckUnit, "blocks": _BLOCKS[layers]},
        paper=Paper(
            title="Identity Mappings in Deep Residual Networks",
            authors="He, Zhang, Ren, Sun",
            year=2016,
            link="https://arxiv.org/abs/1603.05027",
        ),
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
            "the form with biases written apart, under the names conv, bn, unit_1_0.c1 … linear",
            _RENAME,
            builder="proof.references.preact_resnet_cifar:Raw",
            arguments={"blocks": _BLOCKS[layers], "bottleneck": layers >= 50},
        ),
        smallest=8,
        aliases=(f"preactresnet{layers}",),
        representative=layers in (18, 50),
        check_input=(3, 16, 16),
        learning=Learning(arguments={"blocks": (2, 1, 1, 1), "width": 8}, size=8, steps=200, rate=3e-3),
    )


VARIANTS = (
    _variant(18, 11_222_244, 555_468_800, "555.5 M", 72.92),
    _variant(34, 21_334_116, 1_159_448_576, "1159.4 M", 75.21),
    _variant(50, 23_720_164, 1_222_516_736, "1222.5 M", 74.27),
    _variant(101, 42_738_404, 2_434_670_592, "2434.7 M", 75.16),
    _variant(152, 58_405_092, 3_646_824_448, "3646.8 M", 77.29),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
