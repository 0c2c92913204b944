"""Residual Attention Network: pre-activation residual units whose maps are weighed by masks from an hourglass.

Title: Residual Attention Network for Image Classification
Authors: Fei Wang, Mengqing Jiang, Chen Qian, Shuo Yang, Cheng Li, Honggang Zhang, Xiaogang Wang, Xiaoou Tang
Year: 2017 (CVPR 2017)
Link: https://arxiv.org/abs/1704.06904
New: a branch that shrinks and grows the maps again gives a mask M, and the trunk's maps T become (1 + M) · T, so that
  modules can be stacked without fading.
Table: table 2 (architecture), table 6 (ImageNet errors), from memory: 31.9 M and 51.3 M parameters, 6.2 and 10.4
  GFLOPs. The widespread form, which pytorchcv has too, counts 31.8 M and 52.5 M, 6.27 G and 10.53 G, and is built here.

Deviations:
- The trunk's maps are added to the mask before its last convolutions, and a skip inside the mask adds the maps
  themselves to what its residual unit makes of them, as in the widespread form; figures 2 and 3 show neither.
- Weights start as He et al. 2015 propose, uniformly, but the last convolution of each unit at zero, so that a fresh
  network's maps do not grow with its depth; the paper does not say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "AttentionModule", "Mask", "ResidualAttention", "Unit"]


class Unit(nn.Module):
    """Pre-activation bottleneck: [B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        inner = channels // 4
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.projection: nn.Conv2d | None = None
        if stride != 1 or in_channels != channels:
            self.projection = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + residual(x)."""
        active = F.relu(self.norm1(x), inplace=True)
        shortcut = x if self.projection is None else self.projection(active)
        residual = self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True))
        residual = self.conv3(F.relu(self.norm3(residual), inplace=True))
        out: Tensor = shortcut + residual
        return out


class Mask(nn.Module):
    """The soft mask branch: ``depth`` poolings down, as many steps up, two 1×1 convolutions, a sigmoid (r = 1).

    Takes the module's input and the trunk's maps, both [B, C, H, W], returns the mask [B, C, H, W].
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(Unit(channels, channels) for _ in range(depth))
        self.skip = nn.ModuleList(Unit(channels, channels) for _ in range(depth - 1))
        self.up = nn.ModuleList(Unit(channels, channels) for _ in range(depth))
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, trunk: Tensor) -> Tensor:
        """Return the mask."""
        levels = [x]
        for down in self.down:
            x = down(F.max_pool2d(x, 3, stride=2, padding=1))  # half H and W
            levels.append(x)
        for level in reversed(range(len(self.up))):
            size = levels[level].shape[2:]
            x = F.interpolate(self.up[level](x), size=size, mode="bilinear", align_corners=True)  # twice H and W
            if level > 0:
                x = x + (levels[level] + self.skip[level - 1](levels[level]))
        x = self.conv1(F.relu(self.norm1(x + trunk), inplace=True))
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
        weighed: Tensor = self.after((1 + self.mask(x, trunk)) * trunk)
        return weighed


class ResidualAttention(VisionModel):
    """Attention-56 and Attention-92.

    Args:
        modules: number of attention modules in each of the first three stages.
        width: channels of the stem; four times as many leave the first stage.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "five layers halve the picture, so that 32 pixels leave one"

    def __init__(self, modules: Sequence[int], width: int = 64, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        seen, made, stages = width, 4 * width, [Stage("stem", width, 4)]
        for number, count in enumerate((*modules, 0), 1):
            stage = nn.Sequential(Unit(seen, made, 1 if number == 1 else 2))
            # Three, two, one pooling, so that every mask is made at the size of the last stage.
            stage.extend(AttentionModule(made, 4 - number) for _ in range(count))
            if number == 4:
                stage.extend((Unit(made, made), Unit(made, made)))
            self.add_module(f"stage{number}", stage)
            stages.append(Stage(f"stage{number}", made, 2 ** (number + 1)))
            seen, made = made, 2 * made
        self.stages = tuple(stages)
        self.final_norm = nn.BatchNorm2d(seen)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and stage1 … stage4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)  # [B, 64, H/2, W/2]
        x = out["stem"] = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, 64, H/4, W/4]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, channels, H/stride, W/stride]
        out["stage4"] = F.relu(self.final_norm(x), inplace=True)
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
    elif isinstance(module, Unit):  # after its convolutions: ``apply`` takes the children first
        nn.init.zeros_(module.conv3.weight)


_PYTORCHCV = renamer(
    (r"^stem_conv\.", "features.init_block.conv.conv."),
    (r"^stem_norm\.", "features.init_block.conv.bn."),
    (r"^final_norm\.", "features.post_activ.bn."),
    (r"^classifier\.", "output."),
    (r"(?<!\.mask)\.(norm|conv)(\d)\.", r".body.\1\2."),
    (r"\.mask\.(norm|conv)(\d)\.", r".middle_block.\1\2."),
    (r"\.norm(\d)\.", r".conv\1.bn."),
    (r"\.conv(\d)\.weight$", r".conv\1.conv.weight"),
    (r"\.projection\.", ".identity_conv."),
    (r"\.before\.", ".init_blocks.blocks.block1."),
    (r"\.trunk\.(\d)\.", r".hg.skip_seq.skip1.blocks.block\1."),
    (r"\.mask\.(up|down)\.(\d)\.", r".hg.\1_seq.\1\2.res_blocks.blocks.block1."),
    (r"\.after\.", ".final_block."),
    (r"^stage(\d)\.(\d)\.", r"features.stage\1.unit\2."),
)


def _rename(name: str) -> str:
    # pytorchcv counts from 1, and its first skip is the trunk.
    name = re.sub(r"\.(\d)(?=\.)", lambda found: f".{int(found[1]) + 1}", name)
    name = re.sub(r"\.mask\.skip\.(\d)", lambda found: f".hg.skip_seq.skip{int(found[1]) + 1}.skip1", name)
    return _PYTORCHCV(name)


_MODULES = {56: (1, 1, 1), 92: (1, 2, 3)}


def _variant(layers: int, parameters: int, macs: int, accuracy: float) -> Variant:
    return Variant(
        name=f"attention{layers}",
        model=ResidualAttention,
        arguments={"modules": _MODULES[layers]},
        paper=Paper(
            title="Residual Attention Network for Image Classification",
            authors="Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang",
            year=2017,
            link="https://arxiv.org/abs/1704.06904",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            accuracy={"ImageNet-1K": accuracy},
            source=f"pytorchcv 0.0.74 resattnet{layers}, counted; accuracy: table 6 of the paper, from memory, "
            "100 % minus the error",
            unverified=("accuracy",),
        ),
        mapping=WeightMapping(
            f"pytorchcv resattnet{layers}, its last pooling over any size",
            _rename,
            builder="proof.references.residual_attention:resattnet",
            arguments={"layers": layers},
        ),
        smallest=32,
        representative=layers == 56,
        check_input=(3, 64, 64),
        aliases=(f"resattnet{layers}",),
        learning=Learning(arguments={"modules": (0, 1, 0), "width": 16}, size=32, steps=160, rate=2e-3),
    )


VARIANTS = (
    _variant(56, 31_810_728, 6_270_836_736, 78.24),
    _variant(92, 52_466_344, 10_533_789_696, 80.5),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
