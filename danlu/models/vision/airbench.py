"""airbench: the networks that reach 94, 95 and 96 per cent on CIFAR-10 in seconds on one device.

Title: 94% on CIFAR-10 in 3.29 Seconds on a Single GPU
Authors: Keller Jordan
Year: 2024
Link: https://arxiv.org/abs/2404.00498
New: a first layer of fixed whitening filters, convolutions that start as the identity, and batch norms that only shift:
    few parameters to find, so that ten passes over the data are enough.
Table: the scripts legacy/airbench94.py, airbench95.py and airbench96.py of KellerJordan/cifar10-airbench, whose first
    lines give the mean accuracies over 1,000, 200 and 400 runs, with six views of every test picture.

Deviations:
- The last pooling takes the whole map; that is the 3×3 of the scripts on 32×32 pictures, and any other size works too.
- The whitening filters are set by :meth:`Airbench.whiten`, which is to be called once before training; until then they
  start as every other convolution. The scripts set them from the first 5,000 or all training pictures.
- Everything is computed in one precision; the scripts use half precision outside the batch norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "Airbench", "ConvGroup", "ResidualConvGroup", "ShiftNorm"]


class ShiftNorm(nn.BatchNorm2d):
    """A batch norm whose gains stay one: it is learned what to add, not what to multiply by."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels, eps=1e-12, momentum=momentum)
        self.weight.requires_grad = False


class ConvGroup(nn.Module):
    """Convolution, maximum pooling and a second convolution, each convolution with its norm and GELU.

    Takes [B, in_channels, H, W], returns [B, channels, H/2, W/2].
    """

    def __init__(self, in_channels: int, channels: int, momentum: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.norm1 = ShiftNorm(channels, momentum)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = ShiftNorm(channels, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of the second convolution."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class ResidualConvGroup(ConvGroup):
    """A group with a third convolution and a shortcut around its last two."""

    def __init__(self, in_channels: int, channels: int, momentum: float) -> None:
        super().__init__(in_channels, channels, momentum)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm3 = ShiftNorm(channels, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return gelu(shortcut + residual)."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        residual = self.norm3(self.conv3(F.gelu(self.norm2(self.conv2(x)))))
        return F.gelu(x + residual)


class Airbench(VisionModel):
    """Whitening of 2×2 patches, three groups of convolutions, the maximum of each map, and a linear layer.

    Args:
        widths: maps of the three groups.
        group: what the groups consist of.
        momentum: share of a batch in the running statistics of the norms.
        num_classes: K.
        in_channels: C of the pictures; 3 in the scripts.

    Takes [B, C, H, W] of 17×17 pixels and more, returns logits [B, K].
    """

    smallest = 17
    input_reason = "three groups halve the picture, and a last map of one pixel has no batch statistics at batch 1"
    # Of the logits, so that a fresh network is not sure of anything.
    scale = 1 / 9

    def __init__(
        self,
        widths: Sequence[int],
        group: type[ConvGroup],
        momentum: float,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        # Each of the 4 C directions of a 2×2 patch is there with both signs.
        channels = 2 * 4 * in_channels
        groups = [Stage(f"block{i}", width, 2**i) for i, width in enumerate(widths, 1)]
        self.stages = (Stage("whiten", channels, 1), *groups)
        self.whitening = nn.Conv2d(in_channels, channels, 2)
        self.whitening.weight.requires_grad = False
        for stage in groups:
            self.add_module(stage.name, group(channels, stage.channels, momentum))
            channels = stage.channels
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        self.apply(_initialise)

    @torch.no_grad()
    def whiten(self, pictures: Tensor, eps: float = 5e-4) -> None:
        """Set the fixed filters so that the 2×2 patches of ``pictures`` [N, C, H, W] come out uncorrelated.

        Args:
            pictures: normalised as in training; a few thousand are enough.
            eps: added to the variances, so that directions in which nothing varies are not blown up.
        """
        self.check_pictures(pictures)
        weight = self.whitening.weight
        patches = F.unfold(pictures.to(torch.float64), 2).transpose(1, 2).flatten(0, 1)  # [patches, 4 C]
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))  # ascending; a column each
        filters = (directions / (variances + eps).sqrt()).T.flip(0).reshape(-1, *weight.shape[1:])  # [4 C, C, 2, 2]
        weight.copy_(torch.cat([filters, -filters]))

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return whiten [B, 8 C, H - 1, W - 1] and block1 [B, 64, H/2, W/2] to block3 [B, 256, H/8, W/8]."""
        self.check_pictures(x)
        out = {}
        x = out["whiten"] = F.gelu(self.whitening(x))
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for block3 [B, 256, H/8, W/8]."""
        logits: Tensor = self.classifier(x.amax(dim=(2, 3)))  # the maxima are [B, 256]
        return logits * self.scale

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(weight.shape[1], num_classes, bias=False, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    # torch's own start, but the first filters of a convolution pass its input on.
    if isinstance(module, nn.Conv2d):
        with torch.no_grad():
            nn.init.dirac_(module.weight[: module.weight.shape[1]])
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# The places in the scripts' sequence: GELU is 1, pooling and flattening are 5 and 6.
_RENAME = renamer(
    (r"^whitening\.", "0."),
    *((rf"^block{number}\.", f"{number + 1}.") for number in (1, 2, 3)),
    (r"^classifier\.", "7."),
)


def _variant(
    percent: int,
    arguments: Mapping[str, Any],
    counts: tuple[int, int],
    accuracy: float,
) -> Variant:
    parameters, macs = counts
    return Variant(
        name=f"airbench{percent}",
        model=Airbench,
        arguments=arguments,
        paper=Paper(
            title="94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
            authors="Jordan",
            year=2024,
            link="https://arxiv.org/abs/2404.00498",
        ),
        input=(3, 32, 32),
        classes=10,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=f"{macs / 1e6:.2f} M",
            accuracy={"CIFAR-10": accuracy},
            source=f"KellerJordan/cifar10-airbench legacy/airbench{percent}.py: first lines, and layers counted",
        ),
        mapping=WeightMapping(
            f"airbench{percent} written apart, under the names of the script's sequence",
            _RENAME,
            builder="proof.references.airbench:Airbench",
            arguments={
                "widths": arguments["widths"],
                "momentum": arguments["momentum"],
                "third": arguments["group"] is ResidualConvGroup,
            },
        ),
        smallest=17,
        representative=percent != 95,
        learning=Learning(data="mnist", arguments={"widths": (24, 48, 64)}, size=18, steps=80, rate=5e-3),
    )


VARIANTS = (
    _variant(
        94, {"widths": (64, 256, 256), "group": ConvGroup, "momentum": 0.4}, (1_972_792, 118_147_360), accuracy=94.01
    ),
    _variant(
        95, {"widths": (128, 384, 384), "group": ConvGroup, "momentum": 0.4}, (4_606_520, 301_560_864), accuracy=95.01
    ),
    _variant(
        96,
        {"widths": (128, 384, 512), "group": ResidualConvGroup, "momentum": 0.1},
        (9_918_776, 451_967_264),
        accuracy=96.03,
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
