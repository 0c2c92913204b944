"""The modern LeNet-5, as sums over windows in float64, under the names conv1 conv2 fc1 fc2 fc3."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet5(nn.Module):
    """Takes [B, 1, 32, 32], returns logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.double()
        for layer in (self.conv1, self.conv2):
            windows = x.unfold(2, 5, 1).unfold(3, 5, 1)  # [B, C, H - 4, W - 4, 5, 5]
            assert layer.bias is not None
            x = torch.einsum("bchwuv,ocuv->bohw", windows, layer.weight.double()) + layer.bias.double()[:, None, None]
            x = x.clamp(min=0)
            x = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)
        x = x.reshape(len(x), 400)
        x = (x @ self.fc1.weight.double().T + self.fc1.bias.double()).clamp(min=0)
        x = (x @ self.fc2.weight.double().T + self.fc2.bias.double()).clamp(min=0)
        return (x @ self.fc3.weight.double().T + self.fc3.bias.double()).float()
