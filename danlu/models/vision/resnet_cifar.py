"""The CIFAR residual networks: 20 to 110 layers of 3×3 convolutions with shortcuts that have no parameters.

Title: Deep Residual Learning for Image Recognition
Authors: Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun
Year: 2015 (CVPR 2016)
Link: https://arxiv.org/abs/1512.03385
New: each block learns what to add to its input, so that a hundred layers train as easily as twenty.
Table: table 6 (CIFAR-10 test error, 6n+2 layers); section 4.2 describes the architecture.

Deviations:
- The zero channels of option A stand half before and half after the old ones, as in the widespread implementation; the
  paper does not say where.
- The classifier starts as He et al. 2015 propose too, its bias at zero; the paper does not say.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "BasicBlock", "CIFARResNet"]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and the shortcut of option A: every ``stride``-th pixel, new channels zero.

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the block's input in the shape of its output."""
        if self.stride == 1 and self.new_channels == 0:
            return x
        before = self.new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + residual(x))."""
        residual = F.relu(self.norm1(self.conv1(x)), inplace=True)
        residual = self.norm2(self.conv2(residual))
        return F.relu(self.shortcut(x) + residual, inplace=True)


class CIFARResNet(VisionModel):
    """The residual network of section 4.2 with 6n + 2 layers.

    Args:
        blocks: n, the number of blocks in each of the three stages.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 8×8 pixels and more, returns logits [B, K].
    """

    stages = (Stage("stem", 16, 1), Stage("stage1", 16, 1), Stage("stage2", 32, 2), Stage("stage3", 64, 4))
    smallest = 8
    input_reason = "two stages halve the picture, and a last map of one pixel has no batch statistics at batch 1"

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.stage1 = _stage(16, 16, blocks, stride=1)
        self.stage2 = _stage(16, 32, blocks, stride=2)
        self.stage3 = _stage(32, 64, blocks, stride=2)
        self.classifier = nn.Linear(64, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, stage1, stage2 and stage3 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)  # [B, 16, H, W]
        x = out["stage1"] = self.stage1(x)  # [B, 16, H, W]
        x = out["stage2"] = self.stage2(x)  # [B, 32, H/2, W/2]
        x = out["stage3"] = self.stage3(x)  # [B, 64, H/4, W/4]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage3 [B, 64, H/4, W/4]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, 64]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(64, num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    # He et al. 2015 (Delving Deep into Rectifiers), as section 4.2 asks; batch norm starts as the identity.
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^stem_conv\.", "conv1."),
    (r"^stem_norm\.", "bn1."),
    (r"^stage(\d)\.(\d+)\.norm(\d)\.", r"layer\1.\2.bn\3."),
    (r"^stage(\d)\.", r"layer\1."),
    (r"^classifier\.", "linear."),
)


def _variant(layers: int, parameters: int, macs: int, accuracy: float) -> Variant:
    return Variant(
        name=f"resnet{layers}",
        model=CIFARResNet,
        arguments={"blocks": (layers - 2) // 6},
        paper=Paper(
            title="Deep Residual Learning for Image Recognition",
            authors="He, Zhang, Ren, Sun",
            year=2015,
            link="https://arxiv.org/abs/1512.03385",
        ),
        input=(3, 32, 32),
        classes=10,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=f"{macs / 1e6:.2f} M",
            accuracy={"CIFAR-10": accuracy},
            source="table 6: 100 % minus the test error; counts are the closed form of section 4.2",
        ),
        mapping=WeightMapping(
            "the option-A form written apart, under the usual names conv1 bn1 layer1.0 … linear",
            _RENAME,
            builder="proof.references.resnet_cifar:ResNet",
            arguments={"blocks": (layers - 2) // 6},
        ),
        smallest=8,
        representative=layers == 20,
        learning=Learning(arguments={"blocks": 1}, size=16, steps=200, rate=3e-3),
    )


VARIANTS = (
    _variant(20, 269_722, 40_551_040, 91.25),
    _variant(32, 464_154, 68_862_592, 92.49),
    _variant(44, 658_586, 97_174_144, 92.83),
    _variant(56, 853_018, 125_485_696, 93.03),
    _variant(110, 1_727_962, 252_887_680, 93.57),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
