"""The VGG-like network without normalisation that learns from He's initialisation and not from Glorot's."""

from __future__ import annotations

import torch
from torch import nn

from danlu.augment.chain import make_chain
from danlu.core.seeds import derive_seed
from danlu.papers.kinds import Attempt, Measured
from danlu.papers.small import Augmented, Fit, device_of, fit, pictures_of

__all__ = ["build_vgg16", "learns"]

_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def build_vgg16(channels: int, classes: int, initialisation: str) -> nn.Module:
    """Return thirteen 3×3 convolutions with five poolings and one linear layer: 14.7 M parameters, no normalisation.

    ``initialisation`` is ``glorot`` or ``he``, both uniform, biases at 0.
    """
    layers: list[nn.Module] = []
    for width in _WIDTHS:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if initialisation == "glorot":
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all of them have one
    return network


def learns(
    attempt: Attempt, initialisation: str, epochs: int = 50, lr: float = 0.01, pictures: int = 50_000
) -> Measured:
    """Return 1 if the training accuracy of an epoch reaches 30 %, three times that of guessing, and 0 if none does."""
    device, data = device_of(attempt), pictures_of(attempt)
    torch.manual_seed(derive_seed("papers/initialise", attempt.seed))
    network = build_vgg16(3, 10, initialisation).to(device)
    batches = Augmented(data.train[:pictures], data.train_labels[:pictures], make_chain(()), attempt.seed, device)
    seen: list[float] = []

    def watch(epoch: int, accuracy: float) -> bool:
        seen.append(accuracy)
        return accuracy >= 0.3

    how = Fit(epochs, batch=64, lr=lr, schedule="constant")
    fit(network, batches, len(batches.pictures), how, attempt, watch)
    return Measured(float(max(seen) >= 0.3), data.hash, {"epochs": len(seen), "train_accuracy": round(max(seen), 4)})
