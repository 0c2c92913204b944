"""EfficientNet: one searched network, and a rule that makes it deeper, wider and sharper-sighted all at once.

Title: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks
Authors: Mingxing Tan, Quoc V. Le
Year: 2019 (ICML 2019)
Link: https://arxiv.org/abs/1905.11946
New: depth, width and picture size grow together, by constant ratios found on the small network B0.
Table: table 1 (layers of B0), table 2 (accuracy, parameters, multiply-adds). The paper's multiply-adds of B1, B4 and B5
  (0.70 G, 4.2 G, 9.9 G) are not what its layers come to at its picture sizes (0.687 G, 4.39 G, 10.3 G). Pictures have
  the paper's sizes; torchvision evaluates B2 on 288 pixels instead of 260. Accuracies are torchvision's.

Deviations:
- Zeros stand on all sides of the maps, as in torchvision; the authors' program pads as TensorFlow's SAME, one pixel off
  at stride 2.
- Batch norm has torch's ε and momentum up to B4 and the authors' 0.001 and 0.01 from B5 on, as in torchvision.
- Block i of n is dropped with probability 0.2 i / n, i from 0, as in torchvision; the paper says 0.2 alone.
- Weights start as in torchvision: He et al. 2015 by outputs, the classifier uniform within 1 / √K.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping
from danlu.models.layers import SqueezeExcite, StochasticDepth, make_divisible

__all__ = ["VARIANTS", "EfficientNet", "MBConv"]


class _Row(NamedTuple):
    """A row of table 1: MBConv's expansion and kernel, channels, layers, stride."""

    expansion: int
    kernel: int
    channels: int
    layers: int
    stride: int


# Table 1, stages 2 to 8.
_TABLE = (
    _Row(1, 3, 16, 1, 1),
    _Row(6, 3, 24, 2, 2),
    _Row(6, 5, 40, 2, 2),
    _Row(6, 3, 80, 3, 2),
    _Row(6, 5, 112, 3, 1),
    _Row(6, 5, 192, 4, 2),
    _Row(6, 3, 320, 1, 1),
)


class MBConv(nn.Module):
    """1×1 to ``expansion`` times the channels, k×k of each channel, gate, 1×1 back without activation, and a shortcut.

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)].

    Args:
        in_channels: channels in; the gate's bottleneck is a quarter of them.
        channels: channels out.
        stride: of the middle convolution.
        row: expansion and kernel; without an expansion the first convolution is missing.
        rate: probability that the block is the identity, in train mode.
        norm: ε and momentum of batch norm.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, row: _Row, rate: float, norm: tuple[float, float]
    ) -> None:
        super().__init__()
        wide = in_channels * row.expansion
        self.expand: nn.Module = nn.Identity()
        if row.expansion != 1:
            self.expand = _conv_norm(in_channels, wide, 1, norm=norm).append(nn.SiLU(inplace=True))
        self.depthwise = _conv_norm(wide, wide, row.kernel, stride, wide, norm=norm).append(nn.SiLU(inplace=True))
        self.gate = SqueezeExcite(wide, max(1, in_channels // 4), activation=F.silu)
        self.project = _conv_norm(wide, channels, 1, norm=norm)
        self.drop = StochasticDepth(rate)
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(x) where the shapes agree, else the residual alone."""
        residual: Tensor = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + self.drop(residual) if self.has_shortcut else residual


class EfficientNet(VisionModel):
    """Table 1, scaled.

    Args:
        width: multiplies the channels, which are then rounded to multiples of 8.
        depth: multiplies the layers of a stage, which are then rounded up.
        dropout: probability before the classifier.
        norm: ε and momentum of batch norm.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "five strides halve the picture, and leave one pixel of the last map"

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        dropout: float = 0.2,
        norm: tuple[float, float] = (1e-5, 0.1),
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        seen, stride = make_divisible(32 * width), 2
        self.stem = _conv_norm(in_channels, seen, 3, 2, norm=norm).append(nn.SiLU(inplace=True))
        stages = [Stage("stage1", seen, stride)]
        self.body = nn.ModuleDict()
        layers = [math.ceil(row.layers * depth) for row in _TABLE]
        block = 0
        for number, (row, repeats) in enumerate(zip(_TABLE, layers, strict=True), start=2):
            blocks = nn.Sequential()
            channels = make_divisible(row.channels * width)
            for index in range(repeats):
                rate = 0.2 * block / sum(layers)
                blocks.append(MBConv(seen, channels, row.stride if index == 0 else 1, row, rate, norm))
                seen, block = channels, block + 1
            stride *= row.stride
            self.body[f"stage{number}"] = blocks
            stages.append(Stage(f"stage{number}", seen, stride))
        self.last = _conv_norm(seen, 4 * seen, 1, norm=norm).append(nn.SiLU(inplace=True))
        self.stages = (*stages, Stage("stage9", 4 * seen, stride))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(4 * seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stage1 … stage9 of table 1, the last without its pooling, for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stage1"] = self.stem(x)  # [B, 32, H/2, W/2]
        for name, blocks in self.body.items():
            x = out[name] = blocks(x)  # in the end [B, 320, H/32, W/32]
        out["stage9"] = self.last(x)  # [B, 1280, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage9 [B, 1280, H/32, W/32]."""
        x = self.dropout(x.mean(dim=(2, 3)))  # [B, 1280]
        logits: Tensor = self.classifier(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _conv_norm(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, *, norm: tuple[float, float]
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels, eps=norm[0], momentum=norm[1]),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        limit = module.out_features**-0.5
        nn.init.uniform_(module.weight, -limit, limit)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _rename(name: str) -> str:
    """Return torchvision's name of a tensor: it numbers the layers of a block without gaps."""
    kind, _, rest = name.partition(".")
    if kind != "body":
        return {"stem": "features.0.", "last": "features.8.", "classifier": "classifier.1."}[kind] + rest
    stage, index, part, rest = rest.removeprefix("stage").split(".", 3)
    parts = ("expand", "depthwise", "gate", "project")[stage == "2" :]
    return f"features.{int(stage) - 1}.{index}.block.{parts.index(part)}.{rest}"


_PAPER = Paper(
    title="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    authors="Tan, Le",
    year=2019,
    link="https://arxiv.org/abs/1905.11946",
)
_TWIN = {"width": 0.25, "depth": 0.3, "dropout": 0.0, "norm": (1e-5, 0.1)}
_META = "torchvision 0.29.1 weights meta IMAGENET1K_V1"


def _variant(
    index: int,
    scales: tuple[float, float, float],
    size: int,
    counts: tuple[int, int],
    published: tuple[str, float],
    source: str = _META,
) -> Variant:
    width, depth, dropout = scales
    arguments = {"width": width, "depth": depth, "dropout": dropout}
    return Variant(
        name=f"efficientnet_b{index}",
        model=EfficientNet,
        arguments=arguments if index < 5 else {**arguments, "norm": (1e-3, 0.01)},
        paper=_PAPER,
        input=(3, size, size),
        classes=1000,
        parameters=counts[0],
        macs=counts[1],
        published=Published(
            parameters=f"{counts[0]:,}", macs=published[0], accuracy={"ImageNet-1K": published[1]}, source=source
        ),
        mapping=WeightMapping(
            f"torchvision efficientnet_b{index}", _rename, builder=f"torchvision.models:efficientnet_b{index}"
        ),
        smallest=32,
        representative=index in (0, 5),
        check_input=(3, 64, 64),
        learning=Learning(arguments=_TWIN, size=40, steps=200, rate=2e-3),
    )


VARIANTS = (
    _variant(0, (1.0, 1.0, 0.2), 224, (5_288_548, 385_814_752), ("0.386 G", 77.692)),
    _variant(1, (1.0, 1.1, 0.2), 240, (7_794_184, 686_802_832), ("0.687 G", 78.642)),
    _variant(
        2,
        (1.1, 1.2, 0.3),
        260,
        (9_109_994, 993_561_872),
        ("1.0 G", 80.608),
        f"{_META}, accuracy on pictures of 288 pixels; multiply-adds: table 2",
    ),
    _variant(3, (1.2, 1.4, 0.3), 300, (12_233_232, 1_827_141_392), ("1.827 G", 82.008)),
    _variant(4, (1.4, 1.8, 0.4), 380, (19_341_616, 4_393_771_024), ("4.394 G", 83.384)),
    _variant(5, (1.6, 2.2, 0.4), 456, (30_389_784, 10_266_384_752), ("10.266 G", 83.444)),
    _variant(6, (1.8, 2.6, 0.5), 528, (43_040_704, 19_067_593_536), ("19.068 G", 84.008)),
    _variant(7, (2.0, 3.1, 0.5), 600, (66_347_960, 37_745_884_192), ("37.746 G", 84.122)),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
