"""SqueezeNet: AlexNet's accuracy with a fiftieth of its parameters, from blocks that squeeze before they expand.

Title: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size
Authors: Forrest N. Iandola, Song Han, Matthew W. Moskewicz, Khalid Ashraf, William J. Dally, Kurt Keutzer
Year: 2016
Link: https://arxiv.org/abs/1602.07360
New: fire modules: few 1×1 kernels feed many 1×1 and 3×3 ones; no fully connected layer; pooling late.
Table: table 1 (layers of version 1.0: 1,248,424 parameters) and section 6 (simple bypass); version 1.1 is the authors'
    program's; counts and accuracies are torchvision's, those of the 32×32 form come from the README of
    weiaicunzai/pytorch-cifar100.

Deviations:
- Poolings round up and conv1 has no padding, as in torchvision; by table 1 conv1 gives 111×111.
- Weights start uniform as He et al. 2015 propose, those of conv10 with deviation 0.01, biases at zero, as in
  torchvision; the authors' start as Glorot and Bengio 2010 propose.
- The _cifar form has batch norms, a 3×3 conv1 of stride 1, poolings of 2×2 (the first before fire2, two after fire4 and
  fire8), bypasses around fire3, fire5 and fire7, and neither dropout nor ReLU at its end. In the paper fire9 has
  one too. It keeps biases before its batch norms, which take them away again in train mode.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "BypassSqueezeNet", "Fire", "NormFire", "SqueezeNet"]


class Fire(nn.Module):
    """1×1 kernels that squeeze, then 1×1 and 3×3 kernels side by side, half of the ``channels`` each.

    Takes [B, in_channels, H, W], returns [B, channels, H, W].
    """

    def __init__(self, in_channels: int, squeezed: int, channels: int) -> None:
        super().__init__()
        self.squeeze = self.layer(in_channels, squeezed, 1)
        self.expand1x1 = self.layer(squeezed, channels // 2, 1)
        self.expand3x3 = self.layer(squeezed, channels // 2, 3)

    def layer(self, in_channels: int, channels: int, kernel: int) -> nn.Sequential:
        """Return a convolution that keeps H and W, and what follows it."""
        return nn.Sequential(nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the two kinds of kernels make of the squeezed maps."""
        x = self.squeeze(x)  # [B, squeezed, H, W]
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1)


class NormFire(Fire):
    """A fire module with a batch norm after every convolution."""

    def layer(self, in_channels: int, channels: int, kernel: int) -> nn.Sequential:
        """Return a convolution that keeps H and W, and what follows it."""
        convolution = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2)
        return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class SqueezeNet(VisionModel):
    """conv1, the fire modules fire2 to fire9, and conv10, whose maps are averaged to the logits.

    Args:
        stem: maps and side of the kernels of conv1.
        widths: maps of fire2 to fire9; each squeezes to an eighth of what it expands to.
        pooled: numbers of the fire modules that a 3×3 pooling of stride 2 stands before.
        dropout: probability before conv10.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "conv1 and three poolings leave too little of a smaller picture"

    def __init__(
        self,
        stem: tuple[int, int],
        widths: Sequence[int],
        pooled: Sequence[int],
        dropout: float,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.pooled = in_channels, num_classes, frozenset(pooled)
        channels, kernel = stem
        self.stages = (Stage("conv1", channels, 2), *_fire_stages(widths, pooled, 2))
        self.conv1 = nn.Conv2d(in_channels, channels, kernel, stride=2)
        for stage in self.stages[1:]:
            self.add_module(stage.name, Fire(channels, stage.channels // 8, stage.channels))
            channels = stage.channels
        self.dropout = nn.Dropout(dropout)
        self.conv10 = nn.Conv2d(channels, num_classes, 1)
        _initialise(self)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1 [B, 96, H/2, W/2] and fire2 to fire9 [B, 512, H/16, W/16] for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = F.relu(self.conv1(x))
        for number, stage in enumerate(self.stages[1:], 2):
            if number in self.pooled:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = out[stage.name] = self.get_submodule(stage.name)(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for fire9 [B, 512, H/16, W/16]."""
        maps = F.relu(self.conv10(self.dropout(x)))  # [B, K, H/16, W/16]
        return maps.mean(dim=(2, 3))

    def reset_head(self, num_classes: int) -> None:
        """Replace conv10 by a fresh one for ``num_classes`` classes."""
        self.conv10 = _new_conv10(self.conv10, num_classes)
        self.num_classes = num_classes


class BypassSqueezeNet(VisionModel):
    """SqueezeNet for small pictures, with batch norms and with bypasses around fire modules that keep their width.

    Args:
        stem: maps of conv1.
        widths: maps of fire2 to fire9.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 16×16 pixels and more, returns logits [B, K].
    """

    smallest = 16
    input_reason = "three poolings halve the picture, and a last map of one pixel has no batch statistics at batch 1"
    # Numbers of the fire modules with a bypass, and of those that a pooling stands before.
    bypassed = (3, 5, 7)
    pooled = (2, 5, 9)

    def __init__(self, stem: int, widths: Sequence[int], num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stages = (Stage("conv1", stem, 1), *_fire_stages(widths, self.pooled, 1))
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, stem, 3, padding=1), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
        )
        channels = stem
        for stage in self.stages[1:]:
            self.add_module(stage.name, NormFire(channels, stage.channels // 8, stage.channels))
            channels = stage.channels
        self.conv10 = nn.Conv2d(channels, num_classes, 1)
        _initialise(self)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1 [B, 96, H, W] and fire2 to fire9 [B, 512, H/8, W/8] for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.conv1(x)
        for number, stage in enumerate(self.stages[1:], 2):
            if number in self.pooled:
                x = F.max_pool2d(x, 2)
            fire = self.get_submodule(stage.name)
            x = out[stage.name] = x + fire(x) if number in self.bypassed else fire(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for fire9 [B, 512, H/8, W/8]."""
        maps: Tensor = self.conv10(x)  # [B, K, H/8, W/8]
        return maps.mean(dim=(2, 3))

    def reset_head(self, num_classes: int) -> None:
        """Replace conv10 by a fresh one for ``num_classes`` classes."""
        self.conv10 = _new_conv10(self.conv10, num_classes)
        self.num_classes = num_classes


def _fire_stages(widths: Sequence[int], pooled: Sequence[int], stride: int) -> list[Stage]:
    return [
        Stage(f"fire{number}", width, stride * 2 ** sum(number >= at for at in pooled))
        for number, width in enumerate(widths, 2)
    ]


def _new_conv10(old: nn.Conv2d, num_classes: int) -> nn.Conv2d:
    weight = old.weight
    new = nn.Conv2d(weight.shape[1], num_classes, 1, device=weight.device, dtype=weight.dtype)
    _initialise_conv10(new)
    return new


def _initialise(model: SqueezeNet | BypassSqueezeNet) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    _initialise_conv10(model.conv10)


def _initialise_conv10(conv10: nn.Conv2d) -> None:
    nn.init.normal_(conv10.weight, 0, 0.01)
    assert conv10.bias is not None
    nn.init.zeros_(conv10.bias)


_WIDTHS = (128, 128, 256, 256, 384, 384, 512, 512)
_PAPER = Paper(
    title="SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
    authors="Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer",
    year=2016,
    link="https://arxiv.org/abs/1602.07360",
)
_TWIN_WIDTHS = (64, 64, 64, 64, 96, 96, 96, 96)


def _variant(
    version: str, stem: tuple[int, int], pooled: tuple[int, int, int], counts: tuple[int, int, str], accuracy: float
) -> Variant:
    parameters, macs, said = counts
    # torchvision counts the ReLU of conv1 and the poolings too.
    places = {number: number + sum(number >= at for at in pooled) for number in range(2, 10)}
    return Variant(
        name=f"squeezenet{version}",
        model=SqueezeNet,
        arguments={"stem": stem, "widths": _WIDTHS, "pooled": pooled, "dropout": 0.5},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=said,
            accuracy={"ImageNet-1K": accuracy},
            source=f"torchvision 0.29.1 weights meta SqueezeNet{version}_Weights.IMAGENET1K_V1",
        ),
        mapping=WeightMapping(
            f"torchvision squeezenet{version}",
            renamer(
                (r"^conv1\.", "features.0."),
                (r"^conv10\.", "classifier.1."),
                (r"^(fire.*)\.0\.", r"\1."),
                *((rf"^fire{number}\.", f"features.{place}.") for number, place in places.items()),
            ),
            builder=f"torchvision.models:squeezenet{version}",
        ),
        smallest=32,
        aliases=("squeezenet",) if version == "1_0" else (),
        representative=version == "1_0",
        check_input=(3, 64, 64),
        learning=Learning(
            data="mnist",
            arguments={"stem": (16, stem[1]), "widths": (128, 128, *(256,) * 6)},
            size=32 if version == "1_0" else 40,
            steps=240,
            rate=3e-4 if version == "1_0" else 4e-4,
            batch=128,
        ),
    )


VARIANTS = (
    _variant("1_0", (96, 7), (2, 5, 9), (1_248_424, 818_924_576, "0.819 G"), 58.092),
    _variant("1_1", (64, 3), (2, 4, 6), (1_235_496, 349_151_936, "0.349 G"), 58.178),
    Variant(
        name="squeezenet1_0_cifar",
        model=BypassSqueezeNet,
        arguments={"stem": 96, "widths": _WIDTHS},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=781_156,
        macs=53_280_768,
        published=Published(
            parameters="781,156",
            macs="53.3 M",
            accuracy={"CIFAR-100": 69.41},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs",
        ),
        mapping=WeightMapping(
            "SqueezeNet with simple bypass for 32×32 pictures, written apart, under the names stem fires.2 … scores",
            renamer(
                (r"^conv1\.", "stem."),
                (r"^conv10\.", "scores."),
                (r"^fire(\d)\.expand(\d)x\d", r"fires.\1.of\2"),
                (r"^fire(\d)\.squeeze", r"fires.\1.few"),
            ),
            builder="proof.references.squeezenet:SqueezeNet",
        ),
        smallest=16,
        aliases=("squeezenet_cifar",),
        representative=True,
        learning=Learning(data="mnist", arguments={"stem": 16, "widths": _TWIN_WIDTHS}, size=16, steps=120, rate=3e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
