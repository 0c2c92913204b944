"""airbench in float64: convolutions as sums over nine shifts, GELU by the error function, the scripts' names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """One zero around; y = Σ w[:, :, u, v] x shifted by (u - 1, v - 1)."""
    b, c, h, w = x.shape
    padded = torch.zeros(b, c, h + 2, w + 2, dtype=torch.float64)
    padded[:, :, 1:-1, 1:-1] = x
    kernel = weight.double()
    shifts = [
        torch.einsum("bchw,oc->bohw", padded[:, :, u : u + h, v : v + w], kernel[:, :, u, v])
        for u in range(3)
        for v in range(3)
    ]
    return torch.stack(shifts).sum(dim=0)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def normalise(x: Tensor, norm: nn.BatchNorm2d, momentum: float) -> Tensor:
    """Batch norm with next to no epsilon."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    if norm.training:
        pixels = x.transpose(0, 1).flatten(1)  # [C, B · H · W]
        mean, count = pixels.mean(dim=1), pixels.shape[1]
        variance = ((pixels - mean[:, None]) ** 2).mean(dim=1)
        norm.running_mean.lerp_(mean.float(), momentum)
        norm.running_var.lerp_((variance * count / (count - 1)).float(), momentum)
    scale = norm.weight.double() / (variance + 1e-12).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias.double()[:, None, None]


def halve(x: Tensor) -> Tensor:
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    return torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)


class Airbench(nn.Module):
    """Takes [B, 3, 32, 32], returns logits [B, 10]; ``third``: a third convolution in each group, and a shortcut."""

    def __init__(self, widths: Sequence[int], momentum: float, third: bool) -> None:
        super().__init__()
        self.momentum, self.depth = momentum, 3 if third else 2
        self.add_module("0", nn.Conv2d(3, 24, 2))
        seen = 24
        for place, width in zip("234", widths, strict=True):
            group = nn.Module()
            for number in range(1, self.depth + 1):
                group.add_module(f"conv{number}", nn.Conv2d(seen, width, 3, bias=False))
                group.add_module(f"norm{number}", nn.BatchNorm2d(width))
                seen = width
            self.add_module(place, group)
        self.add_module("7", nn.Linear(seen, 10, bias=False))

    def step(self, x: Tensor, group: nn.Module, number: int, pooled: bool) -> Tensor:
        kernel = group.get_parameter(f"conv{number}.weight")
        norm = group.get_submodule(f"norm{number}")
        assert isinstance(norm, nn.BatchNorm2d)
        x = convolve(x, kernel)
        return normalise(halve(x) if pooled else x, norm, self.momentum)

    def forward(self, x: Tensor) -> Tensor:
        corners = x.double().unfold(2, 2, 1).unfold(3, 2, 1)  # [B, 3, 31, 31, 2, 2]
        filters, shift = self.get_parameter("0.weight").double(), self.get_parameter("0.bias").double()
        x = gelu(torch.einsum("bchwuv,ocuv->bohw", corners, filters) + shift[:, None, None])
        for place in "234":
            group = self.get_submodule(place)
            first = gelu(self.step(x, group, 1, pooled=True))
            x = self.step(first, group, 2, pooled=False)
            if self.depth == 3:
                x = self.step(gelu(x), group, 3, pooled=False) + first
            x = gelu(x)
        largest = x.flatten(2).amax(dim=2)
        return (largest @ self.get_parameter("7.weight").double().T / 9).float()
