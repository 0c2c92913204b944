"""Inception-v4: more and more uniform Inception modules, freed from what earlier versions kept for old software's sake.

Title: Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning
Authors: Christian Szegedy, Sergey Ioffe, Vincent Vanhoucke, Alex Alemi
Year: 2016 (AAAI 2017)
Link: https://arxiv.org/abs/1602.07261
New: one module for each size of the map, the same every time; a stem that branches as the modules do.
Table: figures 3 to 9 and table 1 (widths). Parameters and accuracy are those of timm.

Deviations:
- Batch norm (ε = 10⁻³) follows every convolution, as in the authors' released program (with timm); the figures leave
  it out.
- 7×1 stands before 1×7 in the deep branch of the 17×17 modules, and 3×1 before 1×3 in that of the 8×8 modules, as in
  the released program; figures 5 and 6 have them the other way round.
- Means over 3×3 windows leave out the zeros at the border, as in the released program; the paper does not say.
- Dropout is 0.2, the paper keeps 0.8; timm has none. No auxiliary head: figure 9 has none.
- Convolutions start as He et al. 2015 propose, linear layers with deviation 0.01; the paper does not say.
- `inception_v4_cifar`: the stem has no stride and pads all convolutions but the first (32 to 30 pixels), and its 7×1
  stands before 1×7; in the modules 1×7, 1×3 come first, as in figures 5 and 6; means take in the zeros at the border;
  the last reduction pads (14 to 7 pixels); ε = 10⁻⁵. The table's program lists the branches in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import ConvNormReLU

__all__ = [
    "VARIANTS",
    "CIFARInceptionV4",
    "InceptionA",
    "InceptionB",
    "InceptionC",
    "InceptionV4",
    "Parallel",
    "ReductionA",
    "ReductionB",
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


class InceptionA(Parallel):
    """Figure 4, for 35×35 maps: [B, 384, H, W] -> [B, 384, H, W]."""

    def __init__(self, conv: Conv, pool: nn.Module) -> None:
        super().__init__(
            branch0=conv(384, 96, 1),
            branch1=nn.Sequential(conv(384, 64, 1), conv(64, 96, 3)),
            branch2=nn.Sequential(conv(384, 64, 1), conv(64, 96, 3), conv(96, 96, 3)),
            branch3=nn.Sequential(pool, conv(384, 96, 1)),
        )


class ReductionA(Parallel):
    """Figure 7, from 35×35 to 17×17: [B, 384, H, W] -> [B, 1024, (H - 1) / 2, (W - 1) / 2]."""

    def __init__(self, conv: Conv) -> None:
        super().__init__(
            branch0=conv(384, 384, 3, 2, 0),
            branch1=nn.Sequential(conv(384, 192, 1), conv(192, 224, 3), conv(224, 256, 3, 2, 0)),
            branch2=nn.MaxPool2d(3, 2),
        )


class InceptionB(Parallel):
    """Figure 5, for 17×17 maps: [B, 1024, H, W] -> the same shape; ``deep``: long kernels of its third branch."""

    def __init__(self, conv: Conv, pool: nn.Module, deep: tuple[tuple[int, int], tuple[int, int]]) -> None:
        first, second = deep
        super().__init__(
            branch0=conv(1024, 384, 1),
            branch1=nn.Sequential(conv(1024, 192, 1), conv(192, 224, (1, 7)), conv(224, 256, (7, 1))),
            branch2=nn.Sequential(
                conv(1024, 192, 1),
                conv(192, 192, first),
                conv(192, 224, second),
                conv(224, 224, first),
                conv(224, 256, second),
            ),
            branch3=nn.Sequential(pool, conv(1024, 128, 1)),
        )


class ReductionB(Parallel):
    """Figure 8, from 17×17 to 8×8: [B, 1024, H, W] -> [B, 1536, (H - 1) / 2, (W - 1) / 2], more with ``padding`` 1."""

    def __init__(self, conv: Conv, padding: int = 0) -> None:
        super().__init__(
            branch0=nn.Sequential(conv(1024, 192, 1), conv(192, 192, 3, 2, padding)),
            branch1=nn.Sequential(
                conv(1024, 256, 1), conv(256, 256, (1, 7)), conv(256, 320, (7, 1)), conv(320, 320, 3, 2, padding)
            ),
            branch2=nn.MaxPool2d(3, 2, padding),
        )


class InceptionC(Parallel):
    """Figure 6, for 8×8 maps: [B, 1536, H, W] -> [B, 1536, H, W]; ``deep`` are the long kernels of its third branch."""

    def __init__(self, conv: Conv, pool: nn.Module, deep: tuple[tuple[int, int], tuple[int, int]]) -> None:
        first, second = deep
        fork = {"a": (1, 3), "b": (3, 1)}
        super().__init__(
            branch0=conv(1536, 256, 1),
            branch1=nn.Sequential(
                conv(1536, 384, 1), Parallel(**{name: conv(384, 256, side) for name, side in fork.items()})
            ),
            branch2=nn.Sequential(
                conv(1536, 384, 1),
                conv(384, 448, first),
                conv(448, 512, second),
                Parallel(**{name: conv(512, 256, side) for name, side in fork.items()}),
            ),
            branch3=nn.Sequential(pool, conv(1536, 256, 1)),
        )


class InceptionV4(VisionModel):
    """Inception-v4.

    Args:
        blocks: numbers of Inception-A, -B and -C modules.
        width: factor on all channels, which must stay whole; 1 in the paper.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 75×75 pixels and more, returns logits [B, K].
    """

    smallest = 75
    input_reason = "the layers without padding leave no pixel of smaller ones"
    eps = 1e-3
    strides = (8, 16, 32)

    def __init__(
        self, blocks: tuple[int, int, int], width: float = 1.0, num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        a, b, c = self.strides
        self.stages = (
            Stage("stem", int(384 * width), a),
            Stage("inception_a", int(384 * width), a),
            Stage("reduction_a", int(1024 * width), b),
            Stage("inception_b", int(1024 * width), b),
            Stage("reduction_b", int(1536 * width), c),
            Stage("inception_c", int(1536 * width), c),
        )

        def conv(
            seen: int, channels: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | None = None
        ) -> ConvNormReLU:
            return ConvNormReLU(int(seen * width), int(channels * width), kernel, stride, padding, eps=self.eps)

        self.stem = self.make_stem(conv, partial(ConvNormReLU, in_channels, int(32 * width), 3, eps=self.eps))
        self.make_modules(conv, blocks)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(int(1536 * width), num_classes)
        self.apply(_initialise)

    def make_stem(self, conv: Conv, first: Conv) -> nn.Sequential:
        """Return the layers of figure 3; sizes are those of pictures of 299×299 pixels."""
        return nn.Sequential(
            first(2, 0),
            conv(32, 32, 3, 1, 0),
            conv(32, 64, 3),  # [B, 64, 147, 147]
            Parallel(maxpool=nn.MaxPool2d(3, 2), conv=conv(64, 96, 3, 2, 0)),  # [B, 160, 73, 73]
            Parallel(
                branch0=nn.Sequential(conv(160, 64, 1), conv(64, 96, 3, 1, 0)),
                branch1=nn.Sequential(
                    conv(160, 64, 1), conv(64, 64, (1, 7)), conv(64, 64, (7, 1)), conv(64, 96, 3, 1, 0)
                ),
            ),  # [B, 192, 71, 71]
            Parallel(conv=conv(192, 192, 3, 2, 0), maxpool=nn.MaxPool2d(3, 2)),  # [B, 384, 35, 35]
        )

    def make_modules(self, conv: Conv, blocks: tuple[int, int, int]) -> None:
        """Make the stages behind the stem."""
        pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        tall, flat = (7, 1), (1, 7)
        self.inception_a = nn.Sequential(*(InceptionA(conv, pool) for _ in range(blocks[0])))
        self.reduction_a = ReductionA(conv)
        self.inception_b = nn.Sequential(*(InceptionB(conv, pool, (tall, flat)) for _ in range(blocks[1])))
        self.reduction_b = ReductionB(conv)
        self.inception_c = nn.Sequential(*(InceptionC(conv, pool, ((3, 1), (1, 3))) for _ in range(blocks[2])))

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, inception_a, reduction_a, inception_b, reduction_b and inception_c for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.stem(x)  # [B, 384, H/8, W/8]
        x = out["inception_a"] = self.inception_a(x)  # [B, 384, H/8, W/8]
        x = out["reduction_a"] = self.reduction_a(x)  # [B, 1024, H/16, W/16]
        x = out["inception_b"] = self.inception_b(x)  # [B, 1024, H/16, W/16]
        x = out["reduction_b"] = self.reduction_b(x)  # [B, 1536, H/32, W/32]
        x = out["inception_c"] = self.inception_c(x)  # [B, 1536, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for inception_c [B, 1536, H/32, W/32]."""
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


class CIFARInceptionV4(InceptionV4):
    """Inception-v4 for pictures of 32×32 pixels; its modules see maps of 30, 14 and 7 pixels.

    Takes [B, C, H, W] of 9×9 pixels and more, returns logits [B, K]; its arguments are those of :class:`InceptionV4`.
    """

    smallest = 9
    input_reason = "the layers without padding leave no pixel of smaller ones"
    eps = 1e-5
    strides = (1, 2, 4)

    def make_stem(self, conv: Conv, first: Conv) -> nn.Sequential:
        """Return the layers of figure 3 without their strides."""
        return nn.Sequential(
            first(1, 0),  # [B, 32, H - 2, W - 2]
            conv(32, 32, 3),
            conv(32, 64, 3),
            Parallel(maxpool=nn.MaxPool2d(3, 1, 1), conv=conv(64, 96, 3)),  # [B, 160, H - 2, W - 2]
            Parallel(
                branch0=nn.Sequential(conv(160, 64, 1), conv(64, 96, 3)),
                branch1=nn.Sequential(conv(160, 64, 1), conv(64, 64, (7, 1)), conv(64, 64, (1, 7)), conv(64, 96, 3)),
            ),  # [B, 192, H - 2, W - 2]
            Parallel(conv=conv(192, 192, 3), maxpool=nn.MaxPool2d(3, 1, 1)),  # [B, 384, H - 2, W - 2]
        )

    def make_modules(self, conv: Conv, blocks: tuple[int, int, int]) -> None:
        """Make the stages behind the stem."""
        pool = nn.AvgPool2d(3, 1, 1)
        tall, flat = (7, 1), (1, 7)
        self.inception_a = nn.Sequential(*(InceptionA(conv, pool) for _ in range(blocks[0])))
        self.reduction_a = ReductionA(conv)
        self.inception_b = nn.Sequential(*(InceptionB(conv, pool, (flat, tall)) for _ in range(blocks[1])))
        self.reduction_b = ReductionB(conv, padding=1)
        self.inception_c = nn.Sequential(*(InceptionC(conv, pool, ((1, 3), (3, 1))) for _ in range(blocks[2])))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


_timm = renamer(
    (r"\.norm\.", ".bn."),
    (r"^inception_c\.(\d+)\.(branch\d)\.(\d)\.([ab])\.", r"inception_c.\1.\2_\3\4."),
    (r"^inception_c\.(\d+)\.(branch[12])\.(\d)\.", r"inception_c.\1.\2_\3."),
    (r"^stem\.", "0+"),
    (r"^inception_a\.", "6+"),
    (r"^reduction_a\.", "10+0."),
    (r"^inception_b\.", "11+"),
    (r"^reduction_b\.", "18+0."),
    (r"^inception_c\.", "19+"),
    (r"^classifier\.", "last_linear."),
)


def _rename(name: str) -> str:
    # timm numbers all modules through: the place of the first of a stage, plus the place in it.
    name = _timm(name)
    start, plus, rest = name.partition("+")
    index, _, rest = rest.partition(".")
    return f"features.{int(start) + int(index)}.{rest}" if plus else name


_PAPER = Paper(
    title="Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
    authors="Szegedy, Ioffe, Vanhoucke, Alemi",
    year=2016,
    link="https://arxiv.org/abs/1602.07261",
)
_TWIN = {"blocks": (1, 1, 1), "width": 0.25}

VARIANTS = (
    Variant(
        name="inception_v4",
        model=InceptionV4,
        arguments={"blocks": (4, 7, 3), "width": 1.0},
        paper=_PAPER,
        input=(3, 299, 299),
        classes=1000,
        parameters=42_679_816,
        macs=12_253_974_624,
        published=Published(
            parameters="42,679,816",
            macs="12.2540 G",
            accuracy={"ImageNet-1K": 80.156},
            source="counts of timm 1.0.31; accuracy of its inception_v4.tf_in1k in results/results-imagenet.csv of its "
            "repository (weights ported from TensorFlow)",
        ),
        mapping=WeightMapping("timm inception_v4", _rename, builder="timm.models:inception_v4"),
        smallest=75,
        representative=True,
        check_input=(3, 107, 107),
        learning=Learning(arguments=_TWIN, size=75, steps=100, rate=2e-3),
    ),
    Variant(
        name="inception_v4_cifar",
        model=CIFARInceptionV4,
        arguments={"blocks": (4, 7, 3), "width": 1.0},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=41_296_516,
        macs=7_503_132_032,
        published=Published(
            parameters="41,296,516",
            macs="7503.1 M",
            accuracy={"CIFAR-100": 75.86},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "timm InceptionV4 with stem, order of long kernels, pooling and ε replaced",
            _rename,
            builder="proof.references.inception_v4:cifar",
        ),
        smallest=9,
        aliases=("inceptionv4",),
        representative=True,
        check_input=(3, 20, 20),
        learning=Learning(arguments=_TWIN, size=10, steps=80, rate=2e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
