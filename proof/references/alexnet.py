"""AlexNet of 2012 in float64 as two towers that meet where the paper says: kernels1 … kernels5 units6 … units8."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def normalise(x: Tensor) -> Tensor:
    """a_i / (2 + 1e-4 Σ_j a_j²)^0.75 with j from i - 2 to i + 2, map by map."""
    maps = []
    for i in range(x.shape[1]):
        energy = sum(x[:, j] ** 2 for j in range(max(0, i - 2), min(x.shape[1] - 1, i + 2) + 1))
        maps.append(x[:, i] / (2 + 1e-4 * energy) ** 0.75)
    return torch.stack(maps, dim=1)


def halves(x: Tensor, layer: nn.Conv2d, padding: int) -> Tensor:
    """Each card convolves its own half."""
    assert layer.bias is not None
    cards = zip(x.chunk(2, 1), layer.weight.double().chunk(2), layer.bias.double().chunk(2), strict=True)
    return torch.cat([F.conv2d(half, weight, bias, padding=padding) for half, weight, bias in cards], dim=1)


def shrink(x: Tensor) -> Tensor:
    """Maximum of overlapping 3×3 windows, two pixels apart."""
    return x.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(4, 5))


def squares(x: Tensor, side: int) -> Tensor:
    """Mean of side × side areas whose borders are rounded outwards."""
    rows, columns = x.shape[2:]

    def borders(size: int) -> list[tuple[int, int]]:
        return [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]

    grid = [[x[:, :, a:b, c:d].mean(dim=(2, 3)) for c, d in borders(columns)] for a, b in borders(rows)]
    return torch.stack([torch.stack(line, dim=2) for line in grid], dim=2)


class AlexNet(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels1, self.kernels3 = nn.Conv2d(3, 96, 11), nn.Conv2d(256, 384, 3)
        self.kernels2, self.kernels4 = nn.Conv2d(96, 256, 5, groups=2), nn.Conv2d(384, 384, 3, groups=2)
        self.kernels5 = nn.Conv2d(384, 256, 3, groups=2)
        self.units6, self.units7, self.units8 = nn.Linear(9216, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000)

    def forward(self, x: Tensor) -> Tensor:
        one, three = self.kernels1, self.kernels3
        assert one.bias is not None
        assert three.bias is not None
        x = F.conv2d(x.double(), one.weight.double(), one.bias.double(), stride=4).clamp(min=0)
        x = halves(shrink(normalise(x)), self.kernels2, 2).clamp(min=0)
        x = shrink(normalise(x))
        x = F.conv2d(x, three.weight.double(), three.bias.double(), padding=1).clamp(min=0)
        x = halves(x, self.kernels4, 1).clamp(min=0)
        x = halves(x, self.kernels5, 1).clamp(min=0)
        x = squares(shrink(x), 6).flatten(1)
        for layer in (self.units6, self.units7):
            x = (x @ layer.weight.double().T + layer.bias.double()).clamp(min=0)
        return (x @ self.units8.weight.double().T + self.units8.bias.double()).float()
