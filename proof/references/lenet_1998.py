"""LeNet-5 of 1998 in float64: C3 as a masked dense convolution, sub-sampling as a mean, distances from their square."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Table I of the paper as it is printed: a row a map of S2, a column a map of C3.
TABLE = """
    X . . . X X X . . X X X X . X X
    X X . . . X X X . . X X X X . X
    X X X . . . X X X . . X . X X X
    . X X X . . X X X X . . X . X X
    . . X X X . . X X X X . X X . X
    . . . X X X . . X X X X . X X X
"""


class Pool(nn.Module):
    def __init__(self, maps: int) -> None:
        super().__init__()
        self.coefficient, self.shift = nn.Parameter(torch.ones(maps)), nn.Parameter(torch.zeros(maps))


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # A kernel for every cross of the table, read line by line.
        self.pairs, self.bias = nn.Parameter(torch.zeros(60, 1, 5, 5)), nn.Parameter(torch.zeros(16))


def squash(x: Tensor) -> Tensor:
    """A tanh(S a) by exponentials, with A = 1.7159 and S = 2/3."""
    e = torch.exp(-4 / 3 * x)
    return 1.7159 * (1 - e) / (1 + e)


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    windows = x.unfold(2, 5, 1).unfold(3, 5, 1)
    return torch.einsum("bchwuv,ocuv->bohw", windows, weight) + bias[:, None, None]


def subsample(x: Tensor, layer: Pool) -> Tensor:
    b, c, h, w = x.shape
    blocks = x.reshape(b, c, h // 2, 2, w // 2, 2)
    mean = blocks.mean(dim=(3, 5))
    return torch.einsum("bchw,c->bchw", mean, 4 * layer.coefficient.double()) + layer.shift.double()[:, None, None]


class LeNet5(nn.Module):
    """Takes [B, 1, 32, 32], returns minus the distances [B, 10]."""

    bitmaps: Tensor

    def __init__(self) -> None:
        super().__init__()
        rows = [line.split() for line in TABLE.strip().splitlines()]
        self.seen_by = [[column for column in range(16) if row[column] == "X"] for row in rows]
        self.C1, self.C5, self.F6 = nn.Conv2d(1, 6, 5), nn.Conv2d(16, 120, 5), nn.Linear(120, 84)
        self.S2, self.S4 = Pool(6), Pool(16)
        self.C3 = Sparse()
        self.register_buffer("bitmaps", torch.zeros(10, 84))

    def forward(self, x: Tensor) -> Tensor:
        assert self.C1.bias is not None
        assert self.C5.bias is not None
        x = squash(convolve(x.double(), self.C1.weight.double(), self.C1.bias.double()))
        x = squash(subsample(x, self.S2))
        dense = torch.zeros(16, 6, 5, 5, dtype=torch.float64)
        crosses = [(row, column) for row in range(6) for column in range(16) if column in self.seen_by[row]]
        for (row, column), kernel in zip(crosses, self.C3.pairs.double(), strict=True):
            dense[column, row] = kernel[0]
        x = squash(convolve(x, dense, self.C3.bias.double()))
        x = squash(subsample(x, self.S4))
        x = squash(torch.einsum("bcuv,ocuv->bo", x, self.C5.weight.double()) + self.C5.bias.double())
        x = squash(x @ self.F6.weight.double().T + self.F6.bias.double())
        codes = self.bitmaps.double()
        squared = (x * x).sum(1)[:, None] - 2 * x @ codes.T + (codes * codes).sum(1)
        return -squared.float()
