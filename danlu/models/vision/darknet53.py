"""Darknet-53: the backbone of YOLOv3, residual blocks of a 1×1 and a 3×3 convolution without any pooling.

Title: YOLOv3: An Incremental Improvement
Authors: Joseph Redmon, Ali Farhadi
Year: 2018
Link: https://arxiv.org/abs/1804.02767
New: Darknet-19 with shortcuts and strided convolutions: as accurate as ResNet-152 at twice its speed.
Table: table 1 (layers) and table 2 (77.2 % at 256×256; 18.7 billion operations, two for a multiply-add); the parameters
    are those of the author's cfg file, which gives 18.57 billion operations.

Deviations:
- Batch norms divide by √(variance + 1e-5), as in the widespread implementation; the author's program adds 1e-6 to the
  deviation.
- Convolutions start uniform as He et al. 2015 propose, the classifier as torch's linear layers do; the paper does not
  say.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "ConvNormLeaky", "DarkBlock", "Darknet53"]


class ConvNormLeaky(nn.Sequential):
    """Convolution without bias, batch norm, leaky ReLU of slope 0.1.

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.leaky = nn.LeakyReLU(0.1, inplace=True)


class DarkBlock(nn.Module):
    """A 1×1 convolution to half the channels and a 3×3 one back, added to the input [B, channels, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormLeaky(channels, channels // 2, 1)
        self.conv2 = ConvNormLeaky(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(x)."""
        residual: Tensor = self.conv2(self.conv1(x))
        return x + residual


class Darknet53(VisionModel):
    """A convolution, five stages that begin with a strided convolution, and a linear layer.

    Args:
        stem: maps of the first convolution.
        widths: maps of the five stages.
        blocks: residual blocks of each stage.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 33×33 pixels and more, returns logits [B, K].
    """

    smallest = 33
    input_reason = "five stages halve the picture, and a last map of one pixel has no batch statistics at batch 1"

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        groups = [Stage(f"stage{i}", width, 2**i) for i, width in enumerate(widths, 1)]
        self.stages = (Stage("stem", stem, 1), *groups)
        self.stem = ConvNormLeaky(in_channels, stem, 3)
        channels = stem
        for stage, count in zip(groups, blocks, strict=True):
            down = ConvNormLeaky(channels, stage.channels, 3, stride=2)
            channels = stage.channels
            self.add_module(stage.name, nn.Sequential(down, *(DarkBlock(channels) for _ in range(count))))
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem [B, 32, H, W] and stage1 [B, 64, H/2, W/2] to stage5 [B, 1024, H/32, W/32]."""
        self.check_pictures(x)
        out = {}
        for stage in self.stages:
            x = out[stage.name] = self.get_submodule(stage.name)(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage5 [B, 1024, H/32, W/32]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, 1024]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")


# The reference counts its units from one.
_RENAME = renamer(
    (r"^stem\.", "features.init_block."),
    *((rf"^stage(\d)\.{number}\.", rf"features.stage\1.unit{number + 1}.") for number in range(9)),
    (r"\.norm\.", ".bn."),
    (r"^classifier\.", "output."),
)

VARIANTS = (
    Variant(
        name="darknet53",
        model=Darknet53,
        arguments={"stem": 32, "widths": (64, 128, 256, 512, 1024), "blocks": (1, 2, 8, 8, 4)},
        paper=Paper(
            title="YOLOv3: An Incremental Improvement",
            authors="Redmon, Farhadi",
            year=2018,
            link="https://arxiv.org/abs/1804.02767",
        ),
        input=(3, 256, 256),
        classes=1000,
        parameters=41_609_928,
        macs=9_285_115_904,
        published=Published(
            parameters="41,609,928",
            macs="9.2851 G",
            accuracy={"ImageNet-1K": 77.2},
            source="timm 1.0.31 and AlexeyAB/darknet cfg/darknet53.cfg, counted; README of "
            "WongKinYiu/CrossStagePartialNetworks (77.2 %, as in table 2 of the paper)",
        ),
        mapping=WeightMapping(
            "pytorchcv darknet53 with a mean over maps of any size",
            _RENAME,
            builder="proof.references.darknet:darknet53",
        ),
        smallest=33,
        representative=True,
        check_input=(3, 64, 64),
        learning=Learning(
            data="mnist",
            arguments={"stem": 8, "widths": (12, 16, 24, 32, 48), "blocks": (1, 1, 1, 1, 1)},
            size=36,
            steps=80,
            rate=5e-3,
        ),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
