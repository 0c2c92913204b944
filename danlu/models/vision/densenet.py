"""DenseNet: every layer sees the maps of all layers before it, and adds a few of its own.

Title: Densely Connected Convolutional Networks
Authors: Gao Huang, Zhuang Liu, Laurens van der Maaten, Kilian Q. Weinberger
Year: 2016 (CVPR 2017)
Link: https://arxiv.org/abs/1608.06993
New: maps are concatenated, never added, so that 12 to 48 new maps a layer are enough and gradients reach each directly.
Table: table 1 (ImageNet architectures), table 2 (CIFAR errors), table 3 (ImageNet errors); exact counts from
  torchvision and pytorchcv, whose 298.45 M for densenet_bc_100_12 adds normalisations and pooling to our 287.93 M.

Deviations:
- A ReLU stands between the batch norm and the convolution of a transition, as in the authors' program; the paper's text
  names none, and the four-block networks for small pictures (densenet121_cifar …) have none.
- The four-block networks for small pictures put the ImageNet blocks behind one 3×3 convolution without norm or ReLU;
  the paper's own networks for small pictures have three blocks of equal length (densenet_bc_100_12).
- densenet161 (growth rate 48) comes from the authors' repository; table 1 of the paper's last version has 121, 169, 201
  and 264 layers, all of growth rate 32.
- Convolutions start as He et al. 2015 propose, the classifier's bias at zero, as in the authors' program.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "DenseLayer", "DenseNet", "DenseNetCIFAR", "Transition", "TransitionWithoutReLU"]


class DenseLayer(nn.Module):
    """BN-ReLU-1×1-BN-ReLU-3×3: [B, in_channels, H, W] -> [B, in_channels + growth, H, W], the input in front.

    The 1×1 convolution makes 4 · growth maps (the B of DenseNet-BC).
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and the new maps, concatenated."""
        new = self.conv1(F.relu(self.norm1(x), inplace=True))  # [B, 4 growth, H, W]
        new = self.conv2(F.relu(self.norm2(new), inplace=True))  # [B, growth, H, W]
        return torch.cat([x, new], dim=1)


class Transition(nn.Module):
    """BN-ReLU-1×1 and the mean of 2×2 pixels: [B, in_channels, H, W] -> [B, channels, H/2, W/2]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return fewer and smaller maps."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x), inplace=True)), 2)


class TransitionWithoutReLU(Transition):
    """BN-1×1 and the mean of 2×2 pixels, as the paper's text has it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return fewer and smaller maps."""
        return F.avg_pool2d(self.conv(self.norm(x)), 2)


class _Dense(VisionModel):
    """What both forms share: dense blocks with a transition before each but the first, which halves the maps."""

    classifier: nn.Linear

    def _add_blocks(self, blocks: Sequence[int], growth: int, stride: int, transition: type[Transition]) -> int:
        channels = 2 * growth
        stages = [Stage("stem", channels, stride)]
        for number, layers in enumerate(blocks, 1):
            if number > 1:
                self.add_module(f"transition{number - 1}", transition(channels, channels // 2))
                channels, stride = channels // 2, 2 * stride
            block = nn.Sequential()
            for layer in range(1, layers + 1):
                block.add_module(f"layer{layer}", DenseLayer(channels, growth))
                channels += growth
            self.add_module(f"block{number}", block)
            stages.append(Stage(f"block{number}", channels, stride))
        self.stages = tuple(stages)
        self.final_norm = nn.BatchNorm2d(channels)
        return channels

    def _blocks(self, x: Tensor, out: dict[str, Tensor]) -> dict[str, Tensor]:
        for number in range(1, len(self.stages)):
            if number > 1:
                x = self.get_submodule(f"transition{number - 1}")(x)  # half the channels, H and W
            x = self.get_submodule(f"block{number}")(x)
            if number == len(self.stages) - 1:
                x = F.relu(self.final_norm(x), inplace=True)
            out[f"block{number}"] = x
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for the last block [B, C, h, w]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, C]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


class DenseNet(_Dense):
    """DenseNet-BC for ImageNet: a 7×7 stem of stride 4 and four dense blocks.

    Args:
        blocks: number of layers in each dense block.
        growth: k, the maps each layer adds.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "the stem quarters the picture and three transitions halve it, so that 32 pixels leave one"

    def __init__(self, blocks: Sequence[int], growth: int, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, 2 * growth, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(2 * growth)
        channels = self._add_blocks(blocks, growth, 4, Transition)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and block1 … block4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        x = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)  # [B, 2k, H/2, W/2]
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, 2k, H/4, W/4]
        return self._blocks(x, {"stem": x})


class DenseNetCIFAR(_Dense):
    """DenseNet-BC for small pictures: one 3×3 convolution of 2k maps and dense blocks at full size.

    Args:
        blocks: number of layers in each dense block.
        growth: k, the maps each layer adds.
        transition: what halves the maps between two blocks.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 8×8 pixels and more, returns logits [B, K].
    """

    smallest = 8
    input_reason = "up to three transitions halve the picture, and one pixel has no batch statistics at batch 1"

    def __init__(
        self,
        blocks: Sequence[int],
        growth: int,
        transition: type[Transition] = Transition,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, 2 * growth, 3, padding=1, bias=False)
        channels = self._add_blocks(blocks, growth, 1, transition)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and block1 … for pictures [B, C, H, W]."""
        self.check_pictures(x)
        x = self.stem_conv(x)  # [B, 2k, H, W]
        return self._blocks(x, {"stem": x})


def _initialise(module: nn.Module) -> None:
    # As the authors' program: He et al. 2015 (Delving Deep into Rectifiers) for convolutions; batch norm the identity.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


_PAPER = Paper(
    title="Densely Connected Convolutional Networks",
    authors="Huang, Liu, van der Maaten, Weinberger",
    year=2016,
    link="https://arxiv.org/abs/1608.06993",
)
_BLOCKS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
_GROWTH = {121: 32, 161: 48, 169: 32, 201: 32}

_TORCHVISION = renamer(
    (r"^stem_(conv|norm)\.", r"features.\g<1>0."),
    (r"^block(\d)\.layer(\d+)\.", r"features.denseblock\1.denselayer\2."),
    (r"^transition(\d)\.", r"features.transition\1."),
    (r"^final_norm\.", "features.norm5."),
)


_PYTORCHCV = renamer(
    (r"^stem_conv\.", "features.init_block."),
    (r"\.norm(\d)\.", r".conv\1.bn."),
    (r"^(block\d\.layer\d+)\.conv(\d)\.weight", r"\1.conv\2.conv.weight"),
    (r"^block(\d)\.layer(\d+)\.", r"features.stage\1.unit\2."),
    (r"^transition1\.", "features.stage2.trans2.conv."),
    (r"^transition2\.", "features.stage3.trans3.conv."),
    (r"\.norm\.", ".bn."),
    (r"^final_norm\.", "features.post_activ.bn."),
    (r"^classifier\.", "output."),
)


def _imagenet(layers: int, parameters: int, macs: int, published: str, accuracy: float) -> Variant:
    return Variant(
        name=f"densenet{layers}",
        model=DenseNet,
        arguments={"blocks": _BLOCKS[layers], "growth": _GROWTH[layers]},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=published,
            accuracy={"ImageNet-1K": accuracy},
            source="torchvision 0.29.1 weights meta IMAGENET1K_V1; MACs counted in timm 1.0.31",
        ),
        mapping=WeightMapping(
            f"torchvision densenet{layers}", _TORCHVISION, builder=f"torchvision.models:densenet{layers}"
        ),
        smallest=32,
        representative=layers == 121,
        check_input=(3, 64, 64),
        learning=Learning(arguments={"blocks": (1, 1, 1, 1), "growth": 40}, size=32, steps=160, rate=2e-3),
    )


def _cifar(layers: int, parameters: int, macs: int, published: str, accuracy: float | None) -> Variant:
    source = (
        "none; the rule of the densenet*_cifar networks"
        if accuracy is None
        else ("README of weiaicunzai/pytorch-cifar100, 200 epochs; counts taken from its code")
    )
    return Variant(
        name=f"densenet{layers}_cifar",
        model=DenseNetCIFAR,
        arguments={"blocks": _BLOCKS[layers], "growth": _GROWTH[layers], "transition": TransitionWithoutReLU},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters="none published" if accuracy is None else f"{parameters:,}",
            macs=published,
            accuracy={} if accuracy is None else {"CIFAR-100": accuracy},
            source=source,
        ),
        mapping=WeightMapping(
            f"torchvision densenet{layers}, its stem a bare 3×3 convolution, no ReLU in its transitions",
            _TORCHVISION,
            builder="proof.references.densenet_cifar:densenet",
            arguments={"blocks": _BLOCKS[layers], "growth": _GROWTH[layers]},
        ),
        smallest=8,
        representative=layers == 121,
        learning=Learning(arguments={"blocks": (2, 2, 2), "growth": 24}, size=8, steps=160, rate=3e-3),
    )


_BC_100_12 = Variant(
    name="densenet_bc_100_12",
    model=DenseNetCIFAR,
    arguments={"blocks": (16, 16, 16), "growth": 12},
    paper=_PAPER,
    input=(3, 32, 32),
    classes=10,
    parameters=769_162,
    macs=287_929_692,
    published=Published(
        parameters="769,162",
        accuracy={"CIFAR-10": 95.49},
        source="pytorchcv 0.0.74 README; accuracy: README of liuzhuang13/DenseNet (table 2 of the paper, C10+)",
    ),
    mapping=WeightMapping(
        "pytorchcv densenet100_k12_bc_cifar10",
        _PYTORCHCV,
        builder="pytorchcv.models.densenet_cifar:densenet100_k12_bc_cifar10",
    ),
    smallest=8,
    representative=True,
    aliases=("densenet100_k12_bc_cifar10",),
    learning=Learning(arguments={"blocks": (2, 2, 2), "growth": 24}, size=8, steps=160, rate=3e-3),
)

VARIANTS = (
    _imagenet(121, 7_978_856, 2_834_161_664, "2.8342 G", 74.434),
    _imagenet(161, 28_681_000, 7_727_907_072, "7.7279 G", 77.138),
    _imagenet(169, 14_149_480, 3_359_843_328, "3.3598 G", 75.6),
    _imagenet(201, 20_013_928, 4_291_365_888, "4.2914 G", 76.896),
    _BC_100_12,
    _cifar(121, 7_048_548, 888_442_880, "888.4 M", 77.01),
    _cifar(161, 26_681_188, 2_467_749_504, "2467.7 M", 78.44),
    _cifar(169, 12_643_172, 1_059_949_056, "none published", None),
    _cifar(201, 18_277_220, 1_364_061_696, "1364.1 M", 78.54),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
