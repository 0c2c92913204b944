"""The residual attention network for small pictures as plain functions, its masks as recursions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def active(x: Tensor, norm: nn.Module) -> Tensor:
    assert isinstance(norm, nn.BatchNorm2d)
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training)
    return x.clamp(min=0)


def convolve(x: Tensor, conv: nn.Module) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)


def preactivated(x: Tensor, weights: nn.Module, layers: int) -> Tensor:
    """BN, ReLU, convolution, ``layers`` times."""
    for number in range(1, layers + 1):
        x = convolve(active(x, weights.get_submodule(f"norm{number}")), weights.get_submodule(f"conv{number}"))
    return x


def unit(x: Tensor, weights: nn.Module) -> Tensor:
    return preactivated(x, weights, 3) + convolve(x, weights.get_submodule("projection"))


def hourglass(x: Tensor, mask: nn.Module, level: int) -> Tensor:
    """What the mask makes of the maps ``x`` of one level, at their size."""
    down, up, skip = (list(mask.get_submodule(name).children()) for name in ("down", "up", "skip"))
    small = unit(F.max_pool2d(x, 3, 2, 1), down[level])
    if level + 1 < len(down):
        inner = hourglass(small, mask, level + 1)
    else:
        inner = small
        for bottom in mask.get_submodule("bottom").children():
            inner = unit(inner, bottom)
    if level < len(skip):
        inner = inner + unit(small, skip[level])
    grown = unit(inner, up[level])
    rows = torch.arange(x.shape[2]) * grown.shape[2] // x.shape[2]
    columns = torch.arange(x.shape[3]) * grown.shape[3] // x.shape[3]
    return grown[:, :, rows][:, :, :, columns]


def attention(x: Tensor, weights: nn.Module) -> Tensor:
    x = unit(x, weights.get_submodule("before"))
    trunk = unit(unit(x, weights.get_submodule("trunk.0")), weights.get_submodule("trunk.1"))
    mask = weights.get_submodule("mask")
    soft = torch.sigmoid(preactivated(hourglass(x, mask, 0), mask, 2))
    return unit((1 + soft) * trunk, weights.get_submodule("after"))


def layer_pair(number: int, seen: int, made: int, kernel: int, stride: int = 1) -> Iterator[tuple[str, nn.Module]]:
    yield f"norm{number}", nn.BatchNorm2d(seen)
    yield f"conv{number}", nn.Conv2d(seen, made, kernel, stride, kernel // 2)


def weights_of_unit(seen: int, made: int, stride: int = 1) -> nn.ModuleDict:
    pairs = (
        *layer_pair(1, seen, made // 4, 1, stride),
        *layer_pair(2, made // 4, made // 4, 3),
        *layer_pair(3, made // 4, made, 1),
    )
    return nn.ModuleDict({**dict(pairs), "projection": nn.Conv2d(seen, made, 1, stride)})


def weights_of_attention(channels: int, depth: int) -> nn.ModuleDict:
    def units(count: int) -> nn.ModuleList:
        return nn.ModuleList(weights_of_unit(channels, channels) for _ in range(count))

    mask = nn.ModuleDict(
        [
            ("down", units(depth)),
            ("bottom", units(2)),
            ("skip", units({3: 2, 2: 1, 1: 1}[depth])),
            ("up", units(depth)),
            *layer_pair(1, channels, channels, 1),
            *layer_pair(2, channels, channels, 1),
        ]
    )
    one = weights_of_unit
    return nn.ModuleDict(
        [("before", one(channels, channels)), ("trunk", units(2)), ("mask", mask), ("after", one(channels, channels))]
    )


class Attention(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 100]."""

    def __init__(self, modules: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1), nn.BatchNorm2d(64))
        for stage, count in enumerate((*modules, 2), 1):
            made = 128 << stage
            parts = [weights_of_unit(made // 2 if stage > 1 else 64, made, 2)]
            for _ in range(count):
                parts.append(weights_of_attention(made, 4 - stage) if stage < 4 else weights_of_unit(made, made))
            self.add_module(f"stage{stage}", nn.Sequential(*parts))
        self.classifier = nn.Linear(2048, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = active(convolve(x, self.stem[0]), self.stem[1])
        for stage in (1, 2, 3, 4):
            for part in self.get_submodule(f"stage{stage}").children():
                x = (attention if "mask" in dict(part.named_children()) else unit)(x, part)
        return F.linear(x.mean(dim=(2, 3)), self.classifier.weight, self.classifier.bias)
