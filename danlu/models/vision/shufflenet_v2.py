"""ShuffleNetV2: half of the channels pass each unit untouched, the other half through convolutions without groups.

Title: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design
Authors: Ningning Ma, Xiangyu Zhang, Hai-Tao Zheng, Jian Sun
Year: 2018 (ECCV 2018)
Link: https://arxiv.org/abs/1807.11164
New: designed by measured speed instead of multiply-adds: equal widths, no grouped 1×1 convolutions, few branches, few
  operations element by element.
Table: table 5 (layers), table 8 (accuracy, multiply-adds, parameters). The paper's multiply-adds for 1.5× and 2× are
  above what its layers come to (299 M and 591 M, not 296 M and 583 M). torchvision's accuracies, which stand here, are
  of its own training: the authors' README has 61.1, 69.4, 72.6 and 75.0. The CIFAR-100 form is that of
  weiaicunzai/pytorch-cifar100.

Deviations:
- Weights start as torch starts them, as in torchvision; the paper does not say.
- `shufflenet_v2_x1_0_cifar` is not the authors': its first convolution has stride 1 and neither ReLU nor pooling after
  it, the first unit's longer branch is 24 channels wide inside instead of 58, every convolution has a bias (which the
  batch norm after it takes out again).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "BasicUnit", "DownUnit", "ShuffleNetV2"]


def _convolve(in_channels: int, channels: int, bias: bool) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, channels, 1, bias=bias),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]


def _filter(channels: int, stride: int, bias: bool) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=bias),
        nn.BatchNorm2d(channels),
    ]


def _shuffle(x: Tensor) -> Tensor:
    # The two halves become alternate channels: [B, 2 · n, H, W] -> [B, n · 2, H, W].
    batch, channels, height, width = x.shape
    x = x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width)


class BasicUnit(nn.Module):
    """Figure 3c: the second half of the channels through 1×1, 3×3 of each channel and 1×1; then a shuffle.

    [B, channels, H, W] -> the same shape.
    """

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(*_convolve(half, half, bias), *_filter(half, 1, bias), *_convolve(half, half, bias))

    def forward(self, x: Tensor) -> Tensor:
        """Return the shuffled halves."""
        kept, changed = x.chunk(2, dim=1)  # [B, channels / 2, H, W] each
        return _shuffle(torch.cat([kept, self.branch(changed)], dim=1))


class DownUnit(nn.Module):
    """Figure 3d: all channels through both branches, each of stride 2, which become the halves; then a shuffle.

    [B, in_channels, H, W] -> [B, channels, ceil(H / 2), ceil(W / 2)]; ``inner`` channels inside the longer branch.
    """

    def __init__(self, in_channels: int, channels: int, inner: int, bias: bool) -> None:
        super().__init__()
        half = channels // 2
        self.shortcut = nn.Sequential(*_filter(in_channels, 2, bias), *_convolve(in_channels, half, bias))
        self.branch = nn.Sequential(
            *_convolve(in_channels, inner, bias), *_filter(inner, 2, bias), *_convolve(inner, half, bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the shuffled halves."""
        return _shuffle(torch.cat([self.shortcut(x), self.branch(x)], dim=1))


class ShuffleNetV2(VisionModel):
    """The network of table 5.

    Args:
        channels: of stages 2, 3 and 4 and of Conv5.
        units: of stages 2, 3 and 4.
        stem_stride: 4, i.e. a convolution of stride 2, ReLU and a pooling, or 1, the convolution alone.
        first_inner: channels inside the longer branch of the very first unit, where they are not half of its channels.
        bias: whether the convolutions have biases.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 8 · stem_stride pixels and more, returns logits [B, K].
    """

    input_reason = "the strides multiply to that number, and leave one pixel of the last map"

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        units: tuple[int, int, int] = (4, 8, 4),
        stem_stride: int = 4,
        first_inner: int | None = None,
        bias: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.smallest = 8 * stem_stride
        *widths, last = channels
        seen, stride, inner = 24, stem_stride, first_inner
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, seen, 3, min(stride, 2), padding=1, bias=bias), nn.BatchNorm2d(seen)
        )
        if stem_stride == 4:
            self.stem.append(nn.ReLU(inplace=True)).append(nn.MaxPool2d(3, stride=2, padding=1))
        stages = [Stage("stem", seen, stride)]
        self.body = nn.ModuleDict()
        for number, (width, repeats) in enumerate(zip(widths, units, strict=True), start=2):
            rest = (BasicUnit(width, bias) for _ in range(repeats - 1))
            self.body[f"stage{number}"] = nn.Sequential(DownUnit(seen, width, inner or width // 2, bias), *rest)
            seen, stride, inner = width, stride * 2, None
            stages.append(Stage(f"stage{number}", seen, stride))
        self.conv5 = nn.Sequential(*_convolve(seen, last, bias))
        self.stages = (*stages, Stage("conv5", last, stride))
        self.classifier = nn.Linear(last, num_classes)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, stage2, stage3, stage4 and conv5 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.stem(x)  # [B, 24, H/4, W/4]
        for name, stage in self.body.items():
            x = out[name] = stage(x)  # half the pixels each time; in the end [B, c4, H/32, W/32]
        out["conv5"] = self.conv5(x)  # [B, c5, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for conv5 [B, c5, H/32, W/32]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, c5]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes


_RENAME = renamer(
    (r"^stem\.", "conv1."),
    (r"^body\.", ""),
    (r"\.shortcut\.", ".branch1."),
    (r"\.branch\.", ".branch2."),
    (r"^classifier\.", "fc."),
)

_PAPER = Paper(
    title="ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    authors="Ma, Zhang, Zheng, Sun",
    year=2018,
    link="https://arxiv.org/abs/1807.11164",
)
_TWIN = {"channels": (64, 128, 192, 256), "units": (2, 2, 2)}


def _variant(size: str, channels: tuple[int, ...], counts: tuple[int, int], macs: str, accuracy: float) -> Variant:
    return Variant(
        name=f"shufflenet_v2_x{size}",
        model=ShuffleNetV2,
        arguments={"channels": channels},
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
            f"torchvision shufflenet_v2_x{size}", _RENAME, builder=f"torchvision.models:shufflenet_v2_x{size}"
        ),
        smallest=32,
        aliases=("shufflenetv2",) if size == "1_0" else (),
        representative=size == "0_5",
        check_input=(3, 64, 64),
        learning=Learning(arguments=_TWIN, rate=2e-3),
    )


VARIANTS = (
    _variant("0_5", (48, 96, 192, 1024), (1_366_792, 40_476_448), "0.04 G", 60.552),
    _variant("1_0", (116, 232, 464, 1024), (2_278_604, 144_907_992), "0.145 G", 69.362),
    _variant("1_5", (176, 352, 704, 1024), (3_503_624, 295_759_392), "0.296 G", 72.996),
    _variant("2_0", (244, 488, 976, 2048), (7_393_996, 583_253_464), "0.583 G", 76.23),
    Variant(
        name="shufflenet_v2_x1_0_cifar",
        model=ShuffleNetV2,
        arguments={"channels": (116, 232, 464, 1024), "stem_stride": 1, "first_inner": 24, "bias": True},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=1_360_896,
        macs=43_675_520,
        published=Published(
            "1,360,896",
            "43.7 M",
            {"CIFAR-100": 69.51},
            "README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "torchvision shufflenet_v2_x1_0 with another stem, a narrower first branch and biases",
            _RENAME,
            builder="proof.references.shufflenet_v2:shufflenet_v2_cifar",
        ),
        smallest=8,
        representative=True,
        learning=Learning(arguments=_TWIN, size=12, rate=2e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
