"""LeNet-5 as its paper has it: partly connected C3, trainable sub-sampling, and an output of distances to bitmaps.

Title: Gradient-Based Learning Applied to Document Recognition
Authors: Yann LeCun, Léon Bottou, Yoshua Bengio, Patrick Haffner
Year: 1998 (Proceedings of the IEEE 86(11))
Link: https://doi.org/10.1109/5.726791
New: local receptive fields, shared weights and sub-sampling, trained end to end by back-propagation.
Table: section II-B, figure 2 and table I (layers: 156 + 12 + 1,516 + 32 + 48,120 + 10,164 = 60,000 trainable
    parameters, 340,908 connections), figure 3 (bitmaps), figure 9 (MNIST test errors).

Deviations:
- The bitmaps of the ten digits are drawn in the style of figure 3; the paper shows them and does not list their pixels.
- The logits are minus the distances of equation 7, so that the class of least distance has the largest logit.
  Cross-entropy of them is the paper's criterion, equation 9, without its constant rubbish class.
- Classes beyond ten get 84 random signs each, drawn by Python's generator seeded with the class's number. The
  paper names random codes as a way and gives bitmaps for characters only.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import scaled_tanh

__all__ = ["VARIANTS", "LeNet51998", "PartlyConnected", "SubSampling"]

# Table I: which maps of S2 each of the 16 maps of C3 sees.
C3_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# Twelve rows of seven pixels: the digits 0 to 4, then 5 to 9.
DIGITS = (
    """
    ..###.. ...#... .#####. .#####. .....#.
    .##.##. ..##... ##...## ##...## ....##.
    ##...## .###... .....## .....## ...###.
    ##...## ...#... .....## .....## ..####.
    ##...## ...#... ....##. ....##. ..#.##.
    ##...## ...#... ...##.. ..###.. .##.##.
    ##...## ...#... ..##... ....##. ##..##.
    ##...## ...#... .##.... .....## #######
    ##...## ...#... ##..... .....## ....##.
    ##...## ...#... ##..... ##...## ....##.
    .##.##. ...#... ##..... ##...## ....##.
    ..###.. .#####. ####### .#####. ....##.
    """,
    """
    ####### ..####. ####### .#####. .#####.
    ##..... .##.... ......# ##...## ##...##
    ##..... ##..... .....## ##...## ##...##
    ##..... ##..... .....#. ##...## ##...##
    ##..... ##..... ....##. .##.##. ##...##
    ######. ######. ....#.. ..###.. .######
    .....## ##...## ...##.. .##.##. .....##
    .....## ##...## ...##.. ##...## .....##
    .....## ##...## ..##... ##...## .....##
    .....## ##...## ..##... ##...## .....##
    ##...## ##...## .##.... ##...## ....##.
    .#####. .#####. .##.... .#####. .####..
    """,
)


def _codes(classes: int) -> Tensor:
    """Return the code of every class [K, 84], +1 for ink: a digit's bitmap row by row, random signs beyond the ten."""
    rows = []
    for number in range(classes):
        if number < 10:
            words = DIGITS[number // 5].split()[number % 5 :: 5]
            rows.append([1.0 if pixel == "#" else -1.0 for pixel in "".join(words)])
        else:
            bits = random.Random(number).getrandbits(84)
            rows.append([1.0 if bits >> place & 1 else -1.0 for place in range(84)])
    return torch.tensor(rows)


class SubSampling(nn.Module):
    """The sum of 2×2 pixels, times a coefficient of the map, plus a bias of the map.

    Takes [B, C, H, W], returns [B, C, H/2, W/2].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return weight · sum + bias."""
        total = x[..., 0::2, 0::2] + x[..., 0::2, 1::2] + x[..., 1::2, 0::2] + x[..., 1::2, 1::2]
        return total * self.weight[:, None, None] + self.bias[:, None, None]


class PartlyConnected(nn.Module):
    """5×5 convolutions, each of which sees only the maps its line of ``table`` names.

    One kernel for each pair of a seen and a made map, in the order of the seen maps, then a sum over what each made map
    sees. Every map is seen equally often, and lines of one length stand together, as in table I.

    Takes [B, C, H, W], returns [B, len(table), H - 4, W - 4].
    """

    def __init__(self, channels: int, table: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        pairs = [(seen, made) for seen in range(channels) for made, line in enumerate(table) if seen in line]
        self.by_made = sorted(range(len(pairs)), key=lambda number: pairs[number][1])
        self.lengths = [len(line) for line in table]
        self.kernels = nn.Conv2d(channels, len(pairs), kernel_size=5, groups=channels, bias=False)
        self.bias = nn.Parameter(torch.empty(len(table)))

    def forward(self, x: Tensor) -> Tensor:
        """Return every map computed from the maps it sees."""
        parts = self.kernels(x)[:, self.by_made]  # [B, pairs, H - 4, W - 4]
        runs = {length: length * self.lengths.count(length) for length in self.lengths}
        made = [
            run.unflatten(1, (-1, length)).sum(dim=2)  # [B, lines of this length, H - 4, W - 4]
            for length, run in zip(runs, parts.split(list(runs.values()), dim=1), strict=True)
        ]
        return torch.cat(made, dim=1) + self.bias[:, None, None]


class LeNet51998(VisionModel):
    """LeNet-5 with the layers of section II-B.

    Args:
        num_classes: K.
        in_channels: C of the pictures; 1 in the paper.

    Takes [B, C, 32, 32], returns [B, K]: minus the squared distances of F6 to the codes of the classes.
    """

    stages = (Stage("c1", 6, 1), Stage("s2", 6, 2), Stage("c3", 16, 2), Stage("s4", 16, 4))
    input_size = (32, 32)
    input_reason = "the 5×5 kernels of C5 cover the 16×5×5 maps that 32×32 pictures leave"
    codes: Tensor

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.s2 = SubSampling(6)
        self.c3 = PartlyConnected(6, C3_TABLE)
        self.s4 = SubSampling(16)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.register_buffer("codes", _codes(num_classes))
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return c1, s2, c3 and s4 for pictures [B, C, 32, 32]."""
        self.check_pictures(x)
        out = {}
        x = out["c1"] = scaled_tanh(self.c1(x))  # [B, 6, 28, 28]
        x = out["s2"] = scaled_tanh(self.s2(x))  # [B, 6, 14, 14]
        x = out["c3"] = scaled_tanh(self.c3(x))  # [B, 16, 10, 10]
        x = out["s4"] = scaled_tanh(self.s4(x))  # [B, 16, 5, 5]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for s4 [B, 16, 5, 5]."""
        x = scaled_tanh(self.c5(x)).flatten(1)  # [B, 120]
        x = scaled_tanh(self.f6(x))  # [B, 84]
        # Euclidean radial basis function units: [B, 1, 84] against [K, 84].
        return -(x[:, None] - self.codes).square().sum(dim=2)

    def reset_head(self, num_classes: int) -> None:
        """Replace the codes by those of ``num_classes`` classes; F6, which they do not depend on, stays."""
        self.codes = _codes(num_classes).to(self.codes)
        self.num_classes = num_classes


def _initialise(module: nn.Module) -> None:
    # Appendix A: uniform in ±2.4 / fan-in, biases included, where a unit of S2 and S4 has four inputs.
    if isinstance(module, PartlyConnected):
        fan_ins = [25 * length for length in module.lengths]
        by_made = iter(module.by_made)
        for bias, fan_in, length in zip(module.bias, fan_ins, module.lengths, strict=True):
            for part in (bias, *(module.kernels.weight[next(by_made)] for _ in range(length))):
                nn.init.uniform_(part, -2.4 / fan_in, 2.4 / fan_in)
    elif isinstance(module, nn.Conv2d | nn.Linear | SubSampling) and module.bias is not None:
        fan_in = 4 if isinstance(module, SubSampling) else math.prod(module.weight.shape[1:])
        for part in (module.weight, module.bias):
            nn.init.uniform_(part, -2.4 / fan_in, 2.4 / fan_in)


_RENAME = renamer(
    (r"^c1\.", "C1."),
    (r"^s(\d)\.weight", r"S\1.coefficient"),
    (r"^s(\d)\.bias", r"S\1.shift"),
    (r"^c3\.kernels\.weight", "C3.pairs"),
    (r"^c3\.", "C3."),
    (r"^c5\.", "C5."),
    (r"^f6\.", "F6."),
    (r"^codes$", "bitmaps"),
)

VARIANTS = (
    Variant(
        name="lenet5_1998",
        model=LeNet51998,
        arguments={},
        paper=Paper(
            title="Gradient-Based Learning Applied to Document Recognition",
            authors="LeCun, Bottou, Bengio, Haffner",
            year=1998,
            link="https://doi.org/10.1109/5.726791",
        ),
        input=(1, 32, 32),
        classes=10,
        parameters=60_000,
        macs=325_680,
        published=Published(
            parameters="60,000",
            accuracy={"MNIST": 99.05, "MNIST (distorted training pictures)": 99.2},
            source="section II-B (sum of its layers); figure 9 and section III-B: 0.95 % and 0.8 % test error",
        ),
        mapping=WeightMapping(
            "the 1998 LeNet-5 written apart, under the names C1 S2 C3 S4 C5 F6 bitmaps",
            _RENAME,
            builder="proof.references.lenet_1998:LeNet5",
        ),
        fixed_input=True,
        smallest=32,
        representative=True,
        learning=Learning(data="mnist", steps=160, rate=1.5e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
