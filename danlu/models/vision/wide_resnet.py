"""Wide residual networks for CIFAR: 16 to 40 layers, eight to ten times as wide as those of a thousand layers.

Title: Wide Residual Networks
Authors: Sergey Zagoruyko, Nikos Komodakis
Year: 2016 (BMVC)
Link: https://arxiv.org/abs/1605.07146
New: width instead of depth: 28 layers of ten times the channels beat 1001 thin ones and train several times faster.
Table: table 1 (stages), tables 5 and 9 (test errors); the networks for ImageNet are in wide_resnet_imagenet.py.

Deviations:
- The classifier starts uniformly as linear layers of torch do; the paper does not say.
- wideresnet_40_10 is the network of a much-used table, with 22 thousand parameters more: its convolutions have biases,
  its dropout is 0.5, and the shortcuts that change the shape project the block's input before batch norm and ReLU.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "RawWideningBlock", "WideBlock", "WideResNet", "WideningBlock"]


class WideBlock(nn.Module):
    """x + residual(relu(norm(x))), with two 3×3 convolutions and dropout between them.

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)

    def residual(self, active: Tensor) -> Tensor:
        """Return [B, channels, H', W'] for the activated input."""
        x = F.relu(self.norm2(self.conv1(active)), inplace=True)
        out: Tensor = self.conv2(self.dropout(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(relu(norm(x)))."""
        return x + self.residual(F.relu(self.norm1(x), inplace=True))


class WideningBlock(WideBlock):
    """The first block of a stage: batch norm and ReLU stand before the branching, the shortcut is a 1×1 projection."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float, bias: bool) -> None:
        super().__init__(in_channels, channels, stride, dropout, bias)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(active) + residual(active) with active = relu(norm(x))."""
        active = F.relu(self.norm1(x), inplace=True)
        out: Tensor = self.shortcut(active) + self.residual(active)
        return out


class RawWideningBlock(WideningBlock):
    """The first block of a stage, whose shortcut projects what no batch norm and no ReLU has seen."""

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + residual(relu(norm(x)))."""
        out: Tensor = self.shortcut(x) + self.residual(F.relu(self.norm1(x), inplace=True))
        return out


class WideResNet(VisionModel):
    """The network of table 1, WRN-depth-widen.

    Args:
        depth: number of layers, 6 n + 4 for n blocks a stage.
        widen: k; the stages have 16 k, 32 k and 64 k channels.
        dropout: rate between the two convolutions of a block.
        first: class of the first block of each stage.
        bias: whether convolutions have biases.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 4×4 pixels and more, returns logits [B, K].
    """

    smallest = 4
    input_reason = "two stages halve the picture"

    def __init__(
        self,
        depth: int,
        widen: int,
        dropout: float = 0.0,
        first: type[WideningBlock] = WideningBlock,
        bias: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=bias)
        self.stages = (
            Stage("conv1", 16, 1),
            Stage("conv2", 16 * widen, 1),
            Stage("conv3", 32 * widen, 2),
            Stage("conv4", 64 * widen, 4),
        )
        for before, stage in zip(self.stages, self.stages[1:], strict=False):
            stride = stage.stride // before.stride
            blocks: list[WideBlock] = [first(before.channels, stage.channels, stride, dropout, bias)]
            blocks += [WideBlock(stage.channels, stage.channels, 1, dropout, bias) for _ in range((depth - 4) // 6 - 1)]
            self.add_module(stage.name, nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(64 * widen)
        self.classifier = nn.Linear(64 * widen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1 to conv4 for pictures [B, C, H, W]; the sums, before batch norm and ReLU."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.conv1(x)  # [B, 16, H, W]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, 16 k, H, W] … [B, 64 k, H/4, W/4]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for conv4 [B, 64 k, H/4, W/4]."""
        x = F.relu(self.norm(x), inplace=True)
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    # He et al. 2015, by the size of the output as in the authors' program.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_TO_PYTORCHCV = renamer(
    (r"^conv1\.", "features.init_block."),
    (r"^norm\.", "features.post_activ.bn."),
    (r"^classifier\.", "output."),
    (r"\.conv(\d)\.", r".body.conv\1.conv."),
    (r"\.norm(\d)\.", r".body.conv\1.bn."),
    (r"\.shortcut\.", ".identity_conv."),
)


def _to_pytorchcv(name: str) -> str:
    stage, _, rest = _TO_PYTORCHCV(name).partition(".")
    if not stage.startswith("conv"):  # the stem, the last batch norm and the classifier
        return f"{stage}.{rest}"
    block, _, rest = rest.partition(".")
    return f"features.stage{int(stage[4]) - 1}.unit{int(block) + 1}.{rest}"


_PAPER = Paper(
    title="Wide Residual Networks",
    authors="Zagoruyko, Komodakis",
    year=2016,
    link="https://arxiv.org/abs/1605.07146",
)


def _variant(depth: int, widen: int, parameters: int, macs: int, published: Published, **more: Any) -> Variant:
    return Variant(
        name=f"wrn_{depth}_{widen}",
        model=WideResNet,
        arguments={"depth": depth, "widen": widen, **more},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=10,
        parameters=parameters,
        macs=macs,
        published=published,
        mapping=WeightMapping(
            f"pytorchcv's WRN for CIFAR with {depth} layers, {widen} times as wide",
            _to_pytorchcv,
            builder="pytorchcv.models.wrn_cifar:get_wrn_cifar",
            arguments={"num_classes": 10, "blocks": depth, "width_factor": widen},
        ),
        smallest=4,
        representative=depth == 16,
        learning=Learning(arguments={"depth": 16, "widen": 1, "dropout": 0.0}, size=8, steps=200, rate=3e-3),
    )


VARIANTS = (
    _variant(
        16,
        8,
        10_961_370,
        1_548_145_664,
        Published(
            "11.0 M", accuracy={"CIFAR-10": 95.73, "CIFAR-100": 79.57}, source="table 5", unverified=("accuracy",)
        ),
    ),
    _variant(
        28,
        10,
        36_479_194,
        5_243_328_768,
        Published(
            "36.5 M",
            accuracy={"CIFAR-10": 96.0, "CIFAR-100": 80.75},
            source="README of szagoruyko/wide-residual-networks: 100 % minus the test error, median of five runs",
        ),
    ),
    _variant(
        40,
        10,
        55_841_754,
        8_074_483_968,
        Published(
            "55.8 M",
            accuracy={"CIFAR-10": 96.2, "CIFAR-100": 81.7},
            source="README of szagoruyko/wide-residual-networks: 100 % minus the test error, one run with dropout",
        ),
        dropout=0.3,
    ),
    Variant(
        name="wideresnet_40_10",
        model=WideResNet,
        arguments={"depth": 40, "widen": 10, "dropout": 0.5, "first": RawWideningBlock, "bias": True},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=55_914_020,
        macs=8_074_541_568,
        published=Published(
            parameters="55,914,020",
            macs="8074.5 M",
            accuracy={"CIFAR-100": 78.75},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its network",
        ),
        mapping=WeightMapping(
            "the form with biases and raw shortcuts written apart, under the names stem, group1.0.bn1 … fc",
            renamer(
                (r"^conv1\.", "stem."),
                (r"^conv2\.", "group1."),
                (r"^conv3\.", "group2."),
                (r"^conv4\.", "group3."),
                (r"\.norm(\d)\.", r".bn\1."),
                (r"^norm\.", "bn."),
                (r"^classifier\.", "fc."),
            ),
            builder="proof.references.wide_resnet:Biased",
            arguments={"blocks": 6, "widen": 10},
        ),
        smallest=4,
        aliases=("wideresnet",),
        representative=True,
        check_input=(3, 8, 8),
        learning=Learning(arguments={"depth": 16, "widen": 1, "dropout": 0.1}, size=8, steps=200, rate=3e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
