"""Pre-activated networks with biases and raw shortcuts in float64, under the names conv, bn, unit_1_0.c1 … linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proof.references.resnet_cifar import normalise


def convolve(x: Tensor, layer: nn.Module, stride: int = 1) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    return F.conv2d(x, layer.weight.double(), layer.bias.double(), stride, padding=layer.weight.shape[-1] // 2)


class Raw(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 100]; ``kernels`` of a block and the stride of each are all there is."""

    def __init__(self, blocks: tuple[int, ...], bottleneck: bool) -> None:
        super().__init__()
        self.blocks, self.kernels = blocks, (1, 3, 1) if bottleneck else (3, 3)
        self.conv, self.bn = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)
        seen = 64
        for stage, count in enumerate(blocks, start=1):
            width = 32 * 2**stage
            out = 4 * width if bottleneck else width
            for i in range(count):
                unit, start = nn.ModuleDict(), seen
                for j, kernel in enumerate(self.kernels, start=1):
                    to = out if j == len(self.kernels) else width
                    unit[f"n{j}"], unit[f"c{j}"] = nn.BatchNorm2d(seen), nn.Conv2d(seen, to, kernel)
                    seen = to
                if i == 0 and (stage > 1 or start != out):
                    unit["p"] = nn.Conv2d(start, out, 1)
                self.add_module(f"unit_{stage}_{i}", unit)
        self.linear = nn.Linear(seen, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = normalise(convolve(x.double(), self.conv), self.bn).clamp(min=0)
        for stage, count in enumerate(self.blocks, start=1):
            for i in range(count):
                unit = self.get_submodule(f"unit_{stage}_{i}")
                assert isinstance(unit, nn.ModuleDict)
                stride = 2 if stage > 1 and i == 0 else 1
                shortcut = convolve(x, unit["p"], stride) if "p" in unit else x
                for j in range(1, len(self.kernels) + 1):
                    norm = unit[f"n{j}"]
                    assert isinstance(norm, nn.BatchNorm2d)
                    x = convolve(normalise(x, norm).clamp(min=0), unit[f"c{j}"], stride if j == 1 else 1)
                x = x + shortcut
        x = x.mean(dim=(2, 3))
        return torch.addmm(self.linear.bias.double(), x, self.linear.weight.double().T).float()
