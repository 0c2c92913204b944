"""The 110-layer network with blocks of any order, read off figure 4 as little programs, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proof.references.resnet_cifar import convolve, normalise

# c: convolution, n: batch norm, r: ReLU, @: from here the shortcut starts (at the block's input else), +: it ends.
ORDERS = {
    "bn_after_add": "c1 n1 r c2 + n2 r",
    "relu_before_add": "c1 n1 r c2 n2 r +",
    "relu_only": "r c1 n1 r c2 n2 +",
    "full": "n1 r c1 n2 r c2 +",
}
FIRST = {**ORDERS, "full": "n1 r @ c1 n2 r c2 +"}


class Ordered(nn.Module):
    """Takes [B, 3, H, W], returns logits [B, 10]."""

    def __init__(self, order: str, blocks: int) -> None:
        super().__init__()
        self.order, self.blocks = order, blocks
        self.conv, self.bn = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(64 if order == "full" else 16)
        for stage, channels in ((1, 16), (2, 32), (3, 64)):
            for i in range(blocks):
                seen = channels // 2 if stage > 1 and i == 0 else channels
                unit = nn.ModuleDict(
                    {
                        "c1": nn.Conv2d(seen, channels, 3, bias=False),
                        "n1": nn.BatchNorm2d(seen if order == "full" else channels),
                        "c2": nn.Conv2d(channels, channels, 3, bias=False),
                        "n2": nn.BatchNorm2d(channels),
                    }
                )
                self.add_module(f"unit_{stage}_{i}", unit)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = convolve(x.double(), self.conv.weight, 1)
        if self.order != "full":
            x = normalise(x, self.bn).clamp(min=0)
        for stage in (1, 2, 3):
            for i in range(self.blocks):
                program = (FIRST if i == 0 else ORDERS)[self.order]
                x = run(program, self.get_submodule(f"unit_{stage}_{i}"), x, 2 if stage > 1 and i == 0 else 1)
        if self.order == "full":
            x = normalise(x, self.bn)
        x = x.clamp(min=0).mean(dim=(2, 3))
        return torch.addmm(self.linear.bias.double(), x, self.linear.weight.double().T).float()


def run(program: str, unit: nn.Module, x: Tensor, stride: int) -> Tensor:
    kept = x
    for word in program.split():
        if word == "r":
            x = x.clamp(min=0)
        elif word == "@":
            kept = x
        elif word == "+":
            kept = kept[:, :, ::stride, ::stride]
            zeros = x.new_zeros(len(x), (x.shape[1] - kept.shape[1]) // 2, *x.shape[2:])
            x = x + torch.cat([zeros, kept, zeros], dim=1)
        elif word[0] == "n":
            norm = unit.get_submodule(word)
            assert isinstance(norm, nn.BatchNorm2d)
            x = normalise(x, norm)
        else:
            weight = unit.get_parameter(f"{word}.weight")
            x = convolve(x, weight, stride if word == "c1" else 1)
    return x
