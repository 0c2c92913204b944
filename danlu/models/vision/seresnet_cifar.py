"""The SE-ResNets for small pictures: the ImageNet stages behind one 3×3 convolution, a gate in every block.

Title: Squeeze-and-Excitation Networks
Authors: Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu
Year: 2017 (CVPR 2018)
Link: https://arxiv.org/abs/1709.01507
New: the mean of each channel goes through a bottleneck of two layers and returns as a factor for that channel.
Table: the CIFAR-100 table of weiaicunzai/pytorch-cifar100; its README says 11.4, 21.6, 26.5, 47.7 and 66.2 M
  parameters, its code has the counts below. The paper's own networks for small pictures are SE-ResNet-110 and 164.

Deviations:
- The stem is one 3×3 convolution of stride 1 without pooling; the paper's is 7×7 of stride 2 with pooling.
- A ReLU stands before the gate too; in the paper the gate takes what the last batch norm gives.
- The convolutions have biases, although a batch norm follows each.
- A bottleneck has its stride in the 3×3 convolution.
- Weights start as torch's layers do; the paper starts as He et al. 2015 propose.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import SqueezeExcite

__all__ = ["VARIANTS", "SEBasicBlock", "SEBottleneck", "SEResNetCIFAR"]

_REDUCTION = 16


class _Block(nn.Module):
    """A residual block; ``residual`` is everything before the gate and ends in a ReLU."""

    def __init__(self, residual: nn.Sequential, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.residual = residual
        self.se = SqueezeExcite(channels, channels // _REDUCTION)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride=stride)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + gated residual(x))."""
        return F.relu(self.shortcut(x) + self.se(self.residual(x)), inplace=True)


class SEBasicBlock(_Block):
    """Two 3×3 convolutions and a gate: [B, in_channels, H, W] -> [B, width, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        layers = (*_convolution(in_channels, width, 3, stride), *_convolution(width, width, 3))
        super().__init__(nn.Sequential(*layers), in_channels, width, stride)


class SEBottleneck(_Block):
    """1×1, 3×3, 1×1 and a gate: [B, in_channels, H, W] -> [B, 4 width, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        layers = (
            *_convolution(in_channels, width, 1),
            *_convolution(width, width, 3, stride),
            *_convolution(width, 4 * width, 1),
        )
        super().__init__(nn.Sequential(*layers), in_channels, 4 * width, stride)


def _convolution(seen: int, made: int, kernel: int, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(seen, made, kernel, stride=stride, padding=kernel // 2)
    return conv, nn.BatchNorm2d(made), nn.ReLU(inplace=True)


class SEResNetCIFAR(VisionModel):
    """A residual network of four stages with a squeeze-and-excitation gate in every block, for small pictures.

    Args:
        block: the residual block.
        depths: number of blocks in each stage.
        width: of the stem and of the first stage's blocks; doubles with every stage.
        num_classes: K.
        in_channels: C of the pictures; 3 in the table.

    Takes [B, C, H, W] of 8×8 pixels and more, returns logits [B, K].
    """

    smallest = 8
    input_reason = "three stages halve the picture, so that 8 pixels leave one"

    def __init__(
        self,
        block: type[SEBasicBlock | SEBottleneck],
        depths: Sequence[int],
        width: int = 64,
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem = nn.Sequential(*_convolution(in_channels, width, 3))
        channels = width
        stages = [Stage("stem", channels, 1)]
        for number, depth in enumerate(depths, 1):
            stage = nn.Sequential()
            for index in range(depth):
                stage.append(block(channels, width, 2 if number > 1 and index == 0 else 1))
                channels = block.expansion * width
            self.add_module(f"stage{number}", stage)
            stages.append(Stage(f"stage{number}", channels, 2 ** (number - 1)))
            width *= 2
        self.stages = tuple(stages)
        self.classifier = nn.Linear(channels, num_classes)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and stage1 … stage4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        for stage in self.stages:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, channels, H/stride, W/stride]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage4 [B, C, H/8, W/8]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, C]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes


_RENAME = renamer(
    (r"^stem\.", "pre."),
    (r"\.se\.fc1\.", ".excitation.0."),
    (r"\.se\.fc2\.", ".excitation.2."),
    (r"^classifier\.", "linear."),
)
_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _variant(layers: int, parameters: int, macs: int, published: str, accuracy: float) -> Variant:
    return Variant(
        name=f"seresnet{layers}_cifar",
        model=SEResNetCIFAR,
        arguments={"block": SEBasicBlock if layers < 50 else SEBottleneck, "depths": _DEPTHS[layers]},
        paper=Paper(
            title="Squeeze-and-Excitation Networks",
            authors="Hu, Shen, Albanie, Sun, Wu",
            year=2017,
            link="https://arxiv.org/abs/1709.01507",
        ),
        input=(3, 32, 32),
        classes=100,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=published,
            accuracy={"CIFAR-100": accuracy},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts taken from its code",
        ),
        mapping=WeightMapping(
            "the same network written apart, under the names pre stage1.0.residual excitation … linear",
            _RENAME,
            builder="proof.references.seresnet_cifar:SEResNet",
            arguments={"depths": _DEPTHS[layers], "bottleneck": layers >= 50},
        ),
        smallest=8,
        representative=layers in (18, 50),
        learning=Learning(
            arguments={"depths": (1, 1, 1, 1), "width": 32 if layers < 50 else 16}, size=16, steps=120, rate=2e-3
        ),
    )


VARIANTS = (
    _variant(18, 11_314_012, 555_555_840, "555.6 M", 76.44),
    _variant(34, 21_498_000, 1_159_605_760, "1159.6 M", 77.93),
    _variant(50, 26_262_804, 1_300_529_152, "1300.5 M", 78.58),
    _variant(101, 47_527_764, 2_514_911_232, "2514.9 M", 79.02),
    _variant(152, 65_045_780, 3_728_900_096, "3728.9 M", 79.34),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
