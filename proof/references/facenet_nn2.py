"""FaceNet NN2 in float64: the cells of table 2 as named layers, convolutions as products with unfolded windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# type: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pooling, p, as printed
ROWS = """
3a   64  96 128 16  32 m   32
3b   64  96 128 32  64 L2  64
3c    0 128 256 32  64 m    0
4a  256  96 192 32  64 L2 128
4b  224 112 224 32  64 L2 128
4c  192 128 256 32  64 L2 128
4d  160 144 288 32  64 L2 128
4e    0 160 256 64 128 m    0
5a  384 192 384 48 128 L2 128
5b  384 192 384 48 128 m  128
"""


def windows(x: Tensor, side: int, stride: int, fill: float = 0.0) -> tuple[Tensor, int, int]:
    """[B, C, side², rows · columns] with half a window of ``fill`` around the map, and rows, columns."""
    half = side // 2
    x = F.pad(x, (half, half, half, half), value=fill)
    rows, columns = ((size - side) // stride + 1 for size in x.shape[2:])
    cut = x.unfold(2, side, stride).unfold(3, side, stride)
    return cut.permute(0, 1, 4, 5, 2, 3).reshape(*x.shape[:2], side * side, rows * columns), rows, columns


def convolve(x: Tensor, layer: nn.Conv2d, stride: int = 1) -> Tensor:
    """Convolution and ReLU."""
    cut, rows, columns = windows(x, layer.weight.shape[2], stride)
    out = torch.einsum("bckn,ock->bon", cut, layer.weight.double().flatten(2)) + layer.bias.double()[:, None]
    return out.clamp(min=0).reshape(len(x), -1, rows, columns)


def pool(x: Tensor, kind: str, stride: int = 1) -> Tensor:
    """3×3 windows: "m" their maximum, "L2" their norm."""
    cut, rows, columns = windows(x, 3, stride, -torch.inf if kind == "m" else 0.0)
    out = cut.amax(dim=2) if kind == "m" else cut.pow(2).sum(dim=2).add(1e-12).sqrt()
    return out.reshape(*x.shape[:2], rows, columns)


def norm(x: Tensor) -> Tensor:
    """x / (1 + 10⁻⁴/5 Σ x²)^0.75 over five neighbouring channels."""
    around = F.pad(x.pow(2), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(dim=-1)
    return x / (1 + 1e-4 / 5 * around).pow(0.75)


class NN2(nn.Module):
    """Takes [B, 3, H, W], returns embeddings [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7)
        self.add_module("2_reduce", nn.Conv2d(64, 64, 1))
        self.add_module("2_conv3", nn.Conv2d(64, 192, 3))
        self.rows, seen = [], 192
        for line in ROWS.strip().splitlines():
            name, *cells = line.split()
            kind = cells.pop(5)
            one, reduce3, three, reduce5, five, proj = map(int, cells)
            if one:
                self.add_module(f"{name}_conv1", nn.Conv2d(seen, one, 1))
                self.add_module(f"{name}_proj", nn.Conv2d(seen, proj, 1))
            self.add_module(f"{name}_reduce3", nn.Conv2d(seen, reduce3, 1))
            self.add_module(f"{name}_conv3", nn.Conv2d(reduce3, three, 3))
            self.add_module(f"{name}_reduce5", nn.Conv2d(seen, reduce5, 1))
            self.add_module(f"{name}_conv5", nn.Conv2d(reduce5, five, 5))
            self.rows.append((name, kind, bool(one)))
            seen = three + five + (one + proj if one else seen)
        self.fc = nn.Linear(1024, 128)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.get_submodule
        x = norm(pool(convolve(x.double(), self.conv1, 2), "m", 2))
        x = pool(norm(convolve(convolve(x, layer("2_reduce")), layer("2_conv3"))), "m", 2)
        for name, kind, flat in self.rows:
            stride = 1 if flat else 2
            three = convolve(convolve(x, layer(f"{name}_reduce3")), layer(f"{name}_conv3"), stride)
            five = convolve(convolve(x, layer(f"{name}_reduce5")), layer(f"{name}_conv5"), stride)
            pooled = pool(x, kind, stride)
            if flat:
                pooled = convolve(pooled, layer(f"{name}_proj"))
                x = torch.cat([convolve(x, layer(f"{name}_conv1")), three, five, pooled], dim=1)
            else:
                x = torch.cat([three, five, pooled], dim=1)
        x = x.mean(dim=(2, 3)) @ self.fc.weight.double().T + self.fc.bias.double()
        return (x / x.norm(dim=1, keepdim=True)).float()
