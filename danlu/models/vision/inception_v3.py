"""Inception-v3: large kernels taken apart into small and into one-dimensional ones.

Title: Rethinking the Inception Architecture for Computer Vision
Authors: Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens, Zbigniew Wojna
Year: 2015 (CVPR 2016)
Link: https://arxiv.org/abs/1512.00567
New: 5×5 kernels become two of 3×3, 7×7 become 1×7 and 7×1, pooling and convolution halve the map side by side; batch
    norm in the auxiliary head; label smoothing.
Table: table 1 (outline), figures 5 to 7 and 10 (modules); parameters, operations and accuracy are those of
    torchvision, whose weights come from the authors' program.

Deviations:
- The stem, and what figures 5 to 7 leave open, are those of the authors' released program (with torchvision): its
  third and second last layers are a 1×1 convolution and one without stride, and a maximum halves the map behind them;
  table 1 has three 3×3 convolutions there. One branch of the 35×35 modules keeps a 5×5 kernel.
- Batch norm has ε = 10⁻³; torchvision's optional change of the pictures' normalisation is left out.
- Maps smaller than 17×17 are enlarged to that before the auxiliary head, whose 5×5 kernel would not fit otherwise.
- Convolutions start as He et al. 2015 propose, linear layers with deviation 0.01; torchvision's start with 0.1, the
  paper does not say.
- The auxiliary loss counts 0.4, as in the authors' program; the paper does not say.
- `inception_v3_cifar`: the stem keeps the picture's size but for two convolutions without padding (32 to 28 pixels)
  and has no pooling; behind the pooling of the 35×35 modules stands a 3×3 convolution; 7×1 stands before 1×7
  everywhere in the 17×17 modules; the last reduction takes means; ε = 10⁻⁵; no auxiliary head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import ConvNormReLU

__all__ = [
    "VARIANTS",
    "AuxiliaryHead",
    "CIFARInceptionV3",
    "InceptionA",
    "InceptionB",
    "InceptionC",
    "InceptionD",
    "InceptionE",
    "InceptionV3",
    "Parallel",
]

# Makes convolution, batch norm and ReLU from the paper's channels, kernel, stride and padding.
Conv = Callable[..., ConvNormReLU]
Side = int | tuple[int, int]


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
    """Figure 5, for 35×35 maps: [B, seen, H, W] -> [B, 224 + pool, H, W]."""

    def __init__(self, conv: Conv, seen: int, pool: int, pool_kernel: int = 1) -> None:
        super().__init__(
            branch1x1=conv(seen, 64, 1),
            branch5x5=nn.Sequential(conv(seen, 48, 1), conv(48, 64, 5)),
            branch3x3dbl=nn.Sequential(conv(seen, 64, 1), conv(64, 96, 3), conv(96, 96, 3)),
            branch_pool=nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(seen, pool, pool_kernel)),
        )


class InceptionB(Parallel):
    """Figure 10, from 35×35 to 17×17: [B, seen, H, W] -> [B, 480 + seen, (H - 1) / 2, (W - 1) / 2]."""

    def __init__(self, conv: Conv, seen: int) -> None:
        super().__init__(
            branch3x3=conv(seen, 384, 3, 2, 0),
            branch3x3dbl=nn.Sequential(conv(seen, 64, 1), conv(64, 96, 3), conv(96, 96, 3, 2, 0)),
            branch_pool=nn.MaxPool2d(3, 2),
        )


class InceptionC(Parallel):
    """Figure 6, for 17×17 maps, with n = 7: [B, seen, H, W] -> [B, 768, H, W]; ``narrow`` is the inner width."""

    def __init__(self, conv: Conv, seen: int, narrow: int, first: Side = (1, 7), second: Side = (7, 1)) -> None:
        super().__init__(
            branch1x1=conv(seen, 192, 1),
            branch7x7=nn.Sequential(conv(seen, narrow, 1), conv(narrow, narrow, first), conv(narrow, 192, second)),
            branch7x7dbl=nn.Sequential(
                conv(seen, narrow, 1),
                conv(narrow, narrow, (7, 1)),
                conv(narrow, narrow, (1, 7)),
                conv(narrow, narrow, (7, 1)),
                conv(narrow, 192, (1, 7)),
            ),
            branch_pool=nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(seen, 192, 1)),
        )


class InceptionD(Parallel):
    """From 17×17 to 8×8: [B, 768, H, W] -> [B, 1280, (H - 1) / 2, (W - 1) / 2]."""

    def __init__(self, conv: Conv, pool: nn.Module) -> None:
        super().__init__(
            branch3x3=nn.Sequential(conv(768, 192, 1), conv(192, 320, 3, 2, 0)),
            branch7x7x3=nn.Sequential(
                conv(768, 192, 1), conv(192, 192, (1, 7)), conv(192, 192, (7, 1)), conv(192, 192, 3, 2, 0)
            ),
            branch_pool=pool,
        )


class InceptionE(Parallel):
    """Figure 7, for 8×8 maps: [B, seen, H, W] -> [B, 2048, H, W]."""

    def __init__(self, conv: Conv, seen: int) -> None:
        super().__init__(
            branch1x1=conv(seen, 320, 1),
            branch3x3=nn.Sequential(conv(seen, 384, 1), self.expanded(conv)),
            branch3x3dbl=nn.Sequential(conv(seen, 448, 1), conv(448, 384, 3), self.expanded(conv)),
            branch_pool=nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(seen, 192, 1)),
        )

    @staticmethod
    def expanded(conv: Conv) -> Parallel:
        """Return 1×3 and 3×1 side by side."""
        return Parallel(a=conv(384, 384, (1, 3)), b=conv(384, 384, (3, 1)))


class AuxiliaryHead(nn.Module):
    """The side classifier of section 4 on the last 17×17 map: [B, 768, H, W] -> logits [B, K]."""

    def __init__(self, conv: Conv, width: float, num_classes: int) -> None:
        super().__init__()
        self.conv0 = conv(768, 128, 1)
        self.conv1 = conv(128, 768, 5, 1, 0)
        self.fc = nn.Linear(int(768 * width), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]."""
        x = F.adaptive_avg_pool2d(x, (max(x.shape[2], 17), max(x.shape[3], 17)))
        x = self.conv0(F.avg_pool2d(x, 5, 3))  # [B, 128, 5, 5]
        x = self.conv1(x)  # [B, 768, 1, 1]
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class InceptionV3(VisionModel):
    """Inception-v3.

    Args:
        pools: channels behind the pooling of each 35×35 module.
        narrow: inner width of each 17×17 module.
        width: factor on all channels, which must stay whole; 1 in the paper.
        auxiliary: whether the side classifier on the last 17×17 map exists.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 75×75 pixels and more, returns logits [B, K]; in train mode with the auxiliary head
    ``{"logits", "aux1"}``.
    """

    auxiliary_weight = 0.4
    smallest = 75
    input_reason = "the layers without padding leave no pixel of smaller ones"
    eps = 1e-3
    strides = (2, 4, 8, 16, 32)

    def __init__(
        self,
        pools: tuple[int, ...],
        narrow: tuple[int, ...],
        width: float = 1.0,
        auxiliary: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        channels = {"stem1": 64, "stem2": 192, "mixed5": 224 + pools[-1], "mixed6": 768, "mixed7": 2048}
        self.stages = tuple(
            Stage(name, int(wide * width), stride)
            for (name, wide), stride in zip(channels.items(), self.strides, strict=True)
        )

        def conv(seen: int, channels: int, kernel: Side, stride: int = 1, padding: int | None = None) -> ConvNormReLU:
            return ConvNormReLU(int(seen * width), int(channels * width), kernel, stride, padding, eps=self.eps)

        first = partial(ConvNormReLU, in_channels, int(32 * width), 3, eps=self.eps)
        self.make_stages(conv, first, pools, narrow)
        self.auxiliary = AuxiliaryHead(conv, width, num_classes) if auxiliary else None
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(int(2048 * width), num_classes)
        self.apply(_initialise)

    def make_stages(self, conv: Conv, first: Conv, pools: tuple[int, ...], narrow: tuple[int, ...]) -> None:
        """Make the stages; sizes are those of pictures of 299×299 pixels."""
        self.stem1 = nn.Sequential(first(2, 0), conv(32, 32, 3, 1, 0), conv(32, 64, 3))  # [B, 64, 147, 147]
        self.stem2 = nn.Sequential(nn.MaxPool2d(3, 2), conv(64, 80, 1), conv(80, 192, 3, 1, 0))  # [B, 192, 71, 71]
        seen = [192, *(224 + pool for pool in pools)]
        modules = (InceptionA(conv, into, pool) for into, pool in zip(seen, pools, strict=False))
        self.mixed5 = nn.Sequential(nn.MaxPool2d(3, 2), *modules)  # [B, 288, 35, 35]
        seen = [480 + seen[-1], *(768 for _ in narrow)]
        coarse = (InceptionC(conv, into, inner) for into, inner in zip(seen, narrow, strict=False))
        self.mixed6 = nn.Sequential(InceptionB(conv, seen[0] - 480), *coarse)  # [B, 768, 17, 17]
        reduction = InceptionD(conv, nn.MaxPool2d(3, 2))
        self.mixed7 = nn.Sequential(reduction, InceptionE(conv, 1280), InceptionE(conv, 2048))  # [B, 2048, 8, 8]

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem1, stem2, mixed5, mixed6 and mixed7 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem1"] = self.stem1(x)  # [B, 64, H/2, W/2]
        x = out["stem2"] = self.stem2(x)  # [B, 192, H/4, W/4]
        x = out["mixed5"] = self.mixed5(x)  # [B, 288, H/8, W/8]
        x = out["mixed6"] = self.mixed6(x)  # [B, 768, H/16, W/16]
        x = out["mixed7"] = self.mixed7(x)  # [B, 2048, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for mixed7 [B, 2048, H/32, W/32]."""
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))
        return logits

    def forward(self, x: Tensor) -> Any:
        """Return logits [B, K]; in train mode with the auxiliary head a dictionary of two."""
        out = self.features(x)
        logits = self.head(out["mixed7"])
        if not self.training or self.auxiliary is None:
            return logits
        return {"logits": logits, "aux1": self.auxiliary(out["mixed6"])}

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier, and that of the auxiliary head, by fresh ones for ``num_classes`` classes."""
        self.classifier = _fresh(self.classifier, num_classes)
        if self.auxiliary is not None:
            self.auxiliary.fc = _fresh(self.auxiliary.fc, num_classes)
        self.num_classes = num_classes


class CIFARInceptionV3(InceptionV3):
    """Inception-v3 for pictures of 32×32 pixels; its modules see maps of 28, 13 and 6 pixels.

    Takes [B, C, H, W] of 15×15 pixels and more, returns logits [B, K]; its arguments are those of :class:`InceptionV3`.
    """

    smallest = 15
    eps = 1e-5
    strides = (1, 1, 1, 2, 4)

    def make_stages(self, conv: Conv, first: Conv, pools: tuple[int, ...], narrow: tuple[int, ...]) -> None:
        """Make the stages; sizes are those of pictures of 32×32 pixels."""
        self.stem1 = nn.Sequential(first(), conv(32, 32, 3), conv(32, 64, 3))  # [B, 64, 32, 32]
        self.stem2 = nn.Sequential(nn.Identity(), conv(64, 80, 1), conv(80, 192, 3, 1, 0))  # [B, 192, 30, 30]
        seen = [192, *(224 + pool for pool in pools)]
        modules = (InceptionA(conv, into, pool, 3) for into, pool in zip(seen, pools, strict=False))
        self.mixed5 = nn.Sequential(nn.Identity(), *modules)  # [B, 288, 30, 30]
        seen = [480 + seen[-1], *(768 for _ in narrow)]
        coarse = (InceptionC(conv, into, inner, (7, 1), (1, 7)) for into, inner in zip(seen, narrow, strict=False))
        self.mixed6 = nn.Sequential(InceptionB(conv, seen[0] - 480), *coarse)  # [B, 768, 14, 14]
        reduction = InceptionD(conv, nn.AvgPool2d(3, 2))
        self.mixed7 = nn.Sequential(reduction, InceptionE(conv, 1280), InceptionE(conv, 2048))  # [B, 2048, 6, 6]


def _fresh(old: nn.Linear, num_classes: int) -> nn.Linear:
    layer = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    _initialise(layer)
    return layer


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"\.norm\.", ".bn."),
    (r"^stem1\.0\.", "Conv2d_1a_3x3."),
    (r"^stem1\.1\.", "Conv2d_2a_3x3."),
    (r"^stem1\.2\.", "Conv2d_2b_3x3."),
    (r"^stem2\.1\.", "Conv2d_3b_1x1."),
    (r"^stem2\.2\.", "Conv2d_4a_3x3."),
    # The first module of mixed5 is its pooling, Mixed_5a to the authors.
    *((rf"^mixed(\d)\.{index}\.", rf"Mixed_\1{letter}.") for index, letter in enumerate("abcde")),
    (r"\.branch_pool\.1\.", ".branch_pool."),
    *((rf"\.(branch\w+)\.{index}\.([ab])\.", rf".\1_{index + 1}\2.") for index in range(5)),
    *((rf"\.(branch\w+)\.{index}\.", rf".\1_{index + 1}.") for index in range(5)),
    (r"^auxiliary\.", "AuxLogits."),
    (r"^classifier\.", "fc."),
)
_PAPER = Paper(
    title="Rethinking the Inception Architecture for Computer Vision",
    authors="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
    year=2015,
    link="https://arxiv.org/abs/1512.00567",
)


_WIDTHS = {"pools": (32, 64, 64), "narrow": (128, 160, 160, 192), "width": 1.0}
_TWIN = {"pools": (32,), "narrow": (128,), "width": 0.25}


def _imagenet(name: str, auxiliary: bool, parameters: int) -> Variant:
    return Variant(
        name=name,
        model=InceptionV3,
        arguments={**_WIDTHS, "auxiliary": auxiliary},
        paper=_PAPER,
        input=(3, 299, 299),
        classes=1000,
        parameters=parameters,
        macs=5_713_216_096,
        published=Published(
            parameters=f"{parameters:,}",
            macs="5.713 G",
            accuracy={"ImageNet-1K": 77.294},
            source="torchvision 0.29.1 weights meta IMAGENET1K_V1 (ported from TensorFlow)",
        ),
        mapping=WeightMapping(
            "torchvision inception_v3",
            _RENAME,
            builder="torchvision.models:inception_v3",
            arguments={"weights": None, "aux_logits": auxiliary, "init_weights": False},
            outputs=("logits", "aux1"),
        ),
        smallest=75,
        representative=True,
        # The least at which the reference's auxiliary head works.
        check_input=(3, 299, 299) if auxiliary else (3, 107, 107),
        learning=Learning(arguments=_TWIN, size=75, steps=140, rate=2e-3),
    )


VARIANTS = (
    _imagenet("inception_v3", False, 23_834_568),
    _imagenet("inception_v3_aux", True, 27_161_264),
    Variant(
        name="inception_v3_cifar",
        model=CIFARInceptionV3,
        arguments=_WIDTHS,
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=22_318_148,
        macs=3_390_711_808,
        published=Published(
            parameters="22,318,148",
            macs="3390.7 M",
            accuracy={"CIFAR-100": 77.19},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "torchvision Inception3 with stem, ε, the order of 7×1 and pooling replaced",
            _RENAME,
            builder="proof.references.inception_v3:cifar",
        ),
        smallest=15,
        aliases=("inceptionv3",),
        representative=True,
        check_input=(3, 20, 20),
        learning=Learning(arguments={**_TWIN, "width": 0.125}, size=15, steps=120, rate=3e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
