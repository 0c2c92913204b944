"""Inception-ResNet-v2 for small pictures, after the figures of its paper more than the program its authors released.

Title: Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning
Authors: Christian Szegedy, Sergey Ioffe, Vincent Vanhoucke, Alex Alemi
Year: 2016 (AAAI 2017)
Link: https://arxiv.org/abs/1602.07261
New: residual connections around cheaper Inception modules train faster; scaling what is added keeps wide ones stable.
Table: figures 3, 7 and 16 to 19, table 1 (widths). Counts and accuracy are those of a widely used CIFAR-100 table.

Deviations:
- The stem is that of figure 3 without strides, its first convolution not padded (32 to 30 pixels), its 7×1 before 1×7.
- Every shortcut is a 1×1 convolution with a bias, in the first module of a stage and in all others, and batch norm
  stands between the sum and its ReLU; the paper adds the input itself.
- Inception-A is not scaled, -B and -C by 0.1; the paper proposes 0.1 to 0.3.
- Batch norm follows every convolution of the branches; the figures leave it out.
- Dropout is 0.2; the paper keeps 0.8. No auxiliary head: figure 15 has none.
- Convolutions start as He et al. 2015 propose, linear layers with deviation 0.01; the paper does not say.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import ConvNormReLU
from danlu.models.vision.inception_resnet_v2 import (
    Conv,
    Parallel,
    inception_a,
    inception_b,
    inception_c,
    reduction_a,
    reduction_b,
)

__all__ = ["VARIANTS", "CIFARInceptionResNetV2", "ProjectedResidual"]


class ProjectedResidual(nn.Module):
    """relu(norm(1×1 of x + scale · 1×1 of the branches)): [B, seen, H, W] -> [B, channels, H, W].

    Args:
        branches: an Inception module that returns ``joined`` channels.
        joined: channels of the branches together.
        seen: channels in.
        channels: channels out.
        scale: of what is added.
    """

    def __init__(self, branches: Parallel, joined: int, seen: int, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.branches = branches
        self.project = nn.Conv2d(joined, channels, 1)
        self.shortcut = nn.Conv2d(seen, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream with what the module adds."""
        x = self.shortcut(x) + self.scale * self.project(self.branches(x))
        return F.relu(self.norm(x), inplace=True)


class CIFARInceptionResNetV2(VisionModel):
    """Inception-ResNet-v2 for pictures of 32×32 pixels, after the paper's figures; maps of 30, 14 and 6 pixels.

    Args:
        blocks: numbers of Inception-ResNet-A, -B and -C modules.
        width: factor on all channels, which must stay whole; 1 in the paper.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 9×9 pixels and more, returns logits [B, K].
    """

    smallest = 9
    input_reason = "the layers without padding leave no pixel of smaller ones"

    def __init__(
        self, blocks: tuple[int, int, int], width: float = 1.0, num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes

        def wide(channels: int) -> int:
            return int(channels * width)

        def conv(
            seen: int, channels: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | None = None
        ) -> ConvNormReLU:
            return ConvNormReLU(wide(seen), wide(channels), kernel, stride, padding)

        def modules(
            branches: Callable[[Conv, int], Parallel], joined: int, seen: int, channels: int, scale: float, count: int
        ) -> nn.Sequential:
            stream = [seen] + [channels] * (count - 1)
            return nn.Sequential(
                *(
                    ProjectedResidual(branches(conv, into), wide(joined), wide(into), wide(channels), scale)
                    for into in stream
                )
            )

        self.stages = (
            Stage("stem", wide(384), 1),
            Stage("inception_a", wide(384), 1),
            Stage("reduction_a", wide(1152), 2),
            Stage("inception_b", wide(1154), 2),
            Stage("reduction_b", wide(2146), 4),
            Stage("inception_c", wide(2048), 4),
        )
        self.stem = self.make_stem(conv, ConvNormReLU(in_channels, wide(32), 3, 1, 0))
        self.inception_a = modules(inception_a, 128, 384, 384, 1.0, blocks[0])
        self.reduction_a = reduction_a(conv, 384)
        self.inception_b = modules(inception_b, 384, 1152, 1154, 0.1, blocks[1])
        self.reduction_b = reduction_b(conv, 1154)
        self.inception_c = modules(inception_c, 448, 2146, 2048, 0.1, blocks[2])
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(wide(2048), num_classes)
        self.apply(_initialise)

    @staticmethod
    def make_stem(conv: Conv, first: ConvNormReLU) -> nn.Sequential:
        """Return figure 3 without its strides: [B, C, H, W] -> [B, 384, H - 2, W - 2]."""
        return nn.Sequential(
            first,
            conv(32, 32, 3),
            conv(32, 64, 3),
            Parallel(conv=conv(64, 96, 3), maxpool=nn.MaxPool2d(3, 1, 1)),  # [B, 160, H - 2, W - 2]
            Parallel(
                branch0=nn.Sequential(conv(160, 64, 1), conv(64, 96, 3)),
                branch1=nn.Sequential(conv(160, 64, 1), conv(64, 64, (7, 1)), conv(64, 64, (1, 7)), conv(64, 96, 3)),
            ),  # [B, 192, H - 2, W - 2]
            Parallel(conv=conv(192, 192, 3), maxpool=nn.MaxPool2d(3, 1, 1)),
        )

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the stages for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.stem(x)  # [B, 384, H - 2, W - 2]
        x = out["inception_a"] = self.inception_a(x)  # [B, 384, H - 2, W - 2]
        x = out["reduction_a"] = self.reduction_a(x)  # [B, 1152, H/2 - 2, W/2 - 2]
        x = out["inception_b"] = self.inception_b(x)  # [B, 1154, H/2 - 2, W/2 - 2]
        x = out["reduction_b"] = self.reduction_b(x)  # [B, 2146, H/4 - 2, W/4 - 2]
        x = out["inception_c"] = self.inception_c(x)  # [B, 2048, H/4 - 2, W/4 - 2]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for the maps [B, D, H/32, W/32] of the last stage."""
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))
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


_PAPER = Paper(
    title="Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
    authors="Szegedy, Ioffe, Vanhoucke, Alemi",
    year=2016,
    link="https://arxiv.org/abs/1602.07261",
)
_RENAME = renamer((r"\.norm\.", ".bn."), (r"\.branches\.branch(\d)\.", r".\1."), (r"\.branch(\d)\.", r".\1."))

VARIANTS = (
    Variant(
        name="inception_resnet_v2_cifar",
        model=CIFARInceptionResNetV2,
        arguments={"blocks": (5, 10, 5), "width": 1.0},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=65_442_072,
        macs=9_293_562_640,
        published=Published(
            parameters="65,442,072",
            macs="9293.6 M",
            accuracy={"CIFAR-100": 72.49},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "the figures without strides written apart, branches and layers numbered",
            _RENAME,
            builder="proof.references.inception_resnet_v2_cifar:InceptionResNetV2",
        ),
        smallest=9,
        aliases=("inceptionresnetv2",),
        representative=True,
        check_input=(3, 20, 20),
        learning=Learning(arguments={"blocks": (1, 1, 1), "width": 0.25}, size=10, steps=80, rate=2e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
