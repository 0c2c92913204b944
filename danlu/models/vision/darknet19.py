"""Darknet-19: the backbone of YOLOv2, nineteen convolutions that halve and double their widths in turn.

Title: YOLO9000: Better, Faster, Stronger
Authors: Joseph Redmon, Ali Farhadi
Year: 2016 (CVPR 2017)
Link: https://arxiv.org/abs/1612.08242
New: VGG's 3×3 kernels with 1×1 kernels that compress between them, batch norms, and a mean in place of linear layers.
Table: table 6 (layers; 5.58 billion operations, two for a multiply-add, at 224×224) and section 3 (accuracy at
    224×224); the parameters are those of the author's cfg file.

Deviations:
- Batch norms divide by √(variance + 1e-5), as in the widespread implementation; the author's program adds 1e-6 to the
  deviation.
- Convolutions start uniform as He et al. 2015 propose, the last one with deviation 0.01; the paper does not say.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "ConvNormLeaky", "Darknet19"]


class ConvNormLeaky(nn.Sequential):
    """Convolution without bias, batch norm, leaky ReLU of slope 0.1: [B, in_channels, H, W] -> [B, channels, H, W]."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.leaky = nn.LeakyReLU(0.1, inplace=True)


class Darknet19(VisionModel):
    """Six stages with maximum poolings between them, and a 1×1 convolution whose maps are averaged to the logits.

    Args:
        widths: maps of the six stages.
        convolutions: of each stage; 3×3 and 1×1 take turns, and the 1×1 ones have half as many maps.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 64×64 pixels and more, returns logits [B, K].
    """

    smallest = 64
    input_reason = "five poolings halve the picture, and a last map of one pixel has no batch statistics at batch 1"

    def __init__(
        self, widths: Sequence[int], convolutions: Sequence[int], num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stages = tuple(Stage(f"stage{i}", width, 2 ** (i - 1)) for i, width in enumerate(widths, 1))
        channels = in_channels
        for stage, count in zip(self.stages, convolutions, strict=True):
            layers = []
            for number in range(count):
                squeezes = number % 2 == 1
                width = stage.channels // 2 if squeezes else stage.channels
                layers.append(ConvNormLeaky(channels, width, 1 if squeezes else 3))
                channels = width
            self.add_module(stage.name, nn.Sequential(*layers))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.apply(_initialise)
        _initialise_classifier(self.classifier)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stage1 [B, 32, H, W] to stage6 [B, 1024, H/32, W/32] for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        for stage in self.stages:
            if stage.stride > 1:
                x = F.max_pool2d(x, 2)
            x = out[stage.name] = self.get_submodule(stage.name)(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage6 [B, 1024, H/32, W/32]."""
        maps: Tensor = self.classifier(x)  # [B, K, H/32, W/32]
        return maps.mean(dim=(2, 3))

    def reset_head(self, num_classes: int) -> None:
        """Replace the last convolution by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Conv2d(weight.shape[1], num_classes, 1, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise_classifier(self.classifier)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")


def _initialise_classifier(classifier: nn.Conv2d) -> None:
    nn.init.normal_(classifier.weight, 0, 0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)


# The reference counts its layers from one.
_RENAME = renamer(
    *(
        (rf"^stage(\d)\.{number}\.{ours}\.", rf"features.stage\1.unit{number + 1}.{theirs}.")
        for number in range(5)
        for ours, theirs in (("conv", "conv"), ("norm", "bn"))
    ),
    (r"^classifier\.", "output.final_conv."),
)

VARIANTS = (
    Variant(
        name="darknet19",
        model=Darknet19,
        arguments={"widths": (32, 64, 128, 256, 512, 1024), "convolutions": (1, 1, 3, 3, 5, 5)},
        paper=Paper(
            title="YOLO9000: Better, Faster, Stronger",
            authors="Redmon, Farhadi",
            year=2016,
            link="https://arxiv.org/abs/1612.08242",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=20_842_376,
        macs=2_790_989_824,
        published=Published(
            parameters="20,842,376",
            macs="2.79 G",
            accuracy={"ImageNet-1K": 72.9},
            source="AlexeyAB/darknet cfg/darknet19.cfg, counted (5.58 billion operations); section 3 of the paper",
            unverified=("accuracy",),
        ),
        mapping=WeightMapping(
            "pytorchcv darknet19 with a mean over maps of any size",
            _RENAME,
            builder="proof.references.darknet:darknet19",
        ),
        smallest=64,
        representative=True,
        check_input=(3, 64, 64),
        learning=Learning(
            data="mnist",
            arguments={"widths": (4, 8, 12, 16, 24, 32), "convolutions": (1, 1, 3, 1, 3, 1)},
            size=64,
            steps=80,
            rate=5e-3,
        ),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
