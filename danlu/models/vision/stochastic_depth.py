"""Residual networks whose blocks are dropped at random while they train.

Title: Deep Networks with Stochastic Depth
Authors: Gao Huang, Yu Sun, Zhuang Liu, Daniel Sedra, Kilian Weinberger
Year: 2016 (ECCV)
Link: https://arxiv.org/abs/1603.09382
New: a residual network trains as an ensemble of shorter ones and is used whole; the later a block, the more often it is
    dropped.
Table: table 1 (110 layers, with linear decay to p_L = 0.5; 5.23 and 24.58 % error in the first version).

Deviations:
- A block is dropped for each picture by itself, in the paper for the whole batch, which saves its computation.
- The residual of a kept block is divided by its probability to survive and eval mode scales nothing; the paper
  multiplies in eval mode instead, which is the same in expectation.
- The `_cifar` forms are those of a much-used table, not the paper's: ResNet-18 to 101 with a 3×3 stem; no ReLU follows
  an addition; survival decays from 1 in the first block to 0.5 in the last; the stem, and in 18 and 34 layers every
  convolution, has a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import StochasticDepth, linear_rates
from danlu.models.vision import resnet, resnet_cifar

__all__ = [
    "VARIANTS",
    "BiasedStem",
    "LinearBasicBlock",
    "LinearBottleneck",
    "SmallStochasticDepthResNet",
    "StochasticBlock",
    "StochasticDepthResNet",
]


class StochasticBlock(resnet_cifar.BasicBlock):
    """A block of He et al. 2015 with shortcuts of option A, dropped with probability ``rate``: equation 2."""

    def __init__(self, in_channels: int, channels: int, stride: int, rate: float) -> None:
        super().__init__(in_channels, channels, stride)
        self.depth = StochasticDepth(rate)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + b · residual(x)), where b is drawn for each picture."""
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True)))
        return F.relu(self.shortcut(x) + self.depth(residual), inplace=True)


class StochasticDepthResNet(VisionModel):
    """The network of 6 n + 2 layers for CIFAR.

    Args:
        blocks: n, the number of blocks in each of the three stages.
        last: 1 - p_L, how often the last block is dropped; the l-th of L blocks is dropped l / L times as often.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 4×4 pixels and more, returns logits [B, K].
    """

    stages = (Stage("stem", 16, 1), Stage("stage1", 16, 1), Stage("stage2", 32, 2), Stage("stage3", 64, 4))
    smallest = 4
    input_reason = "two stages halve the picture"

    def __init__(self, blocks: int, last: float, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        rates, seen = iter(linear_rates(last, 3 * blocks, from_zero=False)), 16
        for stage in self.stages[1:]:
            self.add_module(stage.name, layers := nn.Sequential())
            for _ in range(blocks):
                layers.append(StochasticBlock(seen, stage.channels, stage.channels // seen, next(rates)))
                seen = stage.channels
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, stage1, stage2 and stage3 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)  # [B, 16, H, W]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, 16, H, W] … [B, 64, H/4, W/4]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage3 [B, 64, H/4, W/4]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BiasedStem(resnet.SmallStem):
    """The 3×3 stem, with a bias."""

    def convolution(self, in_channels: int, channels: int) -> nn.Module:
        """Return the layer before the batch norm."""
        return nn.Conv2d(in_channels, channels, 3, padding=1)


class LinearBasicBlock(resnet.Residual):
    """Two 3×3 convolutions with biases; no ReLU follows the addition."""

    def __init__(self, in_channels: int, width: int, stride: int, rate: float) -> None:
        super().__init__(in_channels, width, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.depth = StochasticDepth(rate)

    def projection(self, in_channels: int, stride: int) -> nn.Module:
        """Return the layers of a shortcut that changes the shape."""
        return nn.Sequential(nn.Conv2d(in_channels, self.channels, 1, stride), nn.BatchNorm2d(self.channels))

    def residual(self, x: Tensor) -> Tensor:
        """Return [B, width, H', W']."""
        out: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + b · residual(x), where b is drawn for each picture."""
        out: Tensor = self.shortcut(x) + self.depth(self.residual(x))
        return out


class LinearBottleneck(resnet.Bottleneck):
    """1×1, 3×3 and 1×1 convolutions; no ReLU follows the addition."""

    def __init__(self, in_channels: int, width: int, stride: int, rate: float) -> None:
        super().__init__(in_channels, width, stride)
        self.depth = StochasticDepth(rate)

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + b · residual(x), where b is drawn for each picture."""
        out: Tensor = self.shortcut(x) + self.depth(self.residual(x))
        return out


class SmallStochasticDepthResNet(resnet.ResNet):
    """ResNet-18 to 101 for small pictures, without ReLU after the additions.

    Args:
        block: builds a block from its channels in, its width, its stride and its rate.
        blocks: how many in each stage.
        last: how often the last block is dropped; the first never is, and the rate rises linearly.
        width: of conv1 and of the blocks of conv2_x; 64 in the published ones.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 8×8 pixels and more, returns logits [B, K].
    """

    def __init__(
        self,
        block: Callable[[int, int, int, float], resnet.Residual],
        blocks: Sequence[int],
        last: float,
        width: int = 64,
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        rates = iter(linear_rates(last, sum(blocks), from_zero=True))

        def built(seen: int, inner: int, stride: int) -> resnet.Residual:
            return block(seen, inner, stride, next(rates))

        super().__init__(built, blocks, BiasedStem, width, num_classes, in_channels)


_PAPER = Paper(
    title="Deep Networks with Stochastic Depth",
    authors="Huang, Sun, Liu, Sedra, Weinberger",
    year=2016,
    link="https://arxiv.org/abs/1603.09382",
)
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_NAMES = renamer(
    (r"^stem_conv\.", "conv1."),
    (r"^stem_norm\.", "bn1."),
    (r"^stage(\d)\.(\d+)\.norm(\d)\.", r"layer\1.\2.bn\3."),
    (r"^stage(\d)\.", r"layer\1."),
    (r"^classifier\.", "linear."),
)


def _small(layers: int, parameters: int, macs: int, published: str, accuracy: float) -> Variant:
    return Variant(
        name=f"stochastic_depth{layers}_cifar",
        model=SmallStochasticDepthResNet,
        arguments={
            "block": LinearBasicBlock if layers < 50 else LinearBottleneck,
            "blocks": _BLOCKS[layers],
            "last": 0.5,
        },
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=published,
            accuracy={"CIFAR-100": accuracy},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its network",
        ),
        mapping=WeightMapping(
            f"torchvision resnet{layers} with a 3×3 stem and biases, without ReLU after the additions",
            resnet.to_torchvision,
            builder="proof.references.stochastic_depth:linear",
            arguments={"name": f"resnet{layers}"},
        ),
        smallest=8,
        aliases=(f"stochasticdepth{layers}",),
        representative=layers in (18, 50),
        check_input=(3, 16, 16),
        learning=Learning(arguments={"blocks": (2, 1, 1, 1), "width": 8, "last": 0.1}, size=8, steps=200, rate=3e-3),
    )


VARIANTS = (
    Variant(
        name="stochastic_depth_resnet110",
        model=StochasticDepthResNet,
        arguments={"blocks": 18, "last": 0.5},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=10,
        parameters=1_727_962,
        macs=252_887_680,
        published=Published(
            parameters="1.7 M",
            accuracy={"CIFAR-10": 94.77, "CIFAR-100": 75.42},
            source="100 % minus the test error of table 1, as Papers with Code lists it",
        ),
        mapping=WeightMapping(
            "the option-A form of ResNet-110 written apart; nothing is dropped",
            _NAMES,
            builder="proof.references.resnet_cifar:ResNet",
            arguments={"blocks": 18},
        ),
        smallest=4,
        representative=True,
        check_input=(3, 16, 16),
        learning=Learning(arguments={"blocks": 2, "last": 0.1}, size=8, steps=200, rate=3e-3),
    ),
    _small(18, 11_224_932, 555_468_800, "555.5 M", 68.60),
    _small(34, 21_336_804, 1_159_448_576, "1159.4 M", 72.28),
    _small(50, 23_705_316, 1_298_014_208, "1298.0 M", 76.65),
    _small(101, 42_697_444, 2_510_168_064, "2510.2 M", 78.72),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
