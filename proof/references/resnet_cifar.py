"""The residual network of section 4.2 in float64, under the names conv1 bn1 layer1.0.conv1 … linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """3×3 with one zero around: y[o, i, j] = Σ w[o, c, u, v] x[c, s i + u - 1, s j + v - 1]."""
    padded = torch.zeros(len(x), x.shape[1], x.shape[2] + 2, x.shape[3] + 2, dtype=torch.float64)
    padded[:, :, 1:-1, 1:-1] = x
    windows = padded.unfold(2, 3, stride).unfold(3, 3, stride)
    return torch.einsum("bchwuv,ocuv->bohw", windows, weight.double())


def normalise(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch norm from its definition; in train mode the running statistics move by a tenth."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    if norm.training:
        mean = x.mean(dim=(0, 2, 3))
        variance = x.var(dim=(0, 2, 3), unbiased=False)
        count = x.numel() / x.shape[1]
        norm.running_mean.mul_(0.9).add_(0.1 * mean)
        norm.running_var.mul_(0.9).add_(0.1 * variance * count / (count - 1))
    shape = (-1, 1, 1)
    scaled = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return scaled * norm.weight.double().view(shape) + norm.bias.double().view(shape)


class Block(nn.Module):
    """Holds the weights of one block; :meth:`ResNet.forward` computes."""

    def __init__(self, seen: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(seen, channels, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)


class ResNet(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 10]; ``blocks`` is n of 6n + 2 layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        seen = 16
        for number, channels in ((1, 16), (2, 32), (3, 64)):
            layer = nn.Sequential(*(Block(seen if i == 0 else channels, channels) for i in range(blocks)))
            self.add_module(f"layer{number}", layer)
            seen = channels
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = normalise(convolve(x, self.conv1.weight, 1), self.bn1).clamp(min=0)
        for number in (1, 2, 3):
            for i, block in enumerate(self.get_submodule(f"layer{number}").children()):
                stride = 2 if number > 1 and i == 0 else 1
                assert isinstance(block, Block)
                out = normalise(convolve(x, block.conv1.weight, stride), block.bn1).clamp(min=0)
                out = normalise(convolve(out, block.conv2.weight, 1), block.bn2)
                shortcut = x[:, :, ::stride, ::stride]
                missing = (out.shape[1] - x.shape[1]) // 2
                zeros = torch.zeros(len(x), missing, *shortcut.shape[2:], dtype=torch.float64)
                x = (out + torch.cat([zeros, shortcut, zeros], dim=1)).clamp(min=0)
        return (x.mean(dim=(2, 3)) @ self.linear.weight.double().T + self.linear.bias.double()).float()
