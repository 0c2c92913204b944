"""ShuffleNet: residual units of grouped 1×1 convolutions, with the channels shuffled between them.

Title: ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices
Authors: Xiangyu Zhang, Xinyu Zhou, Mengxiao Lin, Jian Sun
Year: 2017 (CVPR 2018)
Link: https://arxiv.org/abs/1707.01083
New: the channel shuffle, by which the groups of one convolution see the outputs of all groups of the one before.
Table: table 1 (layers and complexity for 1 to 8 groups), table 2 (accuracy). For 4 and 8 groups table 1 has 133 M and
  137 M multiply-adds, its layers come to 134 M and 138 M; the README of pytorchcv counts other operations in and has
  148.13 M, 147.60 M, 145.46 M, 143.33 M and 150.76 M. The CIFAR-100 form is that of weiaicunzai/pytorch-cifar100.

Deviations:
- At stride 2 the new channels stand before the pooled ones, as in pytorchcv; the authors' program has them behind.
- Weights start as He et al. 2015 propose and the classifier at a deviation of 0.01; the paper does not say.
- `shufflenet_v1_g3_cifar` is not the authors': its first convolution has stride 1 and no pooling after it, its first
  1×1 convolution is grouped too, every convolution has a bias (which the batch norm after it takes out again). The
  table's program has the new channels behind the pooled ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "ShuffleNetV1", "ShuffleUnit"]

# Table 1: channels of stage 2 for each number of groups; the later stages double them.
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}


class ShuffleUnit(nn.Module):
    """Figures 2b and 2c: grouped 1×1 to a quarter, shuffle, 3×3 of each channel, grouped 1×1 back, and a shortcut.

    At stride 2 the shortcut is an average pooling that stands beside the new channels. Takes [B, in_channels, H, W],
    returns [B, channels, ceil(H / stride), ceil(W / stride)].

    Args:
        in_channels: channels in.
        channels: channels out.
        stride: 1 or 2.
        groups: of the shuffle and the second 1×1 convolution.
        first_groups: of the first 1×1 convolution.
        bias: whether the convolutions have biases.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, groups: int, first_groups: int, bias: bool
    ) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        narrow = channels // 4
        new = channels - in_channels if stride == 2 else channels
        self.compress = nn.Conv2d(in_channels, narrow, 1, groups=first_groups, bias=bias)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.depthwise = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=narrow, bias=bias)
        self.norm2 = nn.BatchNorm2d(narrow)
        self.expand = nn.Conv2d(narrow, new, 1, groups=groups, bias=bias)
        self.norm3 = nn.BatchNorm2d(new)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + residual(x)), or at stride 2 relu of residual(x) beside the pooled x."""
        residual = F.relu(self.norm1(self.compress(x)), inplace=True)
        residual = _shuffle(residual, self.groups)
        residual = self.norm2(self.depthwise(residual))
        residual = self.norm3(self.expand(residual))
        if self.stride == 1:
            return F.relu(x + residual)
        pooled = F.avg_pool2d(x, 3, stride=2, padding=1)
        return F.relu(torch.cat([residual, pooled], dim=1))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    # Channel i of group g becomes channel g of group i: [B, g · n, H, W] -> [B, n · g, H, W].
    batch, channels, height, width = x.shape
    x = x.reshape(batch, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width)


class ShuffleNetV1(VisionModel):
    """The network of table 1.

    Args:
        groups: g, of the 1×1 convolutions.
        units: of stages 2, 3 and 4.
        width: multiplies the channels of every layer; s of the paper's "ShuffleNet s×".
        stem_stride: 4, i.e. a convolution of stride 2 and a pooling, or 1, the convolution alone.
        first_groups: groups of the first 1×1 convolution of stage 2; 1 in the paper, since it sees 24 channels only.
        bias: whether the convolutions have biases.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 8 · stem_stride pixels and more, returns logits [B, K].
    """

    input_reason = "the strides multiply to that number, and leave one pixel of the last map"

    def __init__(
        self,
        groups: int,
        units: tuple[int, int, int] = (4, 8, 4),
        width: float = 1.0,
        stem_stride: int = 4,
        first_groups: int = 1,
        bias: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.smallest = 8 * stem_stride
        seen, channels, stride = int(24 * width), int(CHANNELS[groups] * width), stem_stride
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, seen, 3, min(stride, 2), padding=1, bias=bias),
            nn.BatchNorm2d(seen),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if stem_stride == 4 else nn.Identity()
        stages = [Stage("stem", seen, stride)]
        self.body = nn.ModuleDict()
        for number, repeats in enumerate(units, start=2):
            stage = nn.Sequential()
            for index in range(repeats):
                first = first_groups if number == 2 and index == 0 else groups
                stage.append(ShuffleUnit(seen, channels, 2 if index == 0 else 1, groups, first, bias))
                seen = channels
            stride *= 2
            self.body[f"stage{number}"] = stage
            stages.append(Stage(f"stage{number}", channels, stride))
            channels *= 2
        self.stages = tuple(stages)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, stage2, stage3 and stage4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.pool(self.stem(x))  # [B, 24, H/4, W/4]
        for name, stage in self.body.items():
            x = out[name] = stage(x)  # twice the channels, half the pixels; at last [B, 4 c, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage4 [B, 4 c, H/32, W/32]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, 4 c]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


_PARTS = renamer(
    (r"^stem\.0\.", "features.init_block.conv."),
    (r"^stem\.1\.", "features.init_block.bn."),
    (r"\.compress\.", ".compress_conv1."),
    (r"\.depthwise\.", ".dw_conv2."),
    (r"\.expand\.", ".expand_conv3."),
    (r"\.norm1\.", ".compress_bn1."),
    (r"\.norm2\.", ".dw_bn2."),
    (r"\.norm3\.", ".expand_bn3."),
    (r"^classifier\.", "output."),
)


def _rename(name: str) -> str:
    if name.startswith("body."):  # pytorchcv counts stages and units from one
        stage, index, rest = name.removeprefix("body.stage").split(".", 2)
        name = f"features.stage{int(stage) - 1}.unit{int(index) + 1}.{rest}"
    return _PARTS(name)


_PAPER = Paper(
    title="ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
    authors="Zhang, Zhou, Lin, Sun",
    year=2017,
    link="https://arxiv.org/abs/1707.01083",
)
_LEARNING = Learning(arguments={"groups": 3, "units": (1, 2, 1), "width": 0.5}, rate=3e-3)


def _variant(
    groups: int, counts: tuple[int, int], macs: str, accuracy: float, source: str, unverified: tuple[str, ...]
) -> Variant:
    return Variant(
        name=f"shufflenet_v1_g{groups}",
        model=ShuffleNetV1,
        arguments={"groups": groups},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=counts[0],
        macs=counts[1],
        published=Published(
            parameters=f"{counts[0]:,}",
            macs=macs,
            accuracy={"ImageNet-1K": accuracy},
            source=f"parameters: README of pytorchcv 0.0.74; {source}",
            unverified=unverified,
        ),
        mapping=WeightMapping(
            f"pytorchcv shufflenet_g{groups}_w1",
            _rename,
            builder=f"pytorchcv.models.shufflenet:shufflenet_g{groups}_w1",
        ),
        smallest=32,
        aliases=("shufflenet",) if groups == 3 else (),
        representative=groups == 3,
        learning=_LEARNING,
    )


_TABLES = "multiply-adds: table 1; accuracy: table 2, 100 % minus the error"
_README = "README of megvii-model/ShuffleNet-Series, 100 % minus the error"

VARIANTS = (
    _variant(1, (1_531_936, 143_078_976), "143 M", 66.4, _TABLES, ("macs", "accuracy")),
    _variant(2, (1_733_848, 140_836_512), "140 M", 67.3, _TABLES, ("macs", "accuracy")),
    _variant(3, (1_865_728, 137_460_672), "137 M", 67.8, f"multiply-adds: table 1; accuracy: {_README}", ("macs",)),
    _variant(4, (1_968_344, 134_339_776), "none published", 67.2, _TABLES, ("accuracy",)),
    _variant(8, (2_434_768, 138_365_952), "138 M", 68.0, f"multiply-adds and accuracy: {_README}", ()),
    Variant(
        name="shufflenet_v1_g3_x0_5",
        model=ShuffleNetV1,
        arguments={"groups": 3, "width": 0.5},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=718_324,
        macs=37_589_856,
        published=Published("0.7 M", "38 M", {"ImageNet-1K": 57.3}, _README),
        mapping=WeightMapping(
            "pytorchcv shufflenet_g3_wd2", _rename, builder="pytorchcv.models.shufflenet:shufflenet_g3_wd2"
        ),
        smallest=32,
        learning=_LEARNING,
    ),
    Variant(
        name="shufflenet_v1_g3_cifar",
        model=ShuffleNetV1,
        arguments={"groups": 3, "stem_stride": 1, "first_groups": 3, "bias": True},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=1_012_108,
        macs=41_693_952,
        published=Published(
            "1,012,108",
            "41.7 M",
            {"CIFAR-100": 70.06},
            "README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "pytorchcv shufflenet_g3_w1 with another stem and biases",
            _rename,
            builder="proof.references.shufflenet_v1:shufflenet_cifar",
        ),
        smallest=8,
        representative=True,
        learning=Learning(arguments={"units": (1, 2, 1), "width": 0.5}, size=12, rate=3e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
