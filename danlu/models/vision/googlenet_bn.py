"""GoogLeNet in the form everyone uses: with batch norm, and with 3×3 kernels where the paper has 5×5.

Title: Going Deeper with Convolutions
Authors: Christian Szegedy, Wei Liu, Yangqing Jia, Pierre Sermanet, Scott Reed, Dragomir Anguelov, Dumitru Erhan,
    Vincent Vanhoucke, Andrew Rabinovich
Year: 2014 (CVPR 2015)
Link: https://arxiv.org/abs/1409.4842
New: modules of four branches side by side, cheap because 1×1 convolutions narrow what the wide kernels see. The form
    of the paper is `googlenet_2014`.
Table: table 1 (widths), section 5 (auxiliary heads). Parameters, operations and accuracy are those of torchvision; the
    CIFAR-100 form's those of a widely used table, whose README gives 6.2 M parameters where its program has 6,402,564.

Deviations:
- Batch norm (ε = 10⁻³) follows every convolution, which has no bias; there is no local response normalisation.
- The 5×5 convolutions are 3×3, a mistake of the released weights that torchvision keeps.
- The maximum before inception (5a) has windows of 2×2 pixels; the paper's have 3×3.
- The auxiliary heads take the mean over 4×4 bins of the map; the paper over windows of 5×5 pixels, three apart.
- Dropout before the classifier is 0.2; the paper has 0.4.
- Weights start as He et al. 2015 propose, biases at zero; torchvision's start normal with deviation 0.01, the paper
  does not say.
- `googlenet_cifar`: three 3×3 convolutions at stride 1 stand before the modules, and two stacked 3×3 ones in place of
  the 5×5; maxima stand around every second pixel; the convolutions in the modules keep a bias, which batch norm
  undoes.
- `googlenet_cifar`: the table's program gives one batch norm of each module ε = its number of channels, plainly a slip
  of an argument; here it is 10⁻⁵ as in the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import ConvNormReLU

__all__ = ["VARIANTS", "AuxiliaryHead", "BiasedConv", "CIFARGoogLeNet", "CIFARInception", "GoogLeNet", "Inception"]

# Rows of table 1: #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj.
TABLE_1 = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
EPS = 1e-3


class Inception(nn.Module):
    """Figure 2(b): 1×1 and two 3×3 convolutions and a maximum side by side, the wide ones behind 1×1 reductions.

    Takes [B, in_channels, H, W], returns [B, one + three + five + pool, H, W].
    """

    def __init__(
        self, in_channels: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int
    ) -> None:
        super().__init__()
        conv1, conv3 = ConvNormReLU(in_channels, reduce3, 1, eps=EPS), ConvNormReLU(reduce3, three, 3, eps=EPS)
        self.branch1 = ConvNormReLU(in_channels, one, 1, eps=EPS)
        self.branch2 = nn.Sequential(conv1, conv3)
        conv1, conv5 = ConvNormReLU(in_channels, reduce5, 1, eps=EPS), ConvNormReLU(reduce5, five, 3, eps=EPS)
        self.branch3 = nn.Sequential(conv1, conv5)
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNormReLU(in_channels, pool, 1, eps=EPS))

    def forward(self, x: Tensor) -> Tensor:
        """Return the four branches' maps, one after the other along the channels."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class BiasedConv(ConvNormReLU):
    """Convolution with a bias, batch norm, ReLU: [B, in_channels, H, W] -> [B, channels, H, W]."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__(in_channels, channels, kernel)
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2)


class CIFARInception(Inception):
    """The module with biases and two 3×3 convolutions where the paper has one of 5×5."""

    def __init__(
        self, in_channels: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int
    ) -> None:
        nn.Module.__init__(self)
        self.branch1 = BiasedConv(in_channels, one, 1)
        self.branch2 = nn.Sequential(BiasedConv(in_channels, reduce3, 1), BiasedConv(reduce3, three, 3))
        self.branch3 = nn.Sequential(
            BiasedConv(in_channels, reduce5, 1), BiasedConv(reduce5, five, 3), BiasedConv(five, five, 3)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), BiasedConv(in_channels, pool, 1))


class AuxiliaryHead(nn.Module):
    """The classifier of section 5 in the middle of the network: [B, in_channels, H/16, W/16] -> [B, K]."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(in_channels, 128, 1, eps=EPS)
        self.fc1 = nn.Linear(16 * 128, 1024)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]."""
        x = self.conv(F.adaptive_avg_pool2d(x, 4))  # [B, 128, 4, 4]
        x = F.relu(self.fc1(x.flatten(1)))  # [B, 1024]
        logits: Tensor = self.fc2(self.dropout(x))
        return logits


class GoogLeNet(VisionModel):
    """GoogLeNet with batch norm.

    Args:
        stem: channels of the first convolution (and of the one behind it) and of the last before the modules.
        table: the Inception modules in their order, as the rows of table 1: name -> (#1×1, #3×3 reduce, #3×3, #5×5
            reduce, #5×5, pool proj), the map being halved before each a; the auxiliary heads need 4a and 4d.
        auxiliary: whether the two heads of section 5 exist, behind inception (4a) and (4d).
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K]; in train mode with auxiliary heads
    ``{"logits", "aux1", "aux2"}``.
    """

    auxiliary_weight = 0.3
    smallest = 32
    input_reason = "five layers halve the picture"
    stem_strides = (2, 4)
    dropout_rate = 0.2
    module = Inception

    def __init__(
        self,
        stem: tuple[int, int],
        table: Mapping[str, tuple[int, ...]],
        auxiliary: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        first, seen = stem
        stages = [Stage("conv1", first, self.stem_strides[0]), Stage("conv2", seen, self.stem_strides[1])]
        self.make_stem(in_channels, first, seen)
        self.inception = nn.ModuleDict()
        out, stride = {}, self.stem_strides[1]
        for name, (one, reduce3, three, reduce5, five, pool) in table.items():
            stride *= 2 if name in self.pools else 1
            self.inception[name] = self.module(seen, one, reduce3, three, reduce5, five, pool)
            seen = out[name] = one + three + five + pool
            stages.append(Stage(f"inception{name}", seen, stride))
        self.stages = tuple(stages)
        self.aux1 = AuxiliaryHead(out["4a"], num_classes) if auxiliary else None
        self.aux2 = AuxiliaryHead(out["4d"], num_classes) if auxiliary else None
        self.dropout = nn.Dropout(self.dropout_rate)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def make_stem(self, in_channels: int, first: int, second: int) -> None:
        """Make ``conv1``, ``conv2`` and the ``pools``, by the name of the module they stand before."""
        self.conv1 = ConvNormReLU(in_channels, first, 7, stride=2, eps=EPS)
        self.conv2 = nn.Sequential(
            nn.MaxPool2d(3, 2, ceil_mode=True),
            ConvNormReLU(first, first, 1, eps=EPS),
            ConvNormReLU(first, second, 3, eps=EPS),
        )
        sides = {"3a": 3, "4a": 3, "5a": 2}
        self.pools = nn.ModuleDict({name: nn.MaxPool2d(side, 2, ceil_mode=True) for name, side in sides.items()})

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1, conv2 and the modules inception3a to inception5b for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.conv1(x)  # [B, 64, H/2, W/2]
        x = out["conv2"] = self.conv2(x)  # [B, 192, H/4, W/4]
        for name, module in self.inception.items():
            if name in self.pools:
                x = self.pools[name](x)  # [B, 192, H/8, W/8], [B, 480, H/16, W/16], [B, 832, H/32, W/32]
            x = out[f"inception{name}"] = module(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for inception5b [B, 1024, H/32, W/32]."""
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))
        return logits

    def forward(self, x: Tensor) -> Any:
        """Return logits [B, K]; in train mode with auxiliary heads a dictionary of three."""
        out = self.features(x)
        logits = self.head(out[self.stages[-1].name])
        if not self.training or self.aux1 is None or self.aux2 is None:
            return logits
        return {"logits": logits, "aux1": self.aux1(out["inception4a"]), "aux2": self.aux2(out["inception4d"])}

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier, and those of the auxiliary heads, by fresh ones for ``num_classes`` classes."""
        self.classifier = _fresh(self.classifier, num_classes)
        for aux in (self.aux1, self.aux2):
            if aux is not None:
                aux.fc2 = _fresh(aux.fc2, num_classes)
        self.num_classes = num_classes


class CIFARGoogLeNet(GoogLeNet):
    """GoogLeNet for pictures of 32×32 pixels: its stem keeps their size, so that the modules see 16, 8 and 4 pixels.

    Takes [B, C, H, W] of 8×8 pixels and more, returns logits [B, K]; its arguments are those of :class:`GoogLeNet`.
    """

    smallest = 8
    input_reason = "three layers halve the picture"
    stem_strides = (1, 1)
    dropout_rate = 0.4
    module = CIFARInception

    def make_stem(self, in_channels: int, first: int, second: int) -> None:
        """Make ``conv1``, ``conv2`` and the ``pools``, by the name of the module they stand before."""
        self.conv1 = ConvNormReLU(in_channels, first, 3)
        self.conv2 = nn.Sequential(ConvNormReLU(first, first, 3), ConvNormReLU(first, second, 3))
        self.pools = nn.ModuleDict({name: nn.MaxPool2d(3, 2, 1) for name in ("3a", "4a", "5a")})


def _fresh(old: nn.Linear, num_classes: int) -> nn.Linear:
    layer = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    _initialise(layer)
    return layer


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_TORCHVISION = (
    (r"\.norm\.", ".bn."),
    (r"^conv2\.1\.", "conv2."),
    (r"^conv2\.2\.", "conv3."),
    (r"^inception\.", "inception"),
    (r"^classifier\.", "fc."),
)
_PAPER = Paper(
    title="Going Deeper with Convolutions",
    authors="Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich",
    year=2014,
    link="https://arxiv.org/abs/1409.4842",
)
_TWIN = {
    "3a": (8, 8, 16, 8, 8, 8),
    "4a": (16, 16, 32, 8, 8, 8),
    "4d": (16, 16, 32, 8, 8, 8),
    "5a": (32, 32, 64, 16, 16, 16),
}
_LEARNING = Learning(arguments={"stem": (16, 32), "table": _TWIN}, steps=160, rate=3e-3)


def _imagenet(name: str, auxiliary: bool, parameters: int) -> Variant:
    return Variant(
        name=name,
        model=GoogLeNet,
        arguments={"stem": (64, 192), "table": TABLE_1, "auxiliary": auxiliary},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=1_498_376_192,
        published=Published(
            parameters=f"{parameters:,}",
            macs="1.498 G",
            accuracy={"ImageNet-1K": 69.778},
            source="torchvision 0.29.1 weights meta IMAGENET1K_V1 (ported from TensorFlow); the parameters with "
            "auxiliary heads counted on its network",
        ),
        mapping=WeightMapping(
            "torchvision googlenet",
            renamer(*_TORCHVISION),
            builder="torchvision.models:googlenet",
            arguments={"weights": None, "aux_logits": auxiliary, "init_weights": False},
            outputs=("logits", "aux2", "aux1"),
        ),
        smallest=32,
        representative=True,
        check_input=(3, 64, 64),
        learning=_LEARNING,
    )


VARIANTS = (
    _imagenet("googlenet", False, 6_624_904),
    _imagenet("googlenet_aux", True, 13_004_888),
    Variant(
        name="googlenet_cifar",
        model=CIFARGoogLeNet,
        arguments={"stem": (64, 192), "table": TABLE_1},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=6_402_564,
        macs=531_976_192,
        published=Published(
            parameters="6,402,564",
            macs="532.0 M",
            accuracy={"CIFAR-100": 78.03},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "torchvision GoogLeNet with stem, modules and pooling replaced",
            renamer((r"^conv2\.1\.", "conv2.2."), (r"^conv2\.0\.", "conv2.1."), *_TORCHVISION),
            builder="proof.references.googlenet_bn:cifar",
        ),
        smallest=8,
        representative=True,
        learning=Learning(arguments={"stem": (8, 16), "table": _TWIN}, size=16, steps=140, rate=3e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
