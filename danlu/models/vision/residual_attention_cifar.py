"""Residual attention networks for small pictures: the ImageNet widths behind one 3×3 convolution.

Title: Residual Attention Network for Image Classification
Authors: Fei Wang, Mengqing Jiang, Chen Qian, Shuo Yang, Cheng Li, Honggang Zhang, Xiaogang Wang, Xiaoou Tang
Year: 2017 (CVPR 2017)
Link: https://arxiv.org/abs/1704.06904
New: a branch that shrinks and grows the maps again gives a mask M, and the trunk's maps T become (1 + M) · T, so that
  modules can be stacked without fading.
Table: the CIFAR-100 table of weiaicunzai/pytorch-cifar100, whose attention59 is attention56_cifar and whose README says
  102.5 M parameters for attention92 where its code has 105.4 M. Its code counts 860.0 M and 1505.6 M multiply-adds, for
  masks with a mistake that are not built here, see Deviations. The paper's own networks for small pictures have three
  narrow stages.

Deviations:
- Each pooling of a mask shrinks what the pooling before it left, as in the paper. The table's code pools the module's
  input every time, uses one unit twice, and never calls one skip unit in each module of the first and third stage; here
  the first is the skip its name says, and the other skips the innermost units, so that the parameters agree.
- Every unit has a projecting shortcut from before its first norm, its first 1×1 convolution has the stride, and all
  convolutions have biases; in the paper shortcuts are identities where the shape allows.
- Maps grow by repeating pixels, not bilinearly, and two more units stand at the bottom of a mask.
- Nothing normalises the maps of the last stage before their mean.
- Weights start as He et al. 2015 propose, but shortcuts as the identity where the shape allows and the last convolution
  of each unit at a quarter; the table's start as torch's layers do, which learn several times slower.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping

__all__ = ["VARIANTS", "AttentionModule", "Mask", "ResidualAttentionCIFAR", "Unit"]


class Unit(nn.Module):
    """Pre-activation bottleneck with a projecting shortcut: [B, in_channels, H, W] -> [B, channels, H/s, W/s]."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        inner = channels // 4
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, stride=stride)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1)
        self.projection = nn.Conv2d(in_channels, channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + residual(x)."""
        residual = self.conv1(F.relu(self.norm1(x), inplace=True))
        residual = self.conv2(F.relu(self.norm2(residual), inplace=True))
        residual = self.conv3(F.relu(self.norm3(residual), inplace=True))
        out: Tensor = self.projection(x) + residual
        return out


class Mask(nn.Module):
    """The soft mask branch for small pictures: two more units at the bottom, maps grow by repeating pixels (r = 1).

    Takes what the trunk takes, [B, C, H, W], returns the mask [B, C, H, W].
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(Unit(channels, channels) for _ in range(depth))
        self.bottom = nn.Sequential(Unit(channels, channels), Unit(channels, channels))
        self.skip = nn.ModuleList(Unit(channels, channels) for _ in range(max(depth - 1, 1)))
        self.up = nn.ModuleList(Unit(channels, channels) for _ in range(depth))
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mask."""
        levels = [x]
        for down in self.down:
            x = down(F.max_pool2d(x, 3, stride=2, padding=1))  # half H and W
            levels.append(x)
        x = self.bottom(x)
        for level in reversed(range(1, len(levels))):
            if level <= len(self.skip):
                x = x + self.skip[level - 1](levels[level])
            x = F.interpolate(self.up[level - 1](x), size=levels[level - 1].shape[2:])  # twice H and W
        x = self.conv1(F.relu(self.norm1(x), inplace=True))
        return torch.sigmoid(self.conv2(F.relu(self.norm2(x), inplace=True)))


class AttentionModule(nn.Module):
    """Equation 3 between two units: (1 + mask) · trunk, with p = 1 and t = 2; takes and returns [B, channels, H, W]."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.before = Unit(channels, channels)
        self.trunk = nn.Sequential(Unit(channels, channels), Unit(channels, channels))
        self.mask = Mask(channels, depth)
        self.after = Unit(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighed maps."""
        x = self.before(x)
        trunk = self.trunk(x)
        weighed: Tensor = self.after((1 + self.mask(x)) * trunk)
        return weighed


class ResidualAttentionCIFAR(VisionModel):
    """Attention-56 and Attention-92 for small pictures.

    Args:
        modules: number of attention modules in each of the first three stages.
        width: channels of the stem; four times as many leave the first stage.
        num_classes: K.
        in_channels: C of the pictures; 3 in the table.

    Takes [B, C, H, W] of 16×16 pixels and more, returns logits [B, K].
    """

    smallest = 16
    input_reason = "four layers halve the picture, so that 16 pixels leave one"

    def __init__(self, modules: Sequence[int], width: int = 64, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        seen, made, stages = width, 4 * width, [Stage("stem", width, 1)]
        for number, count in enumerate((*modules, 0), 1):
            stage = nn.Sequential(Unit(seen, made, 2))
            # Three, two, one pooling, so that every mask is made at the size of the last stage.
            stage.extend(AttentionModule(made, 4 - number) for _ in range(count))
            if number == 4:
                stage.extend((Unit(made, made), Unit(made, made)))
            self.add_module(f"stage{number}", stage)
            stages.append(Stage(f"stage{number}", made, 2**number))
            seen, made = made, 2 * made
        self.stages = tuple(stages)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and stage1 … stage4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        for stage in self.stages:
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
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    elif isinstance(module, Unit):  # after its convolutions: ``apply`` takes the children first
        module.conv3.weight.data.mul_(0.25)
        if module.projection.in_channels == module.projection.out_channels:
            nn.init.dirac_(module.projection.weight)
        else:
            nn.init.kaiming_normal_(module.projection.weight, nonlinearity="linear")  # no ReLU behind it


_MODULES = {56: (1, 1, 1), 92: (1, 2, 3)}


def _variant(layers: int, parameters: int, macs: int, accuracy: float, aliases: tuple[str, ...]) -> Variant:
    return Variant(
        name=f"attention{layers}_cifar",
        model=ResidualAttentionCIFAR,
        arguments={"modules": _MODULES[layers]},
        paper=Paper(
            title="Residual Attention Network for Image Classification",
            authors="Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang",
            year=2017,
            link="https://arxiv.org/abs/1704.06904",
        ),
        input=(3, 32, 32),
        classes=100,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            accuracy={"CIFAR-100": accuracy},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs, where the mask pools the module's input every "
            "time; parameters taken from its code, whose MACs differ for that reason",
        ),
        mapping=WeightMapping(
            "the same network written apart, its masks as recursions",
            str,
            builder="proof.references.residual_attention_cifar:Attention",
            arguments={"modules": _MODULES[layers]},
        ),
        smallest=16,
        representative=layers == 56,
        aliases=aliases,
        learning=Learning(arguments={"modules": (0, 1, 0), "width": 16}, size=16, steps=120, rate=1e-3),
    )


VARIANTS = (
    _variant(56, 55_703_780, 790_765_568, 66.25, ("attention59",)),
    _variant(92, 105_445_860, 1_427_775_488, 63.48, ()),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
