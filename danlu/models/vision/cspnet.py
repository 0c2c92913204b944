"""CSPNet: half of the channels of every stage pass by its blocks and join them again at its end.

Title: CSPNet: A New Backbone that can Enhance Learning Capability of CNN
Authors: Chien-Yao Wang, Hong-Yuan Mark Liao, I-Hau Yeh, Yueh-Hua Wu, Ping-Yang Chen, Jun-Wei Hsieh
Year: 2019 (CVPR Workshops 2020)
Link: https://arxiv.org/abs/1911.11929
New: split and merge across stages, so that blocks do not learn from the same gradients twice; a fifth fewer operations.
Table: tables 1 and 2 and the README of WongKinYiu/CrossStagePartialNetworks (accuracies at 256×256; 21.57, 20.50 and
    27.61 million parameters and 8.97, 7.93 and 13.07 billion operations, two for a multiply-add). timm's forms, which
    these are, have 21.62, 20.57 and 27.64 million, the last as the authors' cfg file of CSPDarkNet-53.

Deviations:
- One 1×1 convolution makes the two halves of a stage, as in timm; the authors have one for each, which is the same.
- Leaky ReLUs have a slope of 0.01, as in timm, whose weights these forms take; the authors' have 0.1.
- The first stage of CSPResNe(X)t-50 is halved as evenly as the others, as in timm; the authors' is not.
- Convolutions start as He et al. 2015 propose by their outputs, the classifier with deviation 0.01, and the last gain
  of every block at zero, as in timm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "Bottleneck", "CSPDarknet", "CSPResNet", "ConvNorm", "CrossStage", "DarkBlock"]


class ConvNorm(nn.Sequential):
    """Convolution without bias and batch norm; with ``leaky``, a leaky ReLU too.

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, leaky: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        if leaky:
            self.leaky = nn.LeakyReLU(inplace=True)


class Bottleneck(nn.Module):
    """ResNe(X)t's block: 1×1, 3×3 in ``groups`` and 1×1, added to the input [B, channels, H, W]."""

    def __init__(self, channels: int, width: int, groups: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, width, 1)
        self.conv2 = ConvNorm(width, width, 3, groups=groups)
        self.conv3 = ConvNorm(width, channels, 1, leaky=False)
        self.leaky = nn.LeakyReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return leaky(x + residual(x))."""
        residual = self.conv3(self.conv2(self.conv1(x)))
        out: Tensor = self.leaky(x + residual)
        return out


class DarkBlock(nn.Module):
    """Darknet's block: 1×1 to ``width`` and 3×3 back, added to the input [B, channels, H, W]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, width, 1)
        self.conv2 = ConvNorm(width, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(x)."""
        residual: Tensor = self.conv2(self.conv1(x))
        return x + residual


class CrossStage(nn.Module):
    """One stage: halved channels, of which one half runs through the blocks; figure 2 of the paper.

    Args:
        down: halves H and W, or leaves them: [B, in_channels, H, W] -> [B, C, H', W'].
        expand: 1×1 convolution to both halves [B, 2 D, H', W'].
        blocks: what the second half [B, D, H', W'] runs through.
        channels: of the result [B, channels, H', W'].
    """

    def __init__(self, down: nn.Module, expand: ConvNorm, blocks: Sequence[nn.Module], channels: int) -> None:
        super().__init__()
        both = expand.conv.out_channels
        self.down, self.expand = down, expand
        self.blocks = nn.Sequential(*blocks)
        self.transition = ConvNorm(both // 2, both // 2, 1)
        self.merge = ConvNorm(both, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the merge of the half that passed by and the half that passed through."""
        by, through = self.expand(self.down(x)).chunk(2, dim=1)
        through = self.transition(self.blocks(through))
        merged: Tensor = self.merge(torch.cat([by, through], dim=1))
        return merged


class _CSPNet(VisionModel):
    """What both families share: the way from the stages to the logits."""

    smallest = 33
    input_reason = "the stem and the stages halve the picture five times, and a last map of one pixel has no statistics"
    stem: nn.Module

    def _finish(self, channels: int, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the stem and stage1 [B, C, H', W'] to the last [B, 1024, H/32, W/32] for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        for stage in self.stages:
            x = out[stage.name] = self.get_submodule(stage.name)(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for the last stage [B, 1024, H/32, W/32]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, 1024]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


class CSPResNet(_CSPNet):
    """CSPResNet-50 and CSPResNeXt-50.

    Args:
        stem: maps of the 7×7 convolution.
        widths: maps of the four stages.
        blocks: number of them in each.
        half: share of a stage's maps that runs through its blocks.
        groups: of the 3×3 convolutions; 1 in CSPResNet, whose bottlenecks have half the width, 32 in CSPResNeXt.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 33×33 pixels and more, returns logits [B, K].
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        half: float,
        groups: int,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        groups_of = [Stage(f"stage{i}", width, 2 ** (i + 1)) for i, width in enumerate(widths, 1)]
        self.stages = (Stage("stem", stem, 4), *groups_of)
        self.stem = nn.Sequential(ConvNorm(in_channels, stem, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1))
        channels = stem
        for stage, count in zip(groups_of, blocks, strict=True):
            down = nn.Identity() if stage.stride == 4 else ConvNorm(channels, channels, 3, stride=2, groups=groups)
            width = int(half * stage.channels)
            # The halves are made without a nonlinearity.
            expand = ConvNorm(channels, 2 * width, 1, leaky=False)
            squeezed = stage.channels // 2
            through = [Bottleneck(width, squeezed, groups) for _ in range(count)]
            self.add_module(stage.name, CrossStage(down, expand, through, stage.channels))
            channels = stage.channels
        self._finish(channels, num_classes)


class CSPDarknet(_CSPNet):
    """CSPDarknet-53.

    Args:
        stem: maps of the first convolution.
        widths: maps of the five stages; all maps of the first one run through its blocks, half of the others'.
        blocks: number of them in each.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 33×33 pixels and more, returns logits [B, K].
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        groups = [Stage(f"stage{i}", width, 2**i) for i, width in enumerate(widths, 1)]
        self.stages = (Stage("stem", stem, 1), *groups)
        self.stem = ConvNorm(in_channels, stem, 3)
        channels = stem
        for stage, count in zip(groups, blocks, strict=True):
            down = ConvNorm(channels, stage.channels, 3, stride=2)
            channels = stage.channels
            width = channels if stage.stride == 2 else channels // 2
            expand = ConvNorm(channels, 2 * width, 1)
            through = [DarkBlock(width, channels // 2) for _ in range(count)]
            self.add_module(stage.name, CrossStage(down, expand, through, channels))
        self._finish(channels, num_classes)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Bottleneck):
        nn.init.zeros_(module.conv3.norm.weight)
    elif isinstance(module, DarkBlock):
        nn.init.zeros_(module.conv2.norm.weight)


# The reference counts its stages from zero.
_RENAME = renamer(
    (r"^stem\.0\.", "stem.conv1."),
    (r"^stem\.(conv|norm)\.", r"stem.conv1.\1."),
    *((rf"^stage{number + 1}\.", f"stages.{number}.") for number in range(5)),
    (r"\.down\.", ".conv_down."),
    (r"\.expand\.", ".conv_exp."),
    (r"\.transition\.", ".conv_transition_b."),
    (r"\.merge\.", ".conv_transition."),
    (r"\.norm\.", ".bn."),
    (r"^classifier\.", "head.fc."),
)


def _variant(
    name: str, model: type[_CSPNet], arguments: dict[str, object], counts: tuple[int, int], accuracy: float
) -> Variant:
    parameters, macs = counts
    twin = {"stem": 16, "blocks": (1,) * 4, "widths": (16, 32, 32, 48)}
    if model is CSPDarknet:
        twin = {"stem": 8, "blocks": (1,) * 5, "widths": (8, 16, 24, 32, 48)}
    elif arguments["groups"] != 1:
        twin["groups"] = 4
    return Variant(
        name=name,
        model=model,
        arguments=arguments,
        paper=Paper(
            title="CSPNet: A New Backbone that can Enhance Learning Capability of CNN",
            authors="Wang, Liao, Yeh, Wu, Chen, Hsieh",
            year=2019,
            link="https://arxiv.org/abs/1911.11929",
        ),
        input=(3, 256, 256),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=f"{macs / 1e9:.4f} G",
            accuracy={"ImageNet-1K": accuracy},
            source="timm 1.0.31, counted; README of WongKinYiu/CrossStagePartialNetworks (accuracy)",
        ),
        mapping=WeightMapping(f"timm {name}", _RENAME, builder=f"timm.models:{name}"),
        smallest=33,
        representative=True,
        check_input=(3, 64, 64),
        learning=Learning(data="mnist", arguments=twin, size=40, steps=320, rate=3e-3),
    )


_RESNET = {"stem": 64, "blocks": (3, 3, 5, 2)}
VARIANTS = (
    _variant(
        "cspresnet50",
        CSPResNet,
        {**_RESNET, "widths": (128, 256, 512, 1024), "half": 1.0, "groups": 1},
        (21_616_168, 4_517_240_832),
        76.6,
    ),
    _variant(
        "cspresnext50",
        CSPResNet,
        {**_RESNET, "widths": (256, 512, 1024, 2048), "half": 0.5, "groups": 32},
        (20_569_896, 4_014_948_352),
        77.9,
    ),
    _variant(
        "cspdarknet53",
        CSPDarknet,
        {"stem": 32, "widths": (64, 128, 256, 512, 1024), "blocks": (1, 2, 8, 8, 4)},
        (27_642_184, 6_533_652_480),
        77.2,
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
