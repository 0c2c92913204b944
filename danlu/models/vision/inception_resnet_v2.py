"""Inception-ResNet-v2: Inception modules that learn what to add to their input.

Title: Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning
Authors: Christian Szegedy, Sergey Ioffe, Vincent Vanhoucke, Alex Alemi
Year: 2016 (AAAI 2017)
Link: https://arxiv.org/abs/1602.07261
New: residual connections around cheaper Inception modules train faster; scaling what is added keeps wide ones stable.
Table: figures 3, 7 and 15 to 18, table 1 (widths). Parameters and accuracy are those of timm.

Deviations:
- The authors' released program (with timm) is not the paper's network, and this is the program's: its stem is that of
  Inception-v3 with one Inception module behind it (320 channels) where figure 3 has a branching stem (384); the
  residual streams are 320, 1088 and 2080 channels wide where the figures have 384, 1154 and 2048 or so; there are 10,
  20 and 10 modules where figure 15 has 5, 10 and 5; a 1×1 convolution to 1536 channels stands before the mean.
- The added maps are scaled by 0.17, 0.1 and 0.2, as in the program; the paper proposes 0.1 to 0.3. The last module is
  not scaled and has no ReLU.
- Batch norm has ε = 10⁻³; means over 3×3 windows leave out the zeros at the border.
- Dropout is 0.2, the paper keeps 0.8; timm has none. No auxiliary head: figure 15 has none.
- Convolutions start as He et al. 2015 propose, linear layers with deviation 0.01; the paper does not say.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import ConvNormReLU

__all__ = [
    "VARIANTS",
    "InceptionResNetV2",
    "Parallel",
    "Residual",
    "inception_a",
    "inception_b",
    "inception_c",
    "reduction_a",
    "reduction_b",
]

# Makes convolution, batch norm and ReLU from the paper's channels, kernel, stride and padding.
Conv = Callable[..., ConvNormReLU]


class Parallel(nn.Module):
    """Branches side by side: [B, in_channels, H, W] -> their maps, one after the other along the channels."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, the sum of the branches' channels, H', W']."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Residual(nn.Module):
    """x + scale · 1×1 convolution of the branches, then ReLU unless ``last``: [B, channels, H, W] -> the same shape.

    Args:
        branches: an Inception module that returns ``joined`` channels.
        joined: channels of the branches together.
        channels: of the stream.
        scale: of what is added.
        last: whether this is the network's last one, behind which there is no ReLU.
    """

    def __init__(self, branches: Parallel, joined: int, channels: int, scale: float, last: bool = False) -> None:
        super().__init__()
        self.scale, self.last = scale, last
        self.branches = branches
        self.project = nn.Conv2d(joined, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream with what the module adds."""
        x = x + self.scale * self.project(self.branches(x))
        return x if self.last else F.relu(x, inplace=True)


def inception_a(conv: Conv, seen: int) -> Parallel:
    """Return the branches of figure 16: [B, seen, H, W] -> [B, 128, H, W]."""
    return Parallel(
        branch0=conv(seen, 32, 1),
        branch1=nn.Sequential(conv(seen, 32, 1), conv(32, 32, 3)),
        branch2=nn.Sequential(conv(seen, 32, 1), conv(32, 48, 3), conv(48, 64, 3)),
    )


def reduction_a(conv: Conv, seen: int) -> Parallel:
    """Return figure 7 with the widths of table 1: [B, seen, H, W] -> [B, 768 + seen, (H - 1) / 2, (W - 1) / 2]."""
    return Parallel(
        branch0=conv(seen, 384, 3, 2, 0),
        branch1=nn.Sequential(conv(seen, 256, 1), conv(256, 256, 3), conv(256, 384, 3, 2, 0)),
        branch2=nn.MaxPool2d(3, 2),
    )


def inception_b(conv: Conv, seen: int) -> Parallel:
    """Return the branches of figure 17: [B, seen, H, W] -> [B, 384, H, W]."""
    return Parallel(
        branch0=conv(seen, 192, 1),
        branch1=nn.Sequential(conv(seen, 128, 1), conv(128, 160, (1, 7)), conv(160, 192, (7, 1))),
    )


def reduction_b(conv: Conv, seen: int) -> Parallel:
    """Return figure 18: [B, seen, H, W] -> [B, 992 + seen, (H - 1) / 2, (W - 1) / 2]."""
    return Parallel(
        branch0=nn.Sequential(conv(seen, 256, 1), conv(256, 384, 3, 2, 0)),
        branch1=nn.Sequential(conv(seen, 256, 1), conv(256, 288, 3, 2, 0)),
        branch2=nn.Sequential(conv(seen, 256, 1), conv(256, 288, 3), conv(288, 320, 3, 2, 0)),
        branch3=nn.MaxPool2d(3, 2),
    )


def inception_c(conv: Conv, seen: int) -> Parallel:
    """Return the branches of figure 19: [B, seen, H, W] -> [B, 448, H, W]."""
    return Parallel(
        branch0=conv(seen, 192, 1),
        branch1=nn.Sequential(conv(seen, 192, 1), conv(192, 224, (1, 3)), conv(224, 256, (3, 1))),
    )


class InceptionResNetV2(VisionModel):
    """Inception-ResNet-v2 as the authors released it.

    Args:
        blocks: numbers of Inception-ResNet-A, -B and -C modules.
        width: factor on all channels, which must stay whole; 1 in the paper.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 75×75 pixels and more, returns logits [B, K].
    """

    smallest = 75
    input_reason = "the layers without padding leave no pixel of smaller ones"

    def __init__(
        self, blocks: tuple[int, int, int], width: float = 1.0, num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes

        def wide(channels: int) -> int:
            return int(channels * width)

        def conv(
            seen: int, channels: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | None = None
        ) -> ConvNormReLU:
            return ConvNormReLU(wide(seen), wide(channels), kernel, stride, padding, eps=1e-3)

        self.stages = (
            Stage("stem1", wide(64), 2),
            Stage("stem2", wide(192), 4),
            Stage("stem3", wide(320), 8),
            Stage("inception_a", wide(320), 8),
            Stage("reduction_a", wide(1088), 16),
            Stage("inception_b", wide(1088), 16),
            Stage("reduction_b", wide(2080), 32),
            Stage("inception_c", wide(2080), 32),
            Stage("projection", wide(1536), 32),
        )
        first = ConvNormReLU(in_channels, wide(32), 3, 2, 0, eps=1e-3)
        self.stem1 = nn.Sequential(first, conv(32, 32, 3, 1, 0), conv(32, 64, 3))
        self.stem2 = nn.Sequential(nn.MaxPool2d(3, 2), conv(64, 80, 1), conv(80, 192, 3, 1, 0))
        self.stem3 = nn.Sequential(nn.MaxPool2d(3, 2), self.mixed(conv))
        a, b, c = blocks
        self.inception_a = nn.Sequential(
            *(Residual(inception_a(conv, 320), wide(128), wide(320), 0.17) for _ in range(a))
        )
        self.reduction_a = reduction_a(conv, 320)
        self.inception_b = nn.Sequential(
            *(Residual(inception_b(conv, 1088), wide(384), wide(1088), 0.1) for _ in range(b))
        )
        self.reduction_b = reduction_b(conv, 1088)
        self.inception_c = nn.Sequential(
            *(Residual(inception_c(conv, 2080), wide(448), wide(2080), 0.2) for _ in range(c - 1)),
            Residual(inception_c(conv, 2080), wide(448), wide(2080), 1.0, last=True),
        )
        self.projection = conv(2080, 1536, 1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(wide(1536), num_classes)
        self.apply(_initialise)

    @staticmethod
    def mixed(conv: Conv) -> Parallel:
        """Return the Inception module of the stem: [B, 192, H, W] -> [B, 320, H, W]."""
        return Parallel(
            branch0=conv(192, 96, 1),
            branch1=nn.Sequential(conv(192, 48, 1), conv(48, 64, 5)),
            branch2=nn.Sequential(conv(192, 64, 1), conv(64, 96, 3), conv(96, 96, 3)),
            branch3=nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(192, 64, 1)),
        )

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the stages for pictures [B, C, H, W]; sizes below are those of 299×299 pixels."""
        self.check_pictures(x)
        out = {}
        x = out["stem1"] = self.stem1(x)  # [B, 64, 147, 147]
        x = out["stem2"] = self.stem2(x)  # [B, 192, 71, 71]
        x = out["stem3"] = self.stem3(x)  # [B, 320, 35, 35]
        x = out["inception_a"] = self.inception_a(x)  # [B, 320, 35, 35]
        x = out["reduction_a"] = self.reduction_a(x)  # [B, 1088, 17, 17]
        x = out["inception_b"] = self.inception_b(x)  # [B, 1088, 17, 17]
        x = out["reduction_b"] = self.reduction_b(x)  # [B, 2080, 8, 8]
        x = out["inception_c"] = self.inception_c(x)  # [B, 2080, 8, 8]
        x = out["projection"] = self.projection(x)  # [B, 1536, 8, 8]
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
_TIMM = renamer(
    (r"\.norm\.", ".bn."),
    (r"\.branches\.", "."),
    (r"\.project\.", ".conv2d."),
    (r"^stem1\.0\.", "conv2d_1a."),
    (r"^stem1\.1\.", "conv2d_2a."),
    (r"^stem1\.2\.", "conv2d_2b."),
    (r"^stem2\.1\.", "conv2d_3b."),
    (r"^stem2\.2\.", "conv2d_4a."),
    (r"^stem3\.1\.", "mixed_5b."),
    (r"^reduction_a\.", "mixed_6a."),
    (r"^reduction_b\.", "mixed_7a."),
    (r"^inception_a\.", "repeat."),
    (r"^inception_b\.", "repeat_1."),
    (r"^inception_c\.9\.", "block8."),
    (r"^inception_c\.", "repeat_2."),
    (r"^projection\.", "conv2d_7b."),
    (r"^classifier\.", "classif."),
)
VARIANTS = (
    Variant(
        name="inception_resnet_v2",
        model=InceptionResNetV2,
        arguments={"blocks": (10, 20, 10), "width": 1.0},
        paper=_PAPER,
        input=(3, 299, 299),
        classes=1000,
        parameters=55_843_464,
        macs=13_155_794_016,
        published=Published(
            parameters="55,843,464",
            macs="13.1558 G",
            accuracy={"ImageNet-1K": 80.462},
            source="counts of timm 1.0.31; accuracy of its inception_resnet_v2.tf_in1k in results/results-imagenet.csv "
            "of its repository (weights ported from TensorFlow)",
        ),
        mapping=WeightMapping("timm inception_resnet_v2", _TIMM, builder="timm.models:inception_resnet_v2"),
        smallest=75,
        representative=True,
        check_input=(3, 107, 107),
        learning=Learning(arguments={"blocks": (1, 1, 2), "width": 0.25}, size=75, steps=80, rate=2e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
