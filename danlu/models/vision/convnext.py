"""ConvNeXt: a residual network brought up to date by the habits of vision transformers, step by step.

Title: A ConvNet for the 2020s
Authors: Zhuang Liu, Hanzi Mao, Chao-Yuan Wu, Christoph Feichtenhofer, Trevor Darrell, Saining Xie
Year: 2022 (CVPR 2022)
Link: https://arxiv.org/abs/2201.03545
New: patches for a stem, 7×7 depthwise convolutions, inverted bottlenecks, one norm and one GELU a block: what made
    transformers strong, without attention.
Table: table 1 (ImageNet-1K accuracy) and table 9 (architecture). The accuracies below are those of torchvision's
    weights, from its own recipe; the paper has 82.1, 83.1, 83.8 and 84.3.

Deviations:
- none
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import StochasticDepth, linear_rates

__all__ = ["VARIANTS", "ConvNeXt", "ConvNeXtBlock", "LayerNorm2d"]

EPS = 1e-6
LAYER_SCALE = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every pixel: [B, C, H, W] -> [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """7×7 depthwise convolution, layer norm, and a perceptron four times as wide on every pixel; figure 4.

    Takes and returns [B, channels, H, W]. ``rate`` is that of stochastic depth.
    """

    def __init__(self, channels: int, rate: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.drop = StochasticDepth(rate)

    def residual(self, x: Tensor) -> Tensor:
        """Return what the block learns to add to its input."""
        x = self.norm(self.depthwise(x).permute(0, 2, 3, 1))  # [B, H, W, channels]
        x = F.gelu(self.expand(x))  # [B, H, W, 4 · channels]
        out: Tensor = self.project(x).permute(0, 3, 1, 2)
        return out  # [B, channels, H, W]

    def forward(self, x: Tensor) -> Tensor:
        """Return x + layer scale · residual(x)."""
        out: Tensor = x + self.drop(self.layer_scale * self.residual(x))
        return out


class ConvNeXt(VisionModel):
    """ConvNeXt of four stages.

    Args:
        depths: number of blocks of each stage.
        widths: channels of each stage.
        drop_rate: stochastic depth of the last block; it rises linearly from 0 at the first.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "the stem takes patches of 4×4 pixels and three stages halve what it leaves"

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        drop_rate: float,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stages = (
            Stage("stem", widths[0], 4),
            *(Stage(f"stage{i + 1}", width, 4 * 2**i) for i, width in enumerate(widths)),
        )
        self.stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], 4, stride=4), LayerNorm2d(widths[0], eps=EPS))
        rates = iter(linear_rates(drop_rate, sum(depths), from_zero=True))
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(ConvNeXtBlock(width, next(rates)) for _ in range(depth)))
            for depth, width in zip(depths, widths, strict=True)
        )
        self.downsample1, self.downsample2, self.downsample3 = (
            nn.Sequential(LayerNorm2d(before, eps=EPS), nn.Conv2d(before, after, 2, stride=2))
            for before, after in pairwise(widths)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=EPS)
        self.classifier = nn.Linear(widths[-1], num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the stem and the four stages for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.stem(x)  # [B, widths[0], H/4, W/4]
        x = out["stage1"] = self.stage1(x)  # [B, widths[0], H/4, W/4]
        x = out["stage2"] = self.stage2(self.downsample1(x))  # [B, widths[1], H/8, W/8]
        x = out["stage3"] = self.stage3(self.downsample2(x))  # [B, widths[2], H/16, W/16]
        x = out["stage4"] = self.stage4(self.downsample3(x))  # [B, widths[3], H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage4 [B, widths[3], H/32, W/32]."""
        x = self.norm(x.mean(dim=(2, 3)))  # [B, widths[3]]
        logits: Tensor = self.classifier(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _initialise(module: nn.Module) -> None:
    # Appendix A.1, table 5: a normal distribution of deviation 0.02, cut; the norms start as the identity.
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^stem\.", "features.0."),
    *((rf"^stage{i}\.", f"features.{2 * i - 1}.") for i in (1, 2, 3, 4)),
    *((rf"^downsample{i}\.", f"features.{2 * i}.") for i in (1, 2, 3)),
    (r"\.depthwise\.", ".block.0."),
    (r"\.norm\.", ".block.2."),
    (r"\.expand\.", ".block.3."),
    (r"\.project\.", ".block.5."),
    (r"^norm\.", "classifier.0."),
    (r"^classifier\.(weight|bias)", r"classifier.2.\1"),
)

# All sizes learn as one tiny twin.
_LEARNING = Learning(
    arguments={"depths": (1, 1, 2, 1), "widths": (16, 24, 48, 96), "drop_rate": 0.1}, steps=160, rate=4e-3, batch=128
)


def _variant(
    size: str,
    depth: int,
    width: int,
    drop_rate: float,
    counts: tuple[int, int],
    macs: str,
    accuracy: float,
) -> Variant:
    parameters, exact = counts
    return Variant(
        name=f"convnext_{size}",
        model=ConvNeXt,
        arguments={
            "depths": (3, 3, depth, 3),
            "widths": (width, 2 * width, 4 * width, 8 * width),
            "drop_rate": drop_rate,
        },
        paper=Paper(
            title="A ConvNet for the 2020s",
            authors="Liu, Mao, Wu, Feichtenhofer, Darrell, Xie",
            year=2022,
            link="https://arxiv.org/abs/2201.03545",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=exact,
        published=Published(
            parameters=f"{parameters:,}",
            macs=macs,
            accuracy={"ImageNet-1K": accuracy},
            source="torchvision 0.29.1, weights meta IMAGENET1K_V1; accuracy by its recipe, not the paper's",
        ),
        mapping=WeightMapping(f"torchvision convnext_{size}", _RENAME, builder=f"torchvision.models:convnext_{size}"),
        smallest=32,
        representative=size == "tiny",
        check_input=(3, 64, 64),
        learning=_LEARNING,
    )


VARIANTS = (
    _variant("tiny", 9, 96, 0.1, (28_589_128, 4_455_531_264), "4.456 G", 82.52),
    _variant("small", 27, 96, 0.4, (50_223_688, 8_683_712_256), "8.684 G", 83.616),
    _variant("base", 27, 128, 0.5, (88_591_464, 15_354_729_472), "15.355 G", 84.062),
    _variant("large", 27, 192, 0.5, (197_767_336, 34_361_433_600), "34.361 G", 84.414),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
