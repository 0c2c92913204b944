"""Section 3 of the paper: a large network with dropout teaches a small one what it finds likely."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.augment.chain import make_chain
from danlu.core.seeds import derive_seed
from danlu.papers.depends import dependencies
from danlu.papers.kinds import Attempt, Measured
from danlu.papers.masks import Dropout
from danlu.papers.small import Augmented, Fit, count_errors, device_of, fit, logits_of, measured, pictures_of

__all__ = ["Perceptron", "errors", "soft_loss"]


class Perceptron(nn.Sequential):
    """Two hidden layers of ReLU on the pixels. Takes [B, 1, 28, 28], returns logits [B, 10]."""

    def __init__(self, hidden: int, dropout: bool) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = 784
        for place in (0.2, 0.5):
            layers += [Dropout(place)] if dropout else []
            layers += [nn.Linear(inputs, hidden), nn.ReLU()]
            inputs = hidden
        super().__init__(*layers, *([Dropout(0.5)] if dropout else []), nn.Linear(hidden, 10))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² times the divergence of the student's softened outputs [B, K] from the teacher's, a mean over B."""
    wanted = F.softmax(teacher / temperature, 1)
    found = F.log_softmax(logits / temperature, 1)
    return F.kl_div(found, wanted, reduction="batchmean") * temperature**2


def errors(attempt: Attempt, part: str, epochs: int = 60, temperature: float = 20.0) -> Measured:
    """Return how many of the test pictures one of the four networks gets wrong.

    Args:
        attempt: the seed.
        part: ``teacher``, ``student`` (on labels), ``soft`` (on the teacher's outputs) or ``without_3`` (likewise, on
            pictures of which none is a 3, its bias of class 3 raised by the paper's 3.5 afterwards).
        epochs: passes over the training pictures, for the teacher twice as many.
        temperature: of the soft targets.
    """
    device, pictures = device_of(attempt), pictures_of(attempt)
    data = Augmented(pictures.train, pictures.train_labels, make_chain(()), attempt.seed, device)
    x, test = (data.scaled(torch.from_numpy(part)) for part in (pictures.train, pictures.test))
    labels = torch.from_numpy(pictures.train_labels).to(device)
    if part == "student":
        network = _fresh(attempt, 800, dropout=False).to(device)
        fit(network, lambda _, i: (x[i], labels[i]), len(x), Fit(epochs, lr=0.05), attempt)
    else:
        network = _teacher(attempt, pictures.train, pictures.train_labels, device, 2 * epochs)
    if part in ("soft", "without_3"):
        outputs = logits_of(network, x)
        chosen = (labels != 3).nonzero().flatten() if part == "without_3" else torch.arange(len(x), device=device)
        network = _fresh(attempt, 800, dropout=False).to(device)

        def batches(epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
            rows = chosen[indices.to(device)]
            return x[rows], outputs[rows]

        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            return soft_loss(logits, targets, temperature)

        fit(network, batches, len(chosen), Fit(epochs, lr=0.02), attempt, loss=loss)
    if part == "without_3":
        with torch.no_grad():
            list(network.parameters())[-1][3] += 3.5
    wrong = count_errors(network, test, torch.from_numpy(pictures.test_labels).to(device))
    return measured(attempt, wrong, len(test), pictures.hash, epochs=epochs)


def _fresh(attempt: Attempt, hidden: int, dropout: bool) -> Perceptron:
    torch.manual_seed(derive_seed("papers/initialise", attempt.seed))
    return Perceptron(hidden, dropout)


def _teacher(
    attempt: Attempt, pictures: NDArray[np.uint8], labels: NDArray[np.int64], device: torch.device, epochs: int
) -> Perceptron:
    """Train the teacher, or read the one that another row of this seed trained with the same code."""
    network = _fresh(attempt, 1200, dropout=True).to(device)
    code = dependencies(attempt.paper, attempt.row)["code"]
    file = attempt.folder.parent.parent / f"teacher-{attempt.seed}-{epochs}-{code}.safetensors"
    if file.exists():
        network.load_state_dict(load_file(file))
        return network
    chain = make_chain(({"name": "pad_crop", "padding": 2},))
    batches = Augmented(pictures, labels, chain, attempt.seed, device)
    fit(network, batches, len(batches.pictures), Fit(epochs, batch=256, lr=0.05, momentum=0.95, max_norm=4.0), attempt)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    return network
