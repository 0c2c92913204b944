"""GoogLeNet of 2014 in float64 as a list of layers with the names of the released Caffe model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# name: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj
MODULES = [
    ("3a", 64, 96, 128, 16, 32, 32),
    ("3b", 128, 128, 192, 32, 96, 64),
    ("4a", 192, 96, 208, 16, 48, 64),
    ("4b", 160, 112, 224, 24, 64, 64),
    ("4c", 128, 128, 256, 24, 64, 64),
    ("4d", 112, 144, 288, 32, 64, 64),
    ("4e", 256, 160, 320, 32, 128, 128),
    ("5a", 256, 160, 320, 32, 128, 128),
    ("5b", 384, 192, 384, 48, 128, 128),
]


def convolve(x: Tensor, layer: nn.Conv2d, stride: int = 1) -> Tensor:
    """Σ over taps (u, v) of a 1×1 product with the picture moved by (u, v); ReLU."""
    side = layer.weight.shape[2]
    around = side // 2
    batch, seen, height, width = x.shape
    padded = x.new_zeros(batch, seen, height + 2 * around, width + 2 * around)
    padded[:, :, around : around + height, around : around + width] = x
    rows = (height + 2 * around - side) // stride + 1
    columns = (width + 2 * around - side) // stride + 1
    weight = layer.weight.double()
    out = layer.bias.double()[None, :, None, None].expand(batch, -1, rows, columns)
    for u in range(side):
        for v in range(side):
            moved = padded[:, :, u : u + stride * rows : stride, v : v + stride * columns : stride]
            out = out + torch.einsum("bchw,oc->bohw", moved[:, :, :rows, :columns], weight[:, :, u, v])
    return out.clamp(min=0)


def maximum(x: Tensor, stride: int) -> Tensor:
    """3×3 windows; at stride 2 the last one may stand over the edge, at stride 1 they stand around each pixel."""
    height, width = x.shape[2:]
    before = 1 if stride == 1 else 0
    padded = x.new_full((*x.shape[:2], height + 3, width + 3), -torch.inf)
    padded[:, :, before : before + height, before : before + width] = x
    rows, columns = (height, width) if stride == 1 else (-(-(height - 3) // 2) + 1, -(-(width - 3) // 2) + 1)
    moved = [
        padded[:, :, u : u + stride * rows : stride, v : v + stride * columns : stride][:, :, :rows, :columns]
        for u in range(3)
        for v in range(3)
    ]
    return torch.stack(moved).amax(dim=0)


def respond(x: Tensor) -> Tensor:
    """x / (1 + 10⁻⁴/5 Σ x²)^0.75 over five neighbouring channels."""
    squares = x.pow(2)
    total = squares.clone()
    for step in (1, 2):
        total[:, step:] += squares[:, :-step]
        total[:, :-step] += squares[:, step:]
    return x / (1 + 1e-4 / 5 * total).pow(0.75)


class GoogLeNet2014(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 1000], in train mode with ``auxiliary`` three of them."""

    def __init__(self, auxiliary: bool) -> None:
        super().__init__()
        self.auxiliary = auxiliary
        self.conv1_7x7_s2 = nn.Conv2d(3, 64, 7)
        self.conv2_3x3_reduce = nn.Conv2d(64, 64, 1)
        self.conv2_3x3 = nn.Conv2d(64, 192, 3)
        seen = 192
        for name, one, reduce3, three, reduce5, five, pool in MODULES:
            for kind, into, out, side in (
                ("1x1", seen, one, 1),
                ("3x3_reduce", seen, reduce3, 1),
                ("3x3", reduce3, three, 3),
                ("5x5_reduce", seen, reduce5, 1),
                ("5x5", reduce5, five, 5),
                ("pool_proj", seen, pool, 1),
            ):
                self.add_module(f"inception_{name}_{kind}", nn.Conv2d(into, out, side))
            seen = one + three + five + pool
        for number, width in ((1, 512), (2, 528)) if auxiliary else ():
            self.add_module(f"loss{number}_conv", nn.Conv2d(width, 128, 1))
            self.add_module(f"loss{number}_fc", nn.Linear(2048, 1024))
            self.add_module(f"loss{number}_classifier", nn.Linear(1024, 1000))
        self.loss3_classifier = nn.Linear(1024, 1000)

    def side(self, x: Tensor, number: int) -> Tensor:
        """Logits of auxiliary head 1 or 2."""
        conv, fc, last = (self.get_submodule(f"loss{number}_{kind}") for kind in ("conv", "fc", "classifier"))
        if x.shape[2] < 14:  # a small map: each of 14×14 pixels is the mean of those it covers
            x = bins(bins(x, 2, 14), 3, 14)
        x = torch.stack([x[:, :, i : i + 5, j : j + 5].mean(dim=(2, 3)) for i in (0, 3, 6, 9) for j in (0, 3, 6, 9)], 2)
        x = convolve(x.reshape(*x.shape[:2], 4, 4), conv).reshape(len(x), 2048)
        x = (x @ fc.weight.double().T + fc.bias.double()).clamp(min=0)
        return (x @ last.weight.double().T + last.bias.double()).float()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = respond(maximum(convolve(x.double(), self.conv1_7x7_s2, 2), 2))
        x = maximum(respond(convolve(convolve(x, self.conv2_3x3_reduce), self.conv2_3x3)), 2)
        sides = []
        for name, *_ in MODULES:
            if name in ("4a", "5a"):
                x = maximum(x, 2)
            one, reduce3, three, reduce5, five, pool = (
                self.get_submodule(f"inception_{name}_{kind}")
                for kind in ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
            )
            branches = [convolve(x, one), convolve(convolve(x, reduce3), three)]
            branches += [convolve(convolve(x, reduce5), five), convolve(maximum(x, 1), pool)]
            x = torch.cat(branches, dim=1)
            if self.auxiliary and self.training and name in ("4a", "4d"):
                sides.append(self.side(x, len(sides) + 1))
        last = self.loss3_classifier
        logits = (x.mean(dim=(2, 3)) @ last.weight.double().T + last.bias.double()).float()
        return (logits, *sides) if sides else logits


def bins(x: Tensor, axis: int, parts: int) -> Tensor:
    """Means of ``parts`` overlapping bins along one axis."""
    size = x.shape[axis]
    means = [x.narrow(axis, i * size // parts, -(-(i + 1) * size // parts) - i * size // parts) for i in range(parts)]
    return torch.stack([one.mean(dim=axis) for one in means], dim=axis)
