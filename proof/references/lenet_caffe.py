"""Caffe's LeNet in float64: convolutions by unfolding, as Caffe computes them, under maps1 maps2 dense1 dense2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet(nn.Module):
    """Takes [B, 1, 28, 28], returns logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.maps1, self.maps2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.dense1, self.dense2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.double()
        for layer in (self.maps1, self.maps2):
            assert layer.bias is not None
            columns = F.unfold(x, 5)  # [B, C · 25, positions]
            side = x.shape[2] - 4
            x = layer.weight.double().flatten(1) @ columns + layer.bias.double()[:, None]
            x = x.reshape(len(x), -1, side // 2, 2, side // 2, 2).amax(dim=(3, 5))
        x = torch.einsum("bi,oi->bo", x.flatten(1), self.dense1.weight.double()) + self.dense1.bias.double()
        x = torch.where(x > 0, x, 0.0)
        return (torch.einsum("bi,oi->bo", x, self.dense2.weight.double()) + self.dense2.bias.double()).float()
