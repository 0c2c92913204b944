"""NASNet-A: two small cells, found by search on CIFAR-10, stacked and widened as far as the pictures ask for.

Title: Learning Transferable Architectures for Scalable Image Recognition
Authors: Barret Zoph, Vijay Vasudevan, Jonathon Shlens, Quoc V. Le
Year: 2017 (CVPR 2018)
Link: https://arxiv.org/abs/1707.07012
New: what is searched for is a cell, not a network, so that a cell found on small pictures serves large ones.
Table: figure 4 (the cells), table 2 (accuracy, parameters, multiply-adds). For mobile, the README of pytorchcv has
  0.585 G multiply-adds, since it counts other operations in and pixels that it computes and cuts off. The CIFAR-100
  form is that of weiaicunzai/pytorch-cifar100: of its 5,221,624 parameters 887,568 are in layers that its forward never
  reads, 25,432 are biases that the batch norm after them takes out again; the other 4,308,624 stand here.

Deviations:
- No auxiliary head and no scheduled drop path: both help training only.
- h_(i-1) of another size passes two shifted 1×1 convolutions of stride 2, as in the authors' program.
- Averages leave the padding out at every size, as TensorFlow does; timm's count it at stride 2.
- Weights start as He et al. 2015 propose, the classifier at a deviation of 0.01; the paper does not say.
- `nasnet_a_mobile_cifar` has the cells of the paper, padded as on ImageNet. The table's program, whose accuracy is
  shown, has h_i for h_(i-1) in the third sum, pads evenly, counts padding in averages, and orders the sums otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import SameConv2d, SameMaxPool2d, same_padding

__all__ = ["VARIANTS", "NASNetA", "NormalCell", "ReductionCell", "Separable", "Shrink", "Squeeze"]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Squeeze(nn.Module):
    """ReLU, 1×1 convolution, batch norm: [B, in_channels, H, W] -> [B, channels, H, W]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the narrower maps."""
        out: Tensor = self.norm(self.conv(F.relu(x)))
        return out


class Shrink(nn.Module):
    """Halves H and W: two 1×1 convolutions of stride 2, one pixel apart so that together they see more.

    [B, in_channels, H, W] -> [B, channels, ceil(H / 2), ceil(W / 2)].
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.path1 = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.path2 = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.path_norm = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return both paths, the even pixels' channels first."""
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        out: Tensor = self.path_norm(torch.cat([self.path1(x[:, :, ::2, ::2]), self.path2(shifted)], dim=1))
        return out


class Separable(nn.Module):
    """Twice ReLU, k×k convolution of each channel, 1×1 convolution, batch norm; the stride is the first one's.

    [B, in_channels, H, W] -> [B, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        kind = nn.Conv2d if stride == 1 else SameConv2d  # which finds its padding itself
        self.depthwise1 = kind(in_channels, in_channels, kernel, stride, kernel // 2, groups=in_channels, bias=False)
        self.pointwise1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = _norm(channels)
        self.depthwise2 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.pointwise2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps after the second batch norm."""
        x = self.norm1(self.pointwise1(self.depthwise1(F.relu(x))))
        out: Tensor = self.norm2(self.pointwise2(self.depthwise2(F.relu(x, inplace=True))))
        return out


def _average(x: Tensor, stride: int = 1) -> Tensor:
    """Return means over 3×3, padded as TensorFlow's SAME, of the pixels that are there."""
    before = [same_padding(size, 3, stride)[0] for size in x.shape[2:]]
    # At even sizes SAME pads behind only: rounding up takes in that window.
    return F.avg_pool2d(x, 3, stride, before, ceil_mode=True, count_include_pad=False)


class NormalCell(nn.Module):
    """The left half of figure 4: five sums of two, joined with h_(i-1): [B, ·, H, W] -> [B, 6 · channels, H, W].

    Args:
        previous: brings h_(i-1) to ``channels`` and to the size of h_i.
        in_channels: of h_i.
        channels: of every branch.
    """

    def __init__(self, previous: nn.Module, in_channels: int, channels: int) -> None:
        super().__init__()
        self.previous, self.current = previous, Squeeze(in_channels, channels)
        self.left0, self.right0 = Separable(channels, channels, 5), Separable(channels, channels, 3)
        self.left1, self.right1 = Separable(channels, channels, 5), Separable(channels, channels, 3)
        self.left4 = Separable(channels, channels, 3)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Return the cell's output for h_i and h_(i-1)."""
        h, p = self.current(current), self.previous(previous)  # [B, channels, H, W] both
        sum0 = self.left0(h) + self.right0(p)
        sum1 = self.left1(p) + self.right1(p)
        sum2 = _average(h) + p
        sum3 = _average(p) + _average(p)
        sum4 = self.left4(h) + h
        return torch.cat([p, sum0, sum1, sum2, sum3, sum4], dim=1)


class ReductionCell(nn.Module):
    """The right half of figure 4: [B, ·, H, W] -> [B, 4 · channels, ceil(H / 2), ceil(W / 2)].

    Args:
        previous: brings h_(i-1) to ``previous_channels`` and to the size of h_i.
        in_channels: of h_i.
        channels: of every branch.
        previous_channels: as many as ``channels`` when not given.
    """

    def __init__(
        self, previous: nn.Module, in_channels: int, channels: int, previous_channels: int | None = None
    ) -> None:
        super().__init__()
        seen = previous_channels or channels
        self.previous, self.current = previous, Squeeze(in_channels, channels)
        self.left0, self.right0 = Separable(channels, channels, 5, 2), Separable(seen, channels, 7, 2)
        self.right1, self.right2 = Separable(seen, channels, 7, 2), Separable(seen, channels, 5, 2)
        self.left4 = Separable(channels, channels, 3)
        self.pool = SameMaxPool2d(3, stride=2)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Return the cell's output for h_i and h_(i-1)."""
        h, p = self.current(current), self.previous(previous)  # [B, channels, H, W] both
        largest = self.pool(h)  # [B, channels, H/2, W/2], as all that follows
        sum0 = self.left0(h) + self.right0(p)
        sum1 = largest + self.right1(p)
        sum2 = _average(h, stride=2) + self.right2(p)
        sum3 = _average(sum0) + sum1
        sum4 = self.left4(sum0) + largest
        return torch.cat([sum1, sum2, sum3, sum4], dim=1)


class NASNetA(VisionModel):
    """NASNet-A: a stem, three stacks of normal cells, and a reduction cell before the second and the third.

    Args:
        cells: N, the normal cells of a stack.
        channels: of the first stack's branches; the paper's name of the network is "N @ 24 · channels".
        stem_channels: of the first convolution.
        stem_cells: 2 reduction cells after a convolution of stride 2, or 0 after one of stride 1, for small pictures.
        skip: whether a stack's first normal cell has the h_(i-1) of the reduction cell before it, not its h_i.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32 pixels and more, without stem cells of 4, returns logits [B, K].
    """

    input_reason = "the strides multiply to that number, and leave one pixel of the last map"

    def __init__(
        self,
        cells: int,
        channels: int,
        stem_channels: int,
        stem_cells: int = 2,
        skip: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.skip = in_channels, num_classes, skip
        stride = 2 if stem_cells else 1
        # At stride 2 the convolution takes no padding: 224 pixels become 111.
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_channels, 3, stride, padding=2 - stride, bias=False), _norm(stem_channels)
        )
        stages = [Stage("stem", stem_channels, stride)]
        self.body = nn.ModuleDict()
        before = now = (stem_channels, stride)  # channels and strides of h_(i-1) and h_i
        for name, widths in _plan(cells, channels, stem_cells):
            stack = nn.ModuleList()
            for index, width in enumerate(widths):
                reduces = index == 0 and name != "stack1"
                if name == "stem_cell0":  # h_(i-1) is h_i, as it is
                    stack.append(ReductionCell(nn.Identity(), stem_channels, width, stem_channels))
                else:
                    previous = _adjust(before, now, width)
                    stack.append((ReductionCell if reduces else NormalCell)(previous, now[0], width))
                before = before if skip and reduces and name.startswith("stack") else now
                now = (4 * width, 2 * now[1]) if reduces else (6 * width, now[1])
            self.body[name] = stack
            stages.append(Stage(name, *now))
        self.stages, self.smallest = tuple(stages), now[1]
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(now[0], num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, the stem cells and stack1 … stack3 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        now = before = out["stem"] = self.stem(x)  # [B, stem, H/2, W/2]
        for name, stack in self.body.items():
            for cell in stack.children():
                keep = self.skip and isinstance(cell, ReductionCell) and name.startswith("stack")
                now, before = cell(now, before), before if keep else now
            out[name] = now  # at last [B, 24 · channels, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stack3 [B, 24 · channels, H/32, W/32]."""
        x = F.relu(x).mean(dim=(2, 3))  # [B, 24 · channels]
        logits: Tensor = self.classifier(self.dropout(x))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _plan(cells: int, channels: int, stem_cells: int) -> list[tuple[str, list[int]]]:
    """Return name and widths of the cells of each stage; all but stack1 begin with a reduction cell."""
    stem = [(f"stem_cell{i}", [channels // 2 ** (stem_cells - i)]) for i in range(stem_cells)]
    later = [(f"stack{i}", [2 ** (i - 1) * channels] * (cells + 1)) for i in (2, 3)]
    return [*stem, ("stack1", [channels] * cells), *later]


def _adjust(before: tuple[int, int], now: tuple[int, int], channels: int) -> nn.Module:
    """Return what brings h_(i-1) to ``channels`` and to the size of h_i; each is (channels, stride)."""
    if before[1] != now[1]:
        return Shrink(before[0], channels)
    return nn.Identity() if before[0] == channels else Squeeze(before[0], channels)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


_TIMM = renamer(
    (r"^body\.stem_cell(\d)\.0\.", r"cell_stem_\1."),
    (r"^stem\.0\.", "conv0.conv."),
    (r"^stem\.1\.", "conv0.bn."),
    (r"\.current\.", ".conv_1x1."),
    (r"\.previous\.path(\d)\.", r".path_\1.conv."),
    (r"\.previous\.path_norm\.", ".final_path_bn."),
    (r"\.previous\.", ".conv_prev_1x1."),
    (r"\.(left|right)(\d)\.", r".comb_iter_\2_\1."),
    (r"\.(depthwise|pointwise)(\d)\.", r".separable_\2.\1_conv2d."),
    (r"\.norm(\d)\.", r".bn_sep_\1."),
    (r"\.norm\.", ".bn."),
    (r"^classifier\.", "last_linear."),
)
_PYTORCHCV = renamer(
    (r"^body\.stem_cell0\.0\.", "features.stem1_unit."),
    (r"^body\.stem_cell1\.0\.", "features.stem2_unit."),
    (r"^stem\.0\.", "features.init_block.conv."),
    (r"^stem\.1\.", "features.init_block.bn."),
    (r"\.current\.", ".conv1x1."),
    (r"\.previous\.path(\d)\.", r".path.path\1.conv."),
    (r"\.previous\.path_norm\.", ".path.bn."),
    (r"\.previous\.", ".conv1x1_prev."),
    (r"\.(left|right)(\d)\.", r".comb\2_\1."),
    (r"\.depthwise(\d)\.", r".conv\1.conv.dw_conv."),
    (r"\.pointwise(\d)\.", r".conv\1.conv.pw_conv."),
    (r"\.norm(\d)\.", r".conv\1.bn."),
    (r"\.norm\.", ".bn."),
    (r"^classifier\.", "output.fc."),
)


def _rename_timm(cells: int) -> Callable[[str], str]:
    """timm numbers the normal cells through and the reduction cells apart."""

    def number(found: re.Match[str]) -> str:
        stack, index = int(found[1]), int(found[2])
        normal = f"cell_{(stack - 1) * cells + index - (stack > 1)}."
        return f"reduction_cell_{stack - 2}." if stack > 1 and index == 0 else normal

    return lambda name: _TIMM(re.sub(r"^body\.stack(\d)\.(\d+)\.", number, name))


def _rename_cv(name: str) -> str:
    """pytorchcv counts the cells of a stack from one."""
    unit = re.sub(r"^body\.stack(\d)\.(\d+)\.", lambda f: f"features.stage{f[1]}.unit{int(f[2]) + 1}.", name)
    return _PYTORCHCV(unit)


_PAPER = Paper(
    title="Learning Transferable Architectures for Scalable Image Recognition",
    authors="Zoph, Vasudevan, Shlens, Le",
    year=2017,
    link="https://arxiv.org/abs/1707.07012",
)

_LEARNING = Learning(arguments={"cells": 1, "channels": 16, "stem_channels": 8}, rate=2e-3)

VARIANTS = (
    Variant(
        name="nasnet_a_mobile",
        model=NASNetA,
        arguments={"cells": 4, "channels": 44, "stem_channels": 32},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=5_289_978,
        macs=563_638_816,
        published=Published(
            "5,289,978",
            "564 M",
            {"ImageNet-1K": 74.0},
            "parameters: README of pytorchcv 0.0.74; others: table 2, quoted by megvii-model/ShuffleNet-Series",
        ),
        mapping=WeightMapping("pytorchcv nasnet_4a1056", _rename_cv, builder="pytorchcv.models.nasnet:nasnet_4a1056"),
        smallest=32,
        aliases=("nasnet",),
        representative=True,
        learning=_LEARNING,
    ),
    Variant(
        name="nasnet_a_large",
        model=NASNetA,
        arguments={"cells": 6, "channels": 168, "stem_channels": 96, "skip": True},
        paper=_PAPER,
        input=(3, 331, 331),
        classes=1000,
        parameters=88_753_150,
        macs=23_783_414_658,
        published=Published(
            "88,753,150", "23.7834 G", {"ImageNet-1K": 82.7}, "counts: timm 1.0.31; accuracy: table 2", ("accuracy",)
        ),
        mapping=WeightMapping(
            "timm nasnetalarge with averages that leave the padding out",
            _rename_timm(6),
            builder="proof.references.nasnet:nasnet_large",
            tolerance=1e-4,
            reason="40 layers deep, batch norm of few pixels amplifies rounding; in float64 the two differ by 2e-13",
        ),
        smallest=32,
        representative=True,
        check_input=(3, 128, 128),
        learning=_LEARNING,
    ),
    Variant(
        name="nasnet_a_mobile_cifar",
        model=NASNetA,
        arguments={"cells": 4, "channels": 44, "stem_channels": 44, "stem_cells": 0},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=4_308_624,
        macs=657_224_832,
        published=Published(
            "none published",
            "657.2 M",
            {"CIFAR-100": 77.29},
            "README of weiaicunzai/pytorch-cifar100, 200 epochs; multiply-adds of its program",
        ),
        mapping=WeightMapping(
            "timm's cells put together for 32×32 pictures",
            _rename_timm(4),
            builder="proof.references.nasnet:nasnet_cifar",
        ),
        smallest=4,
        representative=True,
        learning=Learning(arguments={"cells": 1, "channels": 16, "stem_channels": 16}, size=12, rate=2e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
