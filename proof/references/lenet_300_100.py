"""The network 784-300-100-10 in float64, layer by layer from its matrices, under the names fc1 fc2 fc3."""

from __future__ import annotations

from torch import Tensor, nn


class MLP(nn.Module):
    """Takes [B, 1, 28, 28], returns logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        for number, (inputs, outputs) in enumerate(((784, 300), (300, 100), (100, 10)), start=1):
            self.add_module(f"fc{number}", nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        units = x.double().reshape(len(x), 784).T  # a column a picture
        for number, layer in enumerate(self.children(), start=1):
            assert isinstance(layer, nn.Linear)
            units = layer.weight.double() @ units + layer.bias.double()[:, None]
            if number < 3:
                units = units * (units > 0)
        return units.T.float()
