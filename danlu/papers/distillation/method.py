"""Section 3 of the paper: a large network with dropout teaches a small one what it finds likely."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.augment.base import Draws
from danlu.augment.chain import make_chain
from danlu.core.seeds import derive_seed
from danlu.papers.depends import dependencies
from danlu.papers.kinds import Attempt, Measured
from danlu.papers.masks import Dropout
from danlu.papers.small import Fit, count_errors, device_of, fit, logits_of, measured, pictures_of, plain

__all__ = ["Perceptron", "bias_of_3", "errors", "soft_loss"]
# Of every optimiser here; for the students the best of three on 10,000 held-out training pictures.
_RATE = 0.1


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


def errors(attempt: Attempt, part: str, epochs: int = 60, temperature: float = 20.0, hard: float = 0.9) -> Measured:
    """Return how many of the test pictures one of the four networks gets wrong.

    Args:
        attempt: the seed.
        part: ``teacher``, ``student`` (on labels), ``soft`` (on labels and the teacher's outputs) or ``without_3``
            (likewise, on pictures of which none is a 3, its bias of class 3 raised afterwards).
        epochs: passes over the training pictures, for the teacher twice as many.
        temperature: of the soft targets.
        hard: share of the labels in the loss; the rest is the distance to the teacher's outputs.
    """
    device, pictures = device_of(attempt), pictures_of(attempt)
    x, test = (_scaled(torch.from_numpy(part)).to(device) for part in (pictures.train, pictures.test))
    labels = torch.from_numpy(pictures.train_labels).to(device)
    passes, facts = epochs, {}
    if part == "student":
        network = _fresh(attempt, 800, dropout=False).to(device)
        fit(network, plain(x, labels), len(x), Fit(epochs, lr=_RATE), attempt)
    else:
        passes = 2 * epochs
        network = _teacher(attempt, pictures.train, pictures.train_labels, device, passes)
    if part in ("soft", "without_3"):
        chosen = (labels != 3).nonzero().flatten() if part == "without_3" else torch.arange(len(x), device=device)
        # One tensor of targets: the teacher's outputs, and the label behind them.
        targets = torch.cat([logits_of(network, x), labels[:, None].float()], 1)[chosen]
        network, passes = _fresh(attempt, 800, dropout=False).to(device), epochs

        def loss(logits: Tensor, wanted: Tensor) -> Tensor:
            soft = soft_loss(logits, wanted[:, :-1], temperature)
            return (1 - hard) * soft + hard * F.cross_entropy(logits, wanted[:, -1].long())

        fit(network, plain(x[chosen], targets), len(chosen), Fit(epochs, lr=_RATE), attempt, loss=loss)
    if part == "without_3":
        facts["bias"] = raised = bias_of_3(logits_of(network, x), labels)
        with torch.no_grad():
            list(network.parameters())[-1][3] += raised
    wrong = count_errors(network, test, torch.from_numpy(pictures.test_labels).to(device))
    return measured(attempt, wrong, len(test), pictures.hash, epochs=passes, **facts)


def bias_of_3(logits: Tensor, labels: Tensor) -> float:
    """Return what has to be added to class 3 for the fewest errors: logits [N, 10], labels [N]; in steps of a half."""
    raised = torch.arange(0.0, 20.5, 0.5)
    changed = logits.clone()
    wrong = []
    for more in raised.tolist():
        changed[:, 3] = logits[:, 3] + more
        wrong.append(int((changed.argmax(1) != labels).sum()))
    return float(raised[wrong.index(min(wrong))])


def _scaled(pictures: Tensor) -> Tensor:
    """Return uint8 pictures [B, H, W, 1] as [B, 1, H, W] from 0 to 1: a background pixel that drops out stays black."""
    return pictures.permute(0, 3, 1, 2).float() / 255.0


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
    chain, truth = make_chain(({"name": "pad_crop", "padding": 2},)), torch.from_numpy(labels)

    def batches(epoch: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
        indices = chosen.cpu().numpy()
        jittered = chain.batch(torch.from_numpy(pictures[indices]), Draws(attempt.seed, epoch, indices, 0)).pictures
        return _scaled(jittered).to(device), truth[chosen.cpu()].to(device)

    how = Fit(epochs, batch=256, lr=_RATE, momentum=0.95, max_norm=4.0)
    fit(network, batches, len(pictures), how, attempt)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    return network
