"""MobileNetV2: blocks that widen, filter each channel and narrow again, with the shortcut between the narrow ends.

Title: MobileNetV2: Inverted Residuals and Linear Bottlenecks
Authors: Mark Sandler, Andrew Howard, Menglong Zhu, Andrey Zhmoginov, Liang-Chieh Chen
Year: 2018 (CVPR 2018)
Link: https://arxiv.org/abs/1801.04381
New: the shortcut joins the narrow layers, and no activation follows them, since ReLU loses what few channels hold.
Table: table 2 (layers), table 4 (accuracy, parameters, multiply-adds). The paper's 3.4 M and 6.9 M parameters at widths
  1 and 1.4 disagree with every program's 3,504,872 and 6,108,776, which stand here; likewise 585 M multiply-adds at 1.4
  with 582,195,824. The CIFAR-100 form is that of weiaicunzai/pytorch-cifar100.

Deviations:
- The first block has no 1×1 convolution before its depthwise one, as in the authors' program: its expansion is 1.
- Zeros stand on all sides of the maps; the authors' program pads as TensorFlow's SAME, one pixel off at stride 2.
- Batch norm has torch's ε and momentum, and weights start as in torchvision (He et al. 2015 by outputs, the classifier
  at a deviation of 0.01); the paper does not say.
- `mobilenet_v2_cifar` is not the authors': its first convolution is 1×1 between zeros, so that 32×32 pictures become
  34×34 maps (stem and stage1, which are no stages for that reason), table 2's strides of rows 1 and 6 are 1, the first
  block has the 1×1 convolution, every convolution has a bias (which batch norm takes out again), no dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping
from danlu.models.layers import make_divisible

__all__ = ["VARIANTS", "Bottleneck", "MobileNetV2", "Row"]


class Row(NamedTuple):
    """One row of table 2: t, c, n, s; ``expansion`` None means that the depthwise convolution comes first."""

    expansion: int | None
    channels: int
    blocks: int
    stride: int


TABLE = (
    Row(None, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)


class Bottleneck(nn.Module):
    """The inverted residual of table 1: 1×1 to t times the channels, 3×3 of each channel, 1×1 back without activation.

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int | None, bias: bool) -> None:
        super().__init__()
        self.expand: nn.Module = nn.Identity()
        wide = in_channels
        if expansion is not None:
            wide = in_channels * expansion
            self.expand = _conv_norm_relu(in_channels, wide, 1, bias=bias)
        self.depthwise = _conv_norm_relu(wide, wide, 3, stride, padding=1, groups=wide, bias=bias)
        self.project = nn.Conv2d(wide, channels, 1, bias=bias)
        self.norm = nn.BatchNorm2d(channels)
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(x) where the shapes agree, else the residual alone."""
        residual: Tensor = self.norm(self.project(self.depthwise(self.expand(x))))
        return x + residual if self.has_shortcut else residual


class MobileNetV2(VisionModel):
    """The network of table 2.

    Args:
        width: multiplies the channels of every layer, and of the last convolution where it is above 1.
        table: the rows of bottlenecks.
        stem: kernel, stride and padding of the first convolution.
        dropout: probability before the classifier.
        bias: whether the convolutions have biases.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of as many pixels as the strides multiply to and more, returns logits [B, K].
    """

    input_reason = "the strides multiply to that number, and leave one pixel of the last map"

    def __init__(
        self,
        width: float = 1.0,
        table: tuple[Row, ...] = TABLE,
        stem: tuple[int, int, int] = (3, 2, 1),
        dropout: float = 0.2,
        bias: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        kernel, stride, padding = stem
        seen, last = make_divisible(32 * width), make_divisible(1280 * max(1.0, width))
        self.stem = _conv_norm_relu(in_channels, seen, kernel, stride, padding, bias=bias)
        stages = [Stage("stem", seen, stride)]
        self.body = nn.ModuleDict()
        for number, row in enumerate(table, start=1):
            blocks = nn.Sequential()
            for index in range(row.blocks):
                channels = make_divisible(row.channels * width)
                blocks.append(Bottleneck(seen, channels, row.stride if index == 0 else 1, row.expansion, bias))
                seen = channels
            stride *= row.stride
            self.body[f"stage{number}"] = blocks
            stages.append(Stage(f"stage{number}", seen, stride))
        self.last = _conv_norm_relu(seen, last, 1, bias=bias)
        stages.append(Stage("last", last, stride))
        # Maps with a border of their own are wider than the pictures: no stage until a stride takes it in.
        framed = padding > kernel // 2
        self.stages = tuple(stage for stage in stages if not framed or stage.stride > 1)
        self.smallest = stride
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, a stage for each row of the table, and last, for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.stem(x)  # [B, 32, H/2, W/2]
        for name, blocks in self.body.items():
            x = out[name] = blocks(x)  # in the end [B, 320, H/32, W/32]
        out["last"] = self.last(x)  # [B, 1280, H/32, W/32]
        return {stage.name: out[stage.name] for stage in self.stages}

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for last [B, 1280, H/32, W/32]."""
        x = self.dropout(x.mean(dim=(2, 3)))  # [B, 1280]
        logits: Tensor = self.classifier(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _conv_norm_relu(
    in_channels: int, channels: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1, *, bias: bool
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups, bias=bias),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _renaming(table: tuple[Row, ...]) -> Callable[[str], str]:
    """Return our names -> torchvision's: it numbers the blocks through, and the layers of a block without gaps."""
    prefixes = {"stem.": "features.0.", "classifier.": "classifier.1."}
    number = 1
    for stage, row in enumerate(table, start=1):
        parts = ("expand", "depthwise", "project", "norm")[row.expansion is None :]
        for index in range(row.blocks):
            for layer, part in enumerate(parts):
                prefixes[f"body.stage{stage}.{index}.{part}."] = f"features.{number}.conv.{layer}."
            number += 1
    prefixes["last."] = f"features.{number}."

    def rename(name: str) -> str:
        ours = next(prefix for prefix in prefixes if name.startswith(prefix))
        return prefixes[ours] + name.removeprefix(ours)

    return rename


_PAPER = Paper(
    title="MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    authors="Sandler, Howard, Zhu, Zhmoginov, Chen",
    year=2018,
    link="https://arxiv.org/abs/1801.04381",
)
# Every kind of block and as many strides, few of each.
_SHORT = (Row(4, 24, 1, 2), Row(4, 32, 2, 2), Row(4, 64, 1, 2))


def _variant(name: str, width: float, counts: tuple[int, int], published: Published) -> Variant:
    return Variant(
        name=name,
        model=MobileNetV2,
        arguments={"width": width},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=counts[0],
        macs=counts[1],
        published=published,
        mapping=WeightMapping(
            f"torchvision mobilenet_v2, width_mult {width:g}",
            _renaming(TABLE),
            builder="torchvision.models:mobilenet_v2",
            arguments={"width_mult": width},
        ),
        smallest=32,
        aliases=("mobilenetv2",) if width == 1 else (),
        representative=width == 1,
        check_input=(3, 64, 64),
        learning=Learning(
            arguments={"width": 0.5, "table": (TABLE[0], *_SHORT, Row(4, 96, 1, 2)), "dropout": 0.0}, rate=2e-3
        ),
    )


_CIFAR = (Row(1, 16, 1, 1), Row(6, 24, 2, 2), *TABLE[2:5], Row(6, 160, 3, 1), TABLE[6])

VARIANTS = (
    _variant(
        "mobilenet_v2",
        1.0,
        (3_504_872, 300_774_272),
        Published(
            "3,504,872",
            "0.301 G",
            {"ImageNet-1K": 71.878},
            "torchvision 0.29.1 weights meta IMAGENET1K_V1; table 4 has 72.0 and 300 M",
        ),
    ),
    _variant(
        "mobilenet_v2_050",
        0.5,
        (1_968_680, 97_131_840),
        Published("1,968,680", "0.0971 G", {}, "timm 1.0.31 mobilenetv2_050, counted"),
    ),
    _variant(
        "mobilenet_v2_140",
        1.4,
        (6_108_776, 582_195_824),
        Published(
            "6,108,776",
            "0.5822 G",
            {"ImageNet-1K": 74.7},
            "timm 1.0.31 mobilenetv2_140, counted; accuracy of table 4 as megvii-model/ShuffleNet-Series quotes it",
        ),
    ),
    Variant(
        name="mobilenet_v2_cifar",
        model=MobileNetV2,
        arguments={"table": _CIFAR, "stem": (1, 1, 1), "dropout": 0.0, "bias": True},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=2_369_380,
        macs=64_947_264,
        published=Published(
            "2,369,380",
            "64.9 M",
            {"CIFAR-100": 68.08},
            "README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "torchvision mobilenet_v2 with another stem, table and biases",
            _renaming(_CIFAR),
            builder="proof.references.mobilenet_v2:mobilenet_v2_cifar",
        ),
        smallest=8,
        representative=True,
        learning=Learning(arguments={"width": 0.5, "table": (Row(1, 16, 1, 1), *_SHORT)}, size=12, rate=2e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
