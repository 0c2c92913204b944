"""VGG: eleven to nineteen layers of nothing but 3×3 convolutions and maximum pooling.

Title: Very Deep Convolutional Networks for Large-Scale Image Recognition
Authors: Karen Simonyan, Andrew Zisserman
Year: 2014 (ICLR 2015)
Link: https://arxiv.org/abs/1409.1556
New: stacks of 3×3 kernels in place of larger ones, and depth alone as the thing that is varied.
Table: table 1 (configurations A, B, D, E) and table 2 (their 133 to 144 million parameters); counts and accuracies of
    the 224×224 forms are torchvision's, those of the 32×32 forms come from the README of weiaicunzai/pytorch-cifar100.

Deviations:
- The forms ending in _bn have a batch norm after every convolution; the paper has none.
- Convolutions start as He et al. 2015 propose, linear layers with deviation 0.01, as in torchvision; the paper starts
  deep networks from trained shallow ones.
- Maps of other pictures than 224×224 are averaged to 7×7 before the classifier, as in torchvision.
- The forms ending in _cifar keep both hidden layers of 4096 units and see one pixel of the last map instead of 7×7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping

__all__ = ["VARIANTS", "VGG", "VGGNorm"]


class VGG(VisionModel):
    """Five stages of 3×3 convolutions with a maximum pooling at the end of each, and three linear layers.

    Args:
        convolutions: number of them in each stage.
        widths: maps of each stage.
        grid: side of the map the classifier sees.
        hidden: units of the two hidden linear layers.
        dropout: probability after each of them.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "five poolings halve the picture"

    def __init__(
        self,
        convolutions: Sequence[int],
        widths: Sequence[int],
        grid: int,
        hidden: int,
        dropout: float,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.grid = in_channels, num_classes, grid
        self.stages = tuple(Stage(f"stage{i}", width, 2**i) for i, width in enumerate(widths, 1))
        channels = in_channels
        for stage, count in zip(self.stages, convolutions, strict=True):
            layers = []
            for _ in range(count):
                layers += self.layer(channels, stage.channels)
                channels = stage.channels
            self.add_module(stage.name, nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.fc1 = nn.Linear(channels * grid * grid, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, num_classes)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.apply(_initialise)

    def layer(self, in_channels: int, channels: int) -> list[nn.Module]:
        """Return what one layer of table 1 consists of."""
        return [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True)]

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stage1 [B, 64, H/2, W/2] to stage5 [B, 512, H/32, W/32] for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        for stage in self.stages:
            x = out[stage.name] = self.get_submodule(stage.name)(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage5 [B, 512, H/32, W/32]."""
        x = F.adaptive_avg_pool2d(x, (self.grid, self.grid)).flatten(1)  # [B, 512 · 7 · 7]
        x = self.dropout1(F.relu(self.fc1(x)))
        x = self.dropout2(F.relu(self.fc2(x)))  # [B, 4096]
        logits: Tensor = self.fc3(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace fc3 by a fresh one for ``num_classes`` classes."""
        weight = self.fc3.weight
        self.fc3 = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.fc3)


class VGGNorm(VGG):
    """VGG with a batch norm after every convolution."""

    input_reason = "five poolings halve the picture"

    def layer(self, in_channels: int, channels: int) -> list[nn.Module]:
        """Return what one layer of table 1 consists of, and its batch norm."""
        convolution = nn.Conv2d(in_channels, channels, 3, padding=1)
        return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


def _renamer(convolutions: Sequence[int], modules: int) -> Callable[[str], str]:
    """Return stage2.3 -> features.N, where torchvision counts the ``modules`` of layers and the poolings through."""
    starts = [sum(modules * count + 1 for count in convolutions[:stage]) for stage in range(len(convolutions))]

    def rename(name: str) -> str:
        part, rest = name.split(".", 1)
        if part.startswith("fc"):
            return f"classifier.{3 * (int(part[2:]) - 1)}.{rest}"
        place, kind = rest.split(".", 1)
        return f"features.{starts[int(part[5:]) - 1] + int(place)}.{kind}"

    return rename


_WIDTHS = (64, 128, 256, 512, 512)
_CONFIGURATIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_PAPER = Paper(
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    authors="Simonyan, Zisserman",
    year=2014,
    link="https://arxiv.org/abs/1409.1556",
)
_TWIN = {"convolutions": (1, 1, 2, 1, 1), "widths": (16, 16, 32, 32, 32), "hidden": 128, "dropout": 0.1}


def _variant(model: type[VGG], layers: int, parameters: int, macs: int, accuracy: float) -> Variant:
    norm = model is VGGNorm
    name = f"vgg{layers}_bn" if norm else f"vgg{layers}"
    convolutions = _CONFIGURATIONS[layers]
    return Variant(
        name=name,
        model=model,
        arguments={"convolutions": convolutions, "widths": _WIDTHS, "grid": 7, "hidden": 4096, "dropout": 0.5},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=f"{macs / 1e9:.3f} G",
            accuracy={"ImageNet-1K": accuracy},
            source=f"torchvision 0.29.1 weights meta {name.upper()}_Weights.IMAGENET1K_V1",
        ),
        mapping=WeightMapping(
            f"torchvision {name}", _renamer(convolutions, 3 if norm else 2), builder=f"torchvision.models:{name}"
        ),
        smallest=32,
        representative=layers == 11,
        check_input=(3, 64, 64),
        learning=Learning(data="mnist", arguments=_TWIN, steps=160, rate=2e-3),
    )


def _cifar(layers: int, parameters: int, macs: int, error: float) -> Variant:
    convolutions = _CONFIGURATIONS[layers]
    return Variant(
        name=f"vgg{layers}_bn_cifar",
        model=VGGNorm,
        arguments={"convolutions": convolutions, "widths": _WIDTHS, "grid": 1, "hidden": 4096, "dropout": 0.5},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=f"{macs / 1e6:.1f} M",
            accuracy={"CIFAR-100": round(100 - error, 2)},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs",
        ),
        mapping=WeightMapping(
            f"torchvision vgg{layers}_bn with one pixel in place of 7×7 before its classifier",
            _renamer(convolutions, 3),
            builder="proof.references.vgg:vgg_cifar",
            arguments={"layers": layers},
        ),
        smallest=32,
        learning=Learning(data="mnist", arguments=_TWIN, steps=320, rate=1e-3),
    )


VARIANTS = (
    _variant(VGG, 11, 132_863_336, 7_609_090_048, 69.02),
    _variant(VGG, 13, 133_047_848, 11_308_466_176, 69.928),
    _variant(VGG, 16, 138_357_544, 15_470_264_320, 71.592),
    _variant(VGG, 19, 143_667_240, 19_632_062_464, 72.376),
    _variant(VGGNorm, 11, 132_868_840, 7_609_090_048, 70.37),
    _variant(VGGNorm, 13, 133_053_736, 11_308_466_176, 71.586),
    _variant(VGGNorm, 16, 138_365_992, 15_470_264_320, 73.36),
    _variant(VGGNorm, 19, 143_678_248, 19_632_062_464, 74.218),
    _cifar(11, 28_518_244, 172_048_384, 31.36),
    _cifar(13, 28_703_140, 247_545_856, 28.0),
    _cifar(16, 34_015_396, 332_480_512, 27.07),
    _cifar(19, 39_327_652, 417_415_168, 27.77),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
