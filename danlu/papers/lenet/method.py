"""The simple classifiers of the MNIST table: linear, nearest neighbours, principal components with a quadratic form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.papers.kinds import Attempt, Measured
from danlu.papers.small import Fit, Pictures, count_errors, device_of, fit, measured, pictures_of, plain

__all__ = ["deskew", "knn", "linear", "nearest", "quadratic"]


def deskew(pictures: Tensor, batch: int = 5000) -> Tensor:
    """Slant pictures upright: shear each so that its second moments no longer covary, and centre it.

    Args:
        pictures: grey, float32 [N, H, W], 0 is background.
        batch: pictures at a time.

    Returns:
        pictures of the same shape, resampled bilinearly.
    """
    _, height, width = pictures.shape
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    y, x = y.to(pictures.device), x.to(pictures.device)
    parts = []
    for part in torch.split(pictures, batch):
        mass = part.sum((1, 2)).clamp_min(1e-6)
        mean_y, mean_x = (part * y).sum((1, 2)) / mass, (part * x).sum((1, 2)) / mass
        dy, dx = y - mean_y[:, None, None], x - mean_x[:, None, None]
        slope = (part * dy * dx).sum((1, 2)) / (part * dy * dy).sum((1, 2)).clamp_min(1e-6)
        # Row y of the result is taken from x shifted by slope · (y − middle), about the picture's own centre.
        row = y[None] - (height - 1) / 2
        source_y = row + mean_y[:, None, None]
        source_x = x[None] - (width - 1) / 2 + mean_x[:, None, None] + slope[:, None, None] * row
        grid = torch.stack([2 * source_x / (width - 1) - 1, 2 * source_y / (height - 1) - 1], dim=-1)
        parts.append(F.grid_sample(part[:, None], grid, align_corners=True)[:, 0])
    return torch.cat(parts)


def _flat(pictures: Pictures, device: torch.device, upright: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training pictures [N, 784] in 0 … 1, labels, test pictures and labels."""
    found = []
    for array in (pictures.train, pictures.test):
        grey = torch.from_numpy(array[..., 0]).to(device).float() / 255.0
        found.append((deskew(grey) if upright else grey).flatten(1))
    labels = [torch.from_numpy(array).to(device) for array in (pictures.train_labels, pictures.test_labels)]
    return found[0], labels[0], found[1], labels[1]


class _OneLayer(nn.Module):
    """Ten sums of weighted pixels, as the paper has it: 7,850 free parameters for 28×28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(28 * 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        sums: Tensor = self.output(x)
        return sums


def _squared_behind_sigmoid(sums: Tensor, labels: Tensor) -> Tensor:
    wanted = F.one_hot(labels, sums.shape[1]).float()
    return (torch.sigmoid(sums) - wanted).square().sum(1).mean()


def linear(attempt: Attempt, loss: str = "squared", upright: bool = False) -> Measured:
    """Return the test error of the linear classifier.

    ``squared`` is the least-squares solution for targets ±1; ``sigmoid`` minimises the squared error behind a sigmoid
    by gradient descent, ``softmax`` the cross-entropy: the same 7,850 parameters under three losses.
    """
    device = device_of(attempt)
    pictures = pictures_of(attempt)
    x, labels, test, test_labels = _flat(pictures, device, upright)
    if loss in ("sigmoid", "softmax"):
        network = _OneLayer().to(device)
        nn.init.zeros_(network.output.weight)
        how = Fit(epochs=20, lr=0.05 if loss == "softmax" else 0.5, half=False)
        criterion = F.cross_entropy if loss == "softmax" else _squared_behind_sigmoid
        fit(network, plain(x, labels), len(x), how, attempt, loss=criterion)
        errors = count_errors(network, test, test_labels)
    else:
        x1 = torch.cat([x, torch.ones(len(x), 1, device=device)], 1).double()
        targets = 2.0 * F.one_hot(labels, 10).double() - 1.0
        # Pixels that are never inked leave the system singular: the least ridge that mends it.
        ridge = 1e-3 * torch.eye(x1.shape[1], device=device, dtype=torch.double)
        weights = torch.linalg.solve(x1.T @ x1 + ridge, x1.T @ targets)
        sums = torch.cat([test, torch.ones(len(test), 1, device=device)], 1).double() @ weights
        errors = int((sums.argmax(1) != test_labels).sum())
    return measured(attempt, errors, len(test), pictures.hash)


def knn(attempt: Attempt, neighbours: int = 3, upright: bool = False) -> Measured:
    """Return the test error of the nearest neighbours by Euclidean distance; the nearest decides a tie."""
    device = device_of(attempt)
    pictures = pictures_of(attempt)
    x, labels, test, test_labels = _flat(pictures, device, upright)
    errors = int((nearest(x, labels, test, neighbours) != test_labels).sum())
    return measured(attempt, errors, len(test), pictures.hash)


def nearest(x: Tensor, labels: Tensor, test: Tensor, neighbours: int, batch: int = 500) -> Tensor:
    """Return the class of each test row [M, D] by the ``neighbours`` nearest of ``x`` [N, D]; ties go to the nearest.

    Distances come from one matrix product: |a − b|² = |a|² − 2 a·b + |b|².
    """
    classes = int(labels.max()) + 1
    squares = x.square().sum(1)
    found = []
    for part in torch.split(test, batch):
        distances = squares - 2.0 * (part @ x.T)
        order = distances.topk(neighbours, largest=False).indices
        votes = F.one_hot(labels[order], classes).float()  # [B, k, K]
        # A weight that falls a little with the rank decides ties and nothing else.
        rank = 1.0 - torch.arange(neighbours, device=x.device) / (10.0 * neighbours**2)
        found.append((votes * rank[None, :, None]).sum(1).argmax(1))
    return torch.cat(found)


def quadratic(attempt: Attempt, components: int = 40) -> Measured:
    """Return the test error of a quadratic form on principal components: linear least squares on their products."""
    device = device_of(attempt)
    pictures = pictures_of(attempt)
    x, labels, test, test_labels = _flat(pictures, device, upright=False)
    mean = x.mean(0)
    _, directions = torch.linalg.eigh(torch.cov(x.T))
    basis = directions[:, -components:]
    rows, columns = torch.triu_indices(components, components, device=str(device))

    def expand(y: Tensor) -> Tensor:
        z = (y - mean) @ basis
        return torch.cat([torch.ones(len(z), 1, device=device), z, z[:, rows] * z[:, columns]], 1).double()

    design = expand(x)
    targets = 2.0 * F.one_hot(labels, 10).double() - 1.0
    ridge = 1e-3 * torch.eye(design.shape[1], device=device, dtype=torch.double)
    weights = torch.linalg.solve(design.T @ design + ridge, design.T @ targets)
    errors = int(((expand(test) @ weights).argmax(1) != test_labels).sum())
    return measured(attempt, errors, len(test), pictures.hash)
