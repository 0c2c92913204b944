"""Res2Net: a bottleneck whose 3×3 convolution becomes a chain over groups of channels, each seeing a wider field.

Title: Res2Net: A New Multi-scale Backbone Architecture
Authors: Shang-Hua Gao, Ming-Ming Cheng, Kai Zhao, Xin-Yu Zhang, Ming-Hsuan Yang, Philip Torr
Year: 2019 (TPAMI 2021)
Link: https://arxiv.org/abs/1904.01169
New: scales inside one block: the second split adds the first one's output to its input, the third the second's, …
Table: errors and counts of the released models from the authors' README (Res2Net-PretrainedModels), whose 4.2 to 8.3
  GFLOPs are multiply-adds; exact counts from timm.

Deviations:
- The last split is the one that no convolution sees, as in the authors' program; equation 1 leaves the first one.
- The first block of a stage adds nothing from split to split and averages 3×3 pixels of its last split (zeros around
  counted), as in the authors' program; the paper does not speak of it.
- Convolutions start as He et al. 2015 propose, with fan-out, as in the authors' program; the paper does not say.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "Res2Net", "Res2NetBlock", "Res2NetFirstBlock"]


class Res2NetBlock(nn.Module):
    """Equation 1: 1×1, then ``scales`` - 1 3×3 convolutions in a chain, then 1×1.

    Takes [B, in_channels, H, W], returns [B, channels, H / stride, W / stride]; each split has ``width`` channels.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, width: int, scales: int, groups: int) -> None:
        super().__init__()
        self.width, self.stride = width, stride
        self.conv1 = nn.Conv2d(in_channels, width * scales, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width * scales)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False) for _ in range(scales - 1)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(scales - 1))
        self.conv3 = nn.Conv2d(width * scales, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the block's input in the shape of its output."""
        return x

    def hierarchy(self, splits: Sequence[Tensor]) -> list[Tensor]:
        """Return the splits [B, width, H, W], each convolved together with what the one before it became."""
        made: list[Tensor] = []
        for split, conv, norm in zip(splits[:-1], self.convs, self.norms, strict=True):
            x = split + made[-1] if made else split
            made.append(F.relu(norm(conv(x)), inplace=True))
        return [*made, splits[-1]]

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + residual(x))."""
        residual = F.relu(self.norm1(self.conv1(x)), inplace=True)  # [B, scales · width, H, W]
        residual = torch.cat(self.hierarchy(torch.split(residual, self.width, dim=1)), dim=1)
        residual = self.norm3(self.conv3(residual))
        return F.relu(self.shortcut(x) + residual, inplace=True)


class Res2NetFirstBlock(Res2NetBlock):
    """The first block of a stage: the splits do not add to one another, and the shortcut is a convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int, width: int, scales: int, groups: int) -> None:
        super().__init__(in_channels, channels, stride, width, scales, groups)
        conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
        self.projection = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the block's input in the shape of its output."""
        projected: Tensor = self.projection(x)
        return projected

    def hierarchy(self, splits: Sequence[Tensor]) -> list[Tensor]:
        """Return the splits [B, width, H / stride, W / stride], each convolved by itself, the last one averaged."""
        made = [
            F.relu(norm(conv(split)), inplace=True)
            for split, conv, norm in zip(splits[:-1], self.convs, self.norms, strict=True)
        ]
        return [*made, F.avg_pool2d(splits[-1], 3, stride=self.stride, padding=1)]


class Res2Net(VisionModel):
    """ResNet-50 or 101 with Res2Net blocks.

    Args:
        depths: number of blocks in each of the four stages.
        base_width: w, channels of a split of the first stage; doubles with every stage.
        scales: s, number of splits.
        groups: of the 3×3 convolutions (Res2NeXt); ``base_width`` is then for each group.
        channels: that come out of the stem; four times as many leave the first stage.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "five layers halve the picture, so that 32 pixels leave one"

    def __init__(
        self,
        depths: Sequence[int],
        base_width: int,
        scales: int,
        groups: int = 1,
        channels: int = 64,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        stages = [Stage("stem", channels, 4)]
        seen, made, width = channels, 4 * channels, base_width * groups
        for number, depth in enumerate(depths, 1):
            first = Res2NetFirstBlock(seen, made, 1 if number == 1 else 2, width, scales, groups)
            others = (Res2NetBlock(made, made, 1, width, scales, groups) for _ in range(depth - 1))
            self.add_module(f"stage{number}", nn.Sequential(first, *others))
            stages.append(Stage(f"stage{number}", made, 2 ** (number + 1)))
            seen, made, width = made, 2 * made, 2 * width
        self.stages = tuple(stages)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and stage1 … stage4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)  # [B, 64, H/2, W/2]
        x = out["stem"] = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, 64, H/4, W/4]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, channels, H/stride, W/stride]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage4 [B, C, h, w]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, C]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


_RENAME = renamer(
    (r"^stem_conv\.", "conv1."),
    (r"^stem_norm\.", "bn1."),
    (r"^stage(\d)\.", r"layer\1."),
    (r"\.norm(\d|s)\.", r".bn\1."),
    (r"\.projection\.", ".downsample."),
    (r"^classifier\.", "fc."),
)


def _variant(
    name: str, arguments: dict[str, object], parameters: int, macs: int, published: str, accuracy: float
) -> Variant:
    twin: dict[str, object] = {"depths": (2, 1, 1, 1), "base_width": 8, "scales": 4, "channels": 16}
    if "groups" in arguments:
        twin = {**twin, "base_width": 2, "groups": 4}
    return Variant(
        name=name,
        model=Res2Net,
        arguments=arguments,
        paper=Paper(
            title="Res2Net: A New Multi-scale Backbone Architecture",
            authors="Gao, Cheng, Zhao, Zhang, Yang, Torr",
            year=2019,
            link="https://arxiv.org/abs/1904.01169",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=published,
            accuracy={"ImageNet-1K": accuracy},
            source=f"timm 1.0.31 {name}, counted; accuracy: README of Res2Net/Res2Net-PretrainedModels, "
            "100 % minus the error",
        ),
        mapping=WeightMapping(f"timm {name}", _RENAME, builder=f"timm.models:{name}"),
        smallest=32,
        representative=name in ("res2net50_26w_4s", "res2next50"),
        check_input=(3, 64, 64),
        learning=Learning(arguments=twin, steps=120, rate=2e-3),
    )


_50, _101 = (3, 4, 6, 3), (3, 4, 23, 3)

VARIANTS = (
    _variant(
        "res2net50_26w_4s",
        {"depths": _50, "base_width": 26, "scales": 4},
        25_699_120,
        4_255_166_464,
        "4.2552 G",
        77.99,
    ),
    _variant(
        "res2net50_48w_2s",
        {"depths": _50, "base_width": 48, "scales": 2},
        25_287_304,
        4_159_832_064,
        "4.1598 G",
        77.32,
    ),
    _variant(
        "res2net50_14w_8s",
        {"depths": _50, "base_width": 14, "scales": 8},
        25_059_816,
        4_178_898_944,
        "4.1789 G",
        78.14,
    ),
    _variant(
        "res2net50_26w_6s",
        {"depths": _50, "base_width": 26, "scales": 6},
        37_051_448,
        6_295_523_328,
        "6.2955 G",
        78.58,
    ),
    _variant(
        "res2net50_26w_8s",
        {"depths": _50, "base_width": 26, "scales": 8},
        48_403_776,
        8_335_880_192,
        "8.3359 G",
        79.2,
    ),
    _variant(
        "res2net101_26w_4s",
        {"depths": _101, "base_width": 26, "scales": 4},
        45_206_688,
        8_066_974_464,
        "8.0670 G",
        79.19,
    ),
    _variant(
        "res2next50",
        {"depths": _50, "base_width": 4, "scales": 4, "groups": 8},
        24_671_464,
        4_172_677_120,
        "4.1727 G",
        78.24,
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
