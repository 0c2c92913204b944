"""The wide residual network with biases and raw shortcuts in float64, under the names stem, group1.0.bn1 … fc."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proof.references.resnet_cifar import normalise


def convolve(x: Tensor, layer: nn.Conv2d, stride: int = 1) -> Tensor:
    assert layer.bias is not None
    return F.conv2d(x, layer.weight.double(), layer.bias.double(), stride, padding=layer.weight.shape[-1] // 2)


class Weights(nn.Module):
    """The layers of one block; those of a shortcut where the channels change."""

    def __init__(self, seen: int, channels: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(seen), nn.BatchNorm2d(channels)
        self.conv1, self.conv2 = nn.Conv2d(seen, channels, 3), nn.Conv2d(channels, channels, 3)
        if seen != channels:
            self.shortcut = nn.Conv2d(seen, channels, 1)


class Biased(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 100]; dropout is left out."""

    def __init__(self, blocks: int, widen: int) -> None:
        super().__init__()
        self.stem, seen = nn.Conv2d(3, 16, 3), 16
        for group in (1, 2, 3):
            channels = 8 * 2**group * widen
            layers = [Weights(seen if i == 0 else channels, channels) for i in range(blocks)]
            self.add_module(f"group{group}", nn.Sequential(*layers))
            seen = channels
        self.bn, self.fc = nn.BatchNorm2d(seen), nn.Linear(seen, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = convolve(x.double(), self.stem)
        for group in (1, 2, 3):
            for i, block in enumerate(self.get_submodule(f"group{group}").children()):
                assert isinstance(block, Weights)
                stride = 2 if group > 1 and i == 0 else 1
                out = convolve(normalise(x, block.bn1).clamp(min=0), block.conv1, stride)
                out = convolve(normalise(out, block.bn2).clamp(min=0), block.conv2)
                x = out + (convolve(x, block.shortcut, stride) if i == 0 else x)
        x = normalise(x, self.bn).clamp(min=0).mean(dim=(2, 3))
        return torch.addmm(self.fc.bias.double(), x, self.fc.weight.double().T).float()
