"""SqueezeNet with simple bypass for 32×32 pictures, in float64, under the names stem fires.2 … fires.9 scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proof.references.resnet_cifar import normalise

FIRES = {2: (16, 128), 3: (16, 128), 4: (32, 256), 5: (32, 256), 6: (48, 384), 7: (48, 384), 8: (64, 512), 9: (64, 512)}


def unit(seen: int, made: int, side: int) -> nn.Sequential:
    """Holds a convolution and its batch norm; :func:`apply` computes."""
    return nn.Sequential(nn.Conv2d(seen, made, side), nn.BatchNorm2d(made))


def apply(x: Tensor, pair: nn.Module) -> Tensor:
    convolution, norm = pair.children()
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert convolution.bias is not None
    border = convolution.weight.shape[-1] // 2
    sums = F.conv2d(F.pad(x, (border,) * 4), convolution.weight.double(), convolution.bias.double())
    return normalise(sums, norm).clamp(min=0)


def halve(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).amax(dim=(3, 5))


class SqueezeNet(nn.Module):
    """Takes [B, 3, 32, 32], returns logits [B, 100]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 96, 3)
        self.fires = nn.ModuleDict()
        seen = 96
        for number, (few, many) in FIRES.items():
            parts = {"few": unit(seen, few, 1), "of1": unit(few, many // 2, 1), "of3": unit(few, many // 2, 3)}
            self.fires[str(number)] = nn.ModuleDict(parts)
            seen = many
        self.scores = nn.Conv2d(512, 100, 1)

    def fire(self, number: int, x: Tensor) -> Tensor:
        parts = self.fires[str(number)]
        few = apply(x, parts.get_submodule("few"))
        return torch.cat((apply(few, parts.get_submodule("of1")), apply(few, parts.get_submodule("of3"))), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        two = self.fire(2, halve(apply(x.double(), self.stem)))
        three = two + self.fire(3, two)
        four = halve(self.fire(4, three))
        five = four + self.fire(5, four)
        six = self.fire(6, five)
        seven = six + self.fire(7, six)
        nine = self.fire(9, halve(self.fire(8, seven)))
        assert self.scores.bias is not None
        mean = nine.mean(dim=(2, 3))  # a 1×1 convolution and a mean change places
        return (mean @ self.scores.weight.double()[:, :, 0, 0].T + self.scores.bias.double()).float()
