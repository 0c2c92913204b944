"""Xception: every Inception module becomes a depthwise separable convolution, with residual connections around them.

Title: Xception: Deep Learning with Depthwise Separable Convolutions
Authors: François Chollet
Year: 2016 (CVPR 2017)
Link: https://arxiv.org/abs/1610.02357
New: channels and space are mapped apart everywhere: each channel sees its own 3×3 kernel, 1×1 kernels mix them.
Table: figure 5 (the network), table 1 (79.0 % top-1 accuracy of one crop), table 3 (22,855,952 parameters). Operations
    and the accuracy given here are those of timm, whose weights come from Keras.

Deviations:
- Convolutions and maxima at stride 2 have one zero on every side, as in timm; Keras pads after the last pixel alone
  where the size is even.
- No dropout; the paper has 0.5 before the classifier on ImageNet.
- Weights of convolutions start as He et al. 2015 propose, by fan-out, as in timm; the paper does not say.
- `xception_cifar`: the stem pads and has no stride, the third block of the entry flow takes maxima at stride 1,
  shortcuts have a bias, which batch norm undoes. In the table's program a ReLU in place also changes what the
  shortcuts of the entry and middle flow see; here they see the block's input, as in figure 5.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "Block", "CIFARXception", "SeparableConv", "Xception"]


class SeparableConv(nn.Module):
    """3×3 kernels of each channel alone, then 1×1 kernels: [B, in_channels, H, W] -> [B, channels, H, W]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, H, W]; there is no activation between the two."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class Block(nn.Module):
    """Separable convolutions with ReLU before each, and a shortcut around them.

    Args:
        widths: channels in, and out of each convolution.
        stride: of the maximum behind them and of the shortcut; None where the shortcut is the input itself.
        activate: whether ReLU stands before the first convolution, too.
        bias: whether the shortcut's convolution has one.

    Takes [B, widths[0], H, W], returns [B, widths[-1], ceil(H / stride), ceil(W / stride)].
    """

    def __init__(
        self, widths: tuple[int, ...], stride: int | None = None, activate: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (seen, channels) in enumerate(pairwise(widths)):
            if index or activate:
                # The shortcut reads the block's input, so the first ReLU must not change it.
                layers.append(nn.ReLU(inplace=index > 0))
            layers += [SeparableConv(seen, channels), nn.BatchNorm2d(channels)]
        self.shortcut = nn.Sequential()
        if stride is not None:
            layers.append(nn.MaxPool2d(3, stride, 1))
            self.shortcut.append(nn.Conv2d(widths[0], widths[-1], 1, stride, bias=bias))
            self.shortcut.append(nn.BatchNorm2d(widths[-1]))
        self.residual = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + residual(x)."""
        out: Tensor = self.shortcut(x) + self.residual(x)
        return out


class Xception(VisionModel):
    """Xception.

    Args:
        middle: number of blocks of the middle flow.
        width: factor on all channels, which must stay whole; 1 in the paper.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 35×35 pixels and more, returns logits [B, K].
    """

    smallest = 35
    input_reason = "five layers halve the picture"
    strides = (2, 2, 2)
    stem_stride = 2
    stem_padding = 0
    shortcut_bias = False

    def __init__(self, middle: int, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        a, b, c, d, e, f, g, h = (int(n * width) for n in (32, 64, 128, 256, 728, 1024, 1536, 2048))
        self.conv1 = nn.Conv2d(in_channels, a, 3, self.stem_stride, self.stem_padding, bias=False)
        self.norm1 = nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, 1, self.stem_padding, bias=False)
        self.norm2 = nn.BatchNorm2d(b)
        bias = self.shortcut_bias
        self.entry1 = Block((b, c, c), self.strides[0], activate=False, bias=bias)
        self.entry2 = Block((c, d, d), self.strides[1], bias=bias)
        self.entry3 = Block((d, e, e), self.strides[2], bias=bias)
        self.middle = nn.Sequential(*(Block((e, e, e, e)) for _ in range(middle)))
        self.exit1 = Block((e, e, f), 2, bias=bias)
        self.conv3 = SeparableConv(f, g)
        self.norm3 = nn.BatchNorm2d(g)
        self.conv4 = SeparableConv(g, h)
        self.norm4 = nn.BatchNorm2d(h)
        self.classifier = nn.Linear(h, num_classes)
        stride, stages = self.stem_stride, []
        names = ("stem", "entry1", "entry2", "entry3", "middle", "exit1", "exit2")
        steps = (1, *self.strides, 1, 2, 1)
        for name, channels, step in zip(names, (b, c, d, e, e, f, h), steps, strict=True):
            stride *= step
            stages.append(Stage(name, channels, stride))
        self.stages = tuple(stages)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the stem, the blocks of the entry flow, the middle flow and both parts of the exit flow."""
        self.check_pictures(x)
        out = {}
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)  # [B, 32, H/2, W/2]
        x = out["stem"] = F.relu(self.norm2(self.conv2(x)), inplace=True)  # [B, 64, H/2, W/2]
        x = out["entry1"] = self.entry1(x)  # [B, 128, H/4, W/4]
        x = out["entry2"] = self.entry2(x)  # [B, 256, H/8, W/8]
        x = out["entry3"] = self.entry3(x)  # [B, 728, H/16, W/16]
        x = out["middle"] = self.middle(x)  # [B, 728, H/16, W/16]
        x = out["exit1"] = self.exit1(x)  # [B, 1024, H/32, W/32]
        x = F.relu(self.norm3(self.conv3(x)), inplace=True)  # [B, 1536, H/32, W/32]
        x = out["exit2"] = F.relu(self.norm4(self.conv4(x)), inplace=True)  # [B, 2048, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for exit2 [B, 2048, H/32, W/32]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes


class CIFARXception(Xception):
    """Xception for pictures of 32×32 pixels; its middle flow sees 8×8, its exit flow 4×4.

    Takes [B, C, H, W] of 9×9 pixels and more, returns logits [B, K]; its arguments are those of :class:`Xception`.
    """

    smallest = 9
    input_reason = "three layers halve the picture"
    strides = (2, 2, 1)
    stem_stride = 1
    stem_padding = 1
    shortcut_bias = True


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^norm(\d)\.", r"bn\1."),
    (r"^entry(\d)\.", r"block\1."),
    *((rf"^middle\.{index}\.", f"block{index + 4}.") for index in range(8)),
    (r"^exit1\.", "block12."),
    (r"\.residual\.", ".rep."),
    (r"\.shortcut\.0\.", ".skip."),
    (r"\.shortcut\.1\.", ".skipbn."),
    (r"\.depthwise\.", ".conv1."),
    (r"^classifier\.", "fc."),
)
_PAPER = Paper(
    title="Xception: Deep Learning with Depthwise Separable Convolutions",
    authors="Chollet",
    year=2016,
    link="https://arxiv.org/abs/1610.02357",
)
_TWIN = {"middle": 1, "width": 0.125}

VARIANTS = (
    Variant(
        name="xception",
        model=Xception,
        arguments={"middle": 8, "width": 1.0},
        paper=_PAPER,
        input=(3, 299, 299),
        classes=1000,
        parameters=22_855_952,
        macs=8_357_403_496,
        published=Published(
            parameters="22,855,952",
            macs="8.3574 G",
            accuracy={"ImageNet-1K": 79.04},
            source="counts of timm 1.0.31; accuracy of its legacy_xception.tf_in1k in results/results-imagenet.csv of "
            "its repository (weights ported from Keras)",
        ),
        mapping=WeightMapping("timm xception (legacy)", _RENAME, builder="timm.models.xception:legacy_xception"),
        smallest=35,
        representative=True,
        check_input=(3, 71, 71),
        learning=Learning(arguments=_TWIN, size=48, steps=120, rate=3e-3),
    ),
    Variant(
        name="xception_cifar",
        model=CIFARXception,
        arguments={"middle": 8, "width": 1.0},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=21_013_988,
        macs=1_129_865_728,
        published=Published(
            parameters="21,013,988",
            macs="1129.9 M",
            accuracy={"CIFAR-100": 74.93},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "timm xception (legacy) with stem, strides and shortcuts replaced",
            _RENAME,
            builder="proof.references.xception:cifar",
        ),
        smallest=9,
        representative=True,
        learning=Learning(arguments=_TWIN, size=16, steps=100, rate=3e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
