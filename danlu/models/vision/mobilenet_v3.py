"""MobileNetV3: inverted residuals whose widths, kernels and gates were searched for, with cheaper ends made by hand.

Title: Searching for MobileNetV3
Authors: Andrew Howard, Mark Sandler, Grace Chu, Liang-Chieh Chen, Bo Chen, Mingxing Tan, Weijun Wang, Yukun Zhu,
  Ruoming Pang, Vijay Vasudevan, Quoc V. Le, Hartwig Adam
Year: 2019 (ICCV 2019)
Link: https://arxiv.org/abs/1905.02244
New: hard swish in the deeper half, squeeze-and-excitation in the wide part of a block, and a last stage that pools
  before it widens to the classifier.
Table: tables 1 and 2 (layers of Large and Small), table 3 (accuracy, parameters, multiply-adds). The paper's 5.4 M and
  219 M for Large and 2.9 M for Small disagree with every program's 5,483,032, 217 M and 2,542,856, which stand here.

Deviations:
- The gate's bottleneck is a quarter of the wide channels rounded to a multiple of 8, as in the authors' program, its
  sigmoid the hard one; table 2's first gate included.
- The layers after the pooling are linear layers; the paper writes 1×1 convolutions on one pixel, which is the same.
- Dropout of 0.2 before the classifier, as torchvision has it; the paper trains with 0.8, which its program reads as the
  share that is kept.
- Zeros stand on all sides of the maps; the authors' program pads as TensorFlow's SAME, one pixel off at stride 2.
- Weights start as in torchvision: He et al. 2015 by outputs, linear layers at a deviation of 0.01.
- The `_cifar` forms are ours: the first convolution and the first row of stride 2 have stride 1, and batch norm
  averages over 10 batches instead of the paper's 100. No source has their numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping
from danlu.models.layers import SqueezeExcite, hard_sigmoid, make_divisible

__all__ = ["VARIANTS", "Bneck", "MobileNetV3", "Row"]


class Row(NamedTuple):
    """One row of table 1 or 2: kernel, exp size, #out, SE, NL (``RE`` or ``HS``), s."""

    kernel: int
    expanded: int
    channels: int
    gated: bool
    activation: str
    stride: int


_ACTIVATIONS = {"RE": nn.ReLU, "HS": nn.Hardswish}


class Bneck(nn.Module):
    """The block of figure 4: 1×1 to the expanded size, k×k of each channel, gate, 1×1 back without activation.

    Takes [B, in_channels, H, W], returns [B, row.channels, ceil(H / row.stride), ceil(W / row.stride)].
    """

    def __init__(self, in_channels: int, row: Row, momentum: float) -> None:
        super().__init__()
        wide, name = row.expanded, row.activation
        self.expand: nn.Module = nn.Identity()
        if wide != in_channels:
            self.expand = _conv_norm(in_channels, wide, 1, activation=name, momentum=momentum)
        self.depthwise = _conv_norm(wide, wide, row.kernel, row.stride, wide, activation=name, momentum=momentum)
        self.gate: nn.Module = nn.Identity()
        if row.gated:
            self.gate = SqueezeExcite(wide, make_divisible(wide // 4), gate=hard_sigmoid)
        self.project = _conv_norm(wide, row.channels, 1, momentum=momentum)
        self.has_shortcut = row.stride == 1 and in_channels == row.channels

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(x) where the shapes agree, else the residual alone."""
        residual: Tensor = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + residual if self.has_shortcut else residual


class MobileNetV3(VisionModel):
    """The network of a table of rows; a stage ends where the next row has stride 2.

    Args:
        table: the rows of blocks.
        hidden: width of the layer after the pooling.
        dropout: probability before the classifier.
        stem_stride: of the first convolution; 2 in the paper.
        momentum: share of a batch in the running statistics of batch norm; 0.01 in the paper.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of as many pixels as the strides multiply to and more, returns logits [B, K].
    """

    input_reason = "the strides multiply to that number, and leave one pixel of the last map"

    def __init__(
        self,
        table: tuple[Row, ...],
        hidden: int,
        dropout: float = 0.2,
        stem_stride: int = 2,
        momentum: float = 0.01,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        stride, seen = stem_stride, 16
        self.stem = _conv_norm(in_channels, seen, 3, stride, activation="HS", momentum=momentum)
        stages = [Stage("stem", seen, stride)]
        self.body = nn.ModuleDict()
        for number, rows in enumerate(_split(table), start=1):
            blocks = nn.Sequential()
            for row in rows:
                blocks.append(Bneck(seen, row, momentum))
                seen, stride = row.channels, stride * row.stride
            self.body[f"stage{number}"] = blocks
            stages.append(Stage(f"stage{number}", seen, stride))
        self.last = _conv_norm(seen, 6 * seen, 1, activation="HS", momentum=momentum)
        self.stages = (*stages, Stage("last", 6 * seen, stride))
        self.smallest = stride
        self.hidden = nn.Linear(6 * seen, hidden)
        self.activation = nn.Hardswish()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, the stages and last for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.stem(x)  # [B, 16, H/2, W/2]
        for name, blocks in self.body.items():
            x = out[name] = blocks(x)  # in the end [B, 160 or 96, H/32, W/32]
        out["last"] = self.last(x)  # [B, 960 or 576, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for last [B, 960 or 576, H/32, W/32]."""
        x = x.mean(dim=(2, 3))  # [B, 960 or 576]
        x = self.activation(self.hidden(x))  # [B, 1280 or 1024]
        logits: Tensor = self.classifier(self.dropout(x))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _split(table: tuple[Row, ...]) -> list[list[Row]]:
    parts: list[list[Row]] = []
    for row in table:
        if row.stride > 1 or not parts:
            parts.append([])
        parts[-1].append(row)
    return parts


def _conv_norm(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: str = "",
    *,
    momentum: float,
) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3, momentum=momentum),
    )
    if activation:
        layers.append(_ACTIVATIONS[activation](inplace=True))
    return layers


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _renaming(table: tuple[Row, ...]) -> Callable[[str], str]:
    """Return our names -> torchvision's: it numbers the blocks through, and the layers of a block without gaps."""
    prefixes = {"stem.": "features.0.", "hidden.": "classifier.0.", "classifier.": "classifier.3."}
    number, seen = 0, 16
    for stage, rows in enumerate(_split(table), start=1):
        for index, row in enumerate(rows):
            number += 1
            there = {"expand": row.expanded != seen, "depthwise": True, "gate": row.gated, "project": True}
            for layer, part in enumerate(part for part, is_there in there.items() if is_there):
                prefixes[f"body.stage{stage}.{index}.{part}."] = f"features.{number}.block.{layer}."
            seen = row.channels
    prefixes["last."] = f"features.{number + 1}."

    def rename(name: str) -> str:
        ours = next(prefix for prefix in prefixes if name.startswith(prefix))
        return prefixes[ours] + name.removeprefix(ours)

    return rename


LARGE = (
    Row(3, 16, 16, False, "RE", 1),
    Row(3, 64, 24, False, "RE", 2),
    Row(3, 72, 24, False, "RE", 1),
    Row(5, 72, 40, True, "RE", 2),
    Row(5, 120, 40, True, "RE", 1),
    Row(5, 120, 40, True, "RE", 1),
    Row(3, 240, 80, False, "HS", 2),
    Row(3, 200, 80, False, "HS", 1),
    Row(3, 184, 80, False, "HS", 1),
    Row(3, 184, 80, False, "HS", 1),
    Row(3, 480, 112, True, "HS", 1),
    Row(3, 672, 112, True, "HS", 1),
    Row(5, 672, 160, True, "HS", 2),
    Row(5, 960, 160, True, "HS", 1),
    Row(5, 960, 160, True, "HS", 1),
)
SMALL = (
    Row(3, 16, 16, True, "RE", 2),
    Row(3, 72, 24, False, "RE", 2),
    Row(3, 88, 24, False, "RE", 1),
    Row(5, 96, 40, True, "HS", 2),
    Row(5, 240, 40, True, "HS", 1),
    Row(5, 240, 40, True, "HS", 1),
    Row(5, 120, 48, True, "HS", 1),
    Row(5, 144, 48, True, "HS", 1),
    Row(5, 288, 96, True, "HS", 2),
    Row(5, 576, 96, True, "HS", 1),
    Row(5, 576, 96, True, "HS", 1),
)
# Every kind of block and stride, few of each.
_SHORT = (
    Row(3, 16, 16, True, "RE", 2),
    Row(3, 48, 24, False, "RE", 2),
    Row(5, 48, 24, True, "HS", 2),
    Row(3, 48, 24, False, "HS", 1),
    Row(5, 48, 32, True, "HS", 2),
)
_PAPER = Paper(
    title="Searching for MobileNetV3",
    authors="Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam",
    year=2019,
    link="https://arxiv.org/abs/1905.02244",
)
_TWIN = {"hidden": 256, "dropout": 0.0, "momentum": 0.1}


def _variant(
    size: str, table: tuple[Row, ...], hidden: int, counts: tuple[int, int], macs: str, accuracy: float
) -> Variant:
    return Variant(
        name=f"mobilenet_v3_{size}",
        model=MobileNetV3,
        arguments={"table": table, "hidden": hidden},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=counts[0],
        macs=counts[1],
        published=Published(
            parameters=f"{counts[0]:,}",
            macs=macs,
            accuracy={"ImageNet-1K": accuracy},
            source="torchvision 0.29.1 weights meta IMAGENET1K_V1",
        ),
        mapping=WeightMapping(
            f"torchvision mobilenet_v3_{size}",
            _renaming(table),
            builder=f"torchvision.models:mobilenet_v3_{size}",
        ),
        smallest=32,
        representative=size == "small",
        check_input=(3, 64, 64),
        learning=Learning(arguments={"table": _SHORT, **_TWIN}, steps=240, rate=2e-3),
    )


def _cifar(size: str, table: tuple[Row, ...], hidden: int, counts: tuple[int, int]) -> Variant:
    first = next(index for index, row in enumerate(table) if row.stride == 2)
    table = (*table[:first], table[first]._replace(stride=1), *table[first + 1 :])
    return Variant(
        name=f"mobilenet_v3_{size}_cifar",
        model=MobileNetV3,
        arguments={"table": table, "hidden": hidden, "stem_stride": 1, "momentum": 0.1},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=counts[0],
        macs=counts[1],
        published=Published(source="none: the form is ours"),
        mapping=WeightMapping(
            f"torchvision mobilenet_v3_{size} with two strides of 1 and another momentum",
            _renaming(table),
            builder="proof.references.mobilenet_v3:mobilenet_v3_cifar",
            arguments={"name": f"mobilenet_v3_{size}"},
        ),
        smallest=8,
        representative=size == "small",
        learning=Learning(
            arguments={"table": (_SHORT[0]._replace(stride=1), *_SHORT[1:]), **_TWIN}, size=12, steps=240, rate=2e-3
        ),
    )


VARIANTS = (
    _variant("large", LARGE, 1280, (5_483_032, 216_589_760), "0.217 G", 74.042),
    _variant("small", SMALL, 1024, (2_542_856, 56_510_400), "0.057 G", 67.668),
    _cifar("large", LARGE, 1280, (4_330_132, 66_574_208)),
    _cifar("small", SMALL, 1024, (1_620_356, 17_599_488)),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
