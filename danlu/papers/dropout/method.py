"""The ladder of permutation-invariant MNIST: fully connected networks with dropout and a limit on their weights."""

from __future__ import annotations

import torch
from torch import nn

from danlu.core.seeds import derive_seed
from danlu.papers.kinds import Attempt, Measured
from danlu.papers.masks import Dropout
from danlu.papers.small import Fit, count_errors, device_of, fit, measured, pictures_of, plain

__all__ = ["Perceptron", "ladder"]


class Perceptron(nn.Sequential):
    """``layers`` hidden layers of ``hidden`` units on the pixels; a fifth of the pixels and half the units drop out.

    Takes [B, C, H, W], returns logits [B, K].
    """

    def __init__(self, inputs: int, classes: int, hidden: int, layers: int, unit: str, dropout: bool) -> None:
        found: list[nn.Module] = [nn.Flatten()]
        if dropout:
            found.append(Dropout(0.2))
        for _ in range(layers):
            found += [nn.Linear(inputs, hidden), nn.ReLU() if unit == "relu" else nn.Sigmoid()]
            if dropout:
                found.append(Dropout(0.5))
            inputs = hidden
        super().__init__(*found, nn.Linear(inputs, classes))
        self.apply(_initialise if unit == "relu" else _initialise_glorot)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


def _initialise_glorot(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        # Four times Glorot's bound, his own advice for logistic units.
        nn.init.xavier_uniform_(module.weight, gain=4.0)
        nn.init.zeros_(module.bias)


def ladder(
    attempt: Attempt,
    hidden: int = 1024,
    layers: int = 3,
    unit: str = "relu",
    dropout: bool = True,
    max_norm: float | None = None,
    epochs: int = 120,
    batch: int = 256,
    lr: float = 0.1,
) -> Measured:
    """Return the test error of one rung."""
    device, pictures = device_of(attempt), pictures_of(attempt)
    # From 0 to 1 as in the paper: with mean 0, a background pixel that drops out would become grey.
    x, test = (torch.from_numpy(part).to(device).flatten(1) / 255.0 for part in (pictures.train, pictures.test))
    labels, truth = (torch.from_numpy(part).to(device) for part in (pictures.train_labels, pictures.test_labels))
    torch.manual_seed(derive_seed("papers/initialise", attempt.seed))
    network = Perceptron(x.shape[1], int(labels.max()) + 1, hidden, layers, unit, dropout).to(device)
    how = Fit(
        epochs=epochs, batch=batch, lr=lr, momentum=0.95, max_norm=max_norm, weight_decay=0.0 if dropout else 1e-5
    )
    fit(network, plain(x, labels), len(x), how, attempt)
    return measured(attempt, count_errors(network, test, truth), len(test), pictures.hash, epochs=epochs)
