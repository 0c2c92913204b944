"""The SE-ResNet for small pictures as plain functions, under the names pre stage1.0.residual excitation … linear.

In float32 and by torch's own kernels: with random statistics the maps of 50 blocks grow so far that a gate jumps
between 0 and 1 where another order of summation changes a sign.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def convolve(x: Tensor, conv: nn.Module) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)


def normalise(x: Tensor, norm: nn.Module) -> Tensor:
    assert isinstance(norm, nn.BatchNorm2d)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training)


def layers(x: Tensor, sequence: nn.Module, *, relu: bool) -> Tensor:
    """Convolution and norm, in turns; the places 2, 5, … of the names are the ReLUs'."""
    parts = [part for part in sequence.children() if not isinstance(part, nn.ReLU)]
    for conv, norm in zip(parts[::2], parts[1::2], strict=True):
        x = normalise(convolve(x, conv), norm)
        x = x.clamp(min=0) if relu else x
    return x


def excite(x: Tensor, excitation: nn.Module) -> Tensor:
    """σ(W2 max(0, W1 z + b1) + b2) times the maps, z their means."""
    z = x.mean(dim=(2, 3), keepdim=True)
    z = convolve(z, excitation.get_submodule("0")).clamp(min=0)
    return x * torch.sigmoid(convolve(z, excitation.get_submodule("2")))


class Block(nn.Module):
    """Holds the weights of one block; :meth:`SEResNet.forward` computes."""

    def __init__(self, seen: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        made = 4 * width if bottleneck else width
        shapes = [(width, 3, stride), (width, 3, 1)]
        if bottleneck:
            shapes = [(width, 1, 1), (width, 3, stride), (made, 1, 1)]
        parts: list[nn.Module] = []
        before = seen
        for channels, kernel, step in shapes:
            parts += [nn.Conv2d(before, channels, kernel, step, kernel // 2), nn.BatchNorm2d(channels), nn.ReLU()]
            before = channels
        self.residual = nn.Sequential(*parts)
        self.excitation = nn.Sequential(nn.Conv2d(made, made // 16, 1), nn.ReLU(), nn.Conv2d(made // 16, made, 1))
        self.shortcut = nn.Sequential()
        if stride == 2 or seen != made:
            self.shortcut = nn.Sequential(nn.Conv2d(seen, made, 1, stride), nn.BatchNorm2d(made))


class SEResNet(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 100]."""

    def __init__(self, depths: tuple[int, ...], bottleneck: bool) -> None:
        super().__init__()
        self.pre = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU())
        seen = 64
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                blocks.append(Block(seen, 64 << stage, 2 if stage and not index else 1, bottleneck))
                seen = (64 << stage) * (4 if bottleneck else 1)
            self.add_module(f"stage{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(seen, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = layers(x, self.pre, relu=True)
        for stage in (1, 2, 3, 4):
            for block in self.get_submodule(f"stage{stage}").children():
                assert isinstance(block, Block)
                gated = excite(layers(x, block.residual, relu=True), block.excitation)
                x = (layers(x, block.shortcut, relu=False) + gated).clamp(min=0)
        return F.linear(x.mean(dim=(2, 3)), self.linear.weight, self.linear.bias)
