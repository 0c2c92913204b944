"""CBAM-ResNet: residual networks with a gate over channels and then a gate over pixels in every block.

Title: CBAM: Convolutional Block Attention Module
Authors: Sanghyun Woo, Jongchan Park, Joon-Young Lee, In So Kweon
Year: 2018 (ECCV 2018)
Link: https://arxiv.org/abs/1807.06521
New: channels are weighed by their mean and their maximum through one small network, then pixels by the mean and the
  maximum over channels through one 7×7 convolution.
Table: table 4 (ImageNet errors, parameters, GFLOPs), read from memory. Its 3.864 and 7.581 GFLOPs for 50 and 101 layers
  fit a stride in the first 1×1 convolution; the authors' program and pytorchcv, whose 4.117 G for 50 layers adds
  normalisations and pooling, have it in the 3×3 (4.096 G and 7.813 G multiply-adds).

Deviations:
- A batch norm follows the convolution of the gate over pixels, as in the authors' program; equation 3 has none.
- The two layers of the gate over channels have biases, as in the authors' program; equation 2 writes none.
- The stride of a bottleneck is in its 3×3 convolution, see Table.
- Convolutions start as He et al. 2015 propose, uniformly, as in pytorchcv; the paper does not say.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import SpatialGate

__all__ = ["VARIANTS", "BasicBlock", "Bottleneck", "CBAMResNet", "ChannelGate"]

_REDUCTION = 16


class ChannelGate(nn.Module):
    """Gate of every channel from its mean and its maximum, through one network of two layers; equation 2.

    Takes and returns [B, channels, H, W].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // _REDUCTION)
        self.fc2 = nn.Linear(channels // _REDUCTION, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps, each scaled by its gate."""
        mean, maximum = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))  # [B, C] each
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(mean))) + self.fc2(F.relu(self.fc1(maximum))))
        return x * gate[:, :, None, None]


class _Block(nn.Module):
    """A residual block; ``body`` is everything before the gates."""

    def __init__(self, body: nn.Sequential, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.channel_gate = ChannelGate(channels)
        self.spatial_gate = SpatialGate()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + gated residual(x))."""
        residual = self.channel_gate(self.body(x))
        return F.relu(self.shortcut(x) + self.spatial_gate(residual), inplace=True)


class BasicBlock(_Block):
    """Two 3×3 convolutions and the gates: [B, in_channels, H, W] -> [B, width, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        body = nn.Sequential()
        _add(body, 1, in_channels, width, 3, stride)
        body.add_module("relu1", nn.ReLU(inplace=True))
        _add(body, 2, width, width, 3)
        super().__init__(body, in_channels, width, stride)


class Bottleneck(_Block):
    """1×1, 3×3, 1×1 and the gates: [B, in_channels, H, W] -> [B, 4 width, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        body = nn.Sequential()
        _add(body, 1, in_channels, width, 1)
        body.add_module("relu1", nn.ReLU(inplace=True))
        _add(body, 2, width, width, 3, stride)
        body.add_module("relu2", nn.ReLU(inplace=True))
        _add(body, 3, width, 4 * width, 1)
        super().__init__(body, in_channels, 4 * width, stride)


def _add(body: nn.Sequential, number: int, seen: int, made: int, kernel: int, stride: int = 1) -> None:
    conv = nn.Conv2d(seen, made, kernel, stride=stride, padding=kernel // 2, bias=False)
    body.add_module(f"conv{number}", conv)
    body.add_module(f"norm{number}", nn.BatchNorm2d(made))


class CBAMResNet(VisionModel):
    """A residual network of four stages with both gates in every block.

    Args:
        block: the residual block.
        depths: number of blocks in each stage.
        width: of the stem and of the first stage's blocks; doubles with every stage.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "five layers halve the picture, so that 32 pixels leave one"

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        width: int = 64,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        channels = width
        stages = [Stage("stem", channels, 4)]
        for number, depth in enumerate(depths, 1):
            stage = nn.Sequential()
            for index in range(depth):
                stage.append(block(channels, width, 2 if number > 1 and index == 0 else 1))
                channels = block.expansion * width
            self.add_module(f"stage{number}", stage)
            stages.append(Stage(f"stage{number}", channels, 2 ** (number + 1)))
            width *= 2
        self.stages = tuple(stages)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and stage1 … stage4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)  # [B, 64, H/2, W/2]
        x = out["stem"] = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, 64, H/4, W/4]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, channels, H/stride, W/stride]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage4 [B, C, h, w]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, C]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)


# pytorchcv counts units from 1, we count blocks from 0.
_NAMES = renamer(
    (r"^stem_conv\.", "features.init_block.conv.conv."),
    (r"^stem_norm\.", "features.init_block.conv.bn."),
    (r"\.body\.conv(\d)\.", r".body.conv\1.conv."),
    (r"\.body\.norm(\d)\.", r".body.conv\1.bn."),
    (r"\.channel_gate\.", ".cbam.ch_gate.mlp."),
    (r"\.spatial_gate\.conv\.", ".cbam.sp_gate.conv.conv."),
    (r"\.spatial_gate\.norm\.", ".cbam.sp_gate.conv.bn."),
    (r"\.shortcut\.0\.", ".identity_conv.conv."),
    (r"\.shortcut\.1\.", ".identity_conv.bn."),
    (r"^classifier\.", "output."),
)


def _rename(name: str) -> str:
    first, _, rest = name.partition(".")
    if first.startswith("stage"):
        index, _, rest = rest.partition(".")
        name = f"features.{first}.unit{int(index) + 1}.{rest}"
    return _NAMES(name)


_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _variant(layers: int, parameters: int, macs: int, published: Published) -> Variant:
    return Variant(
        name=f"cbam_resnet{layers}",
        model=CBAMResNet,
        arguments={"block": BasicBlock if layers < 50 else Bottleneck, "depths": _DEPTHS[layers]},
        paper=Paper(
            title="CBAM: Convolutional Block Attention Module",
            authors="Woo, Park, Lee, Kweon",
            year=2018,
            link="https://arxiv.org/abs/1807.06521",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=published,
        mapping=WeightMapping(
            f"pytorchcv cbam_resnet{layers}, its last pooling over any size",
            _rename,
            builder="proof.references.cbam_resnet:cbam_resnet",
            arguments={"layers": layers},
        ),
        smallest=32,
        representative=layers in (18, 50),
        check_input=(3, 64, 64),
        learning=Learning(arguments={"depths": (1, 1, 1, 1), "width": 16}, steps=120, rate=2e-3),
    )


_TABLE4 = "table 4 of the paper, from memory; accuracy is 100 % minus the error"

VARIANTS = (
    _variant(
        18,
        11_779_392,
        1_815_063_764,
        Published("11.78 M", "1.815 G", {"ImageNet-1K": 70.73}, _TABLE4, ("parameters", "macs", "accuracy")),
    ),
    _variant(
        34,
        21_960_468,
        3_665_434_742,
        Published("21.96 M", "3.665 G", {"ImageNet-1K": 74.01}, _TABLE4, ("parameters", "macs", "accuracy")),
    ),
    _variant(
        50,
        28_089_624,
        4_095_573_110,
        Published(
            parameters="28,089,624",
            accuracy={"ImageNet-1K": 77.622},
            source="pytorchcv 0.0.74 README; accuracy: released model, README of Jongchan/attention-module "
            "(table 4 of the paper: 77.34)",
        ),
    ),
    _variant(
        101,
        49_330_172,
        7_812_577_278,
        Published("49.33 M", accuracy={"ImageNet-1K": 78.49}, source=_TABLE4, unverified=("parameters", "accuracy")),
    ),
    _variant(152, 66_826_848, 11_529_025_510, Published(source="none; the rule of the other depths")),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
