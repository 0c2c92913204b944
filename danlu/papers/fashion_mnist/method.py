"""The small networks of the Fashion-MNIST table, and gradient histograms with a linear support vector machine."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.papers.kinds import Attempt, Measured
from danlu.papers.small import Fit, fit_and_test, measured, pictures_of

__all__ = ["convolutions", "hog", "hog_svm", "perceptron", "squared_hinge"]

_FLIP = ({"name": "flip"},)


def perceptron(attempt: Attempt, epochs: int = 30) -> Measured:
    """Return the test accuracy of hidden layers of 256, 128 and 64 units."""

    def build(channels: int, classes: int) -> nn.Module:
        sizes = (28 * 28 * channels, 256, 128, 64)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(64, classes))

    return fit_and_test(attempt, build, Fit(epochs=epochs, lr=0.05, weight_decay=1e-4))


def convolutions(attempt: Attempt, widths: tuple[int, int], hidden: tuple[int, ...], epochs: int = 20) -> Measured:
    """Return the test accuracy of two 5×5 convolutions, each with ReLU and maximum pooling, and linear layers.

    Args:
        attempt: the seed.
        widths: channels of the two convolutions.
        hidden: units of the linear layers before the last.
        epochs: passes over the training pictures.
    """

    def build(channels: int, classes: int) -> nn.Module:
        first, second = widths
        layers: list[nn.Module] = [
            *(nn.Conv2d(channels, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(first, second, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        ]
        inputs = second * 7 * 7
        for units in hidden:
            layers += [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(0.5)]
            inputs = units
        return nn.Sequential(*layers, nn.Linear(inputs, classes))

    return fit_and_test(attempt, build, Fit(epochs=epochs, lr=0.05, weight_decay=5e-4), augment=_FLIP)


def hog(pictures: Tensor, cell: int = 4, bins: int = 9, block: int = 2) -> Tensor:
    """Return histograms of oriented gradients (Dalal and Triggs 2005) of grey pictures.

    Central differences, unsigned directions in ``bins`` bins over half a turn, each gradient shared between the two
    nearest bins by its angle; blocks of ``block`` × ``block`` cells at every cell, each of length 1.

    Args:
        pictures: float32 [N, H, W] in 0 … 1; H and W are multiples of ``cell``.
        cell: side of a cell in pixels.
        bins: directions.
        block: side of a block in cells.

    Returns:
        float32 [N, blocks · block² · bins].
    """
    padded = F.pad(pictures[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    dy = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    size = torch.sqrt(dx * dx + dy * dy)
    place = torch.remainder(torch.atan2(dy, dx), math.pi) / math.pi * bins - 0.5
    low = torch.floor(place)
    share = place - low
    lower, upper = torch.remainder(low, bins).long(), torch.remainder(low + 1, bins).long()
    maps = torch.zeros(len(pictures), bins, *pictures.shape[1:], device=pictures.device)
    maps.scatter_add_(1, lower[:, None], (size * (1 - share))[:, None])
    maps.scatter_add_(1, upper[:, None], (size * share)[:, None])
    cells = F.avg_pool2d(maps, cell) * cell * cell  # [N, bins, H / cell, W / cell]
    blocks = cells.unfold(2, block, 1).unfold(3, block, 1)  # [N, bins, rows, columns, block, block]
    found = blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)  # [N, rows, columns, block² · bins]
    found = found / torch.sqrt(found.square().sum(-1, keepdim=True) + 1e-4)
    return found.flatten(1)


def hog_svm(attempt: Attempt, features: int = 4000, gamma: float = 0.06, lam: float = 1e-6) -> Measured:
    """Return the test accuracy of gradient histograms at two cell sizes and support vector machines, one a class.

    The kernel is Gaussian, in the random features of Rahimi and Recht (2007), so that training is linear; the squared
    hinge loss of all classes is solved by Newton's method, which has to end where its gradient is 0.
    """
    pictures = pictures_of(attempt)

    def describe(array: Tensor) -> Tensor:
        grey = array[..., 0].float() / 255.0
        return torch.cat([torch.cat([hog(part), hog(part, cell=7)], 1) for part in torch.split(grey, 5000)])

    x, test = describe(torch.from_numpy(pictures.train)), describe(torch.from_numpy(pictures.test))
    generator = torch.Generator().manual_seed(attempt.seed)
    directions = torch.randn(x.shape[1], features, generator=generator) * math.sqrt(2.0 * gamma)
    phases = torch.rand(features, generator=generator) * 2.0 * math.pi

    def lift(y: Tensor) -> Tensor:
        waves = torch.cos(y @ directions + phases) * math.sqrt(2.0 / features)
        return torch.cat([waves, torch.ones(len(y), 1)], 1)

    labels = torch.from_numpy(pictures.train_labels)
    weights = squared_hinge(lift(x), F.one_hot(labels).float() * 2.0 - 1.0, lam)
    errors = int(((lift(test) @ weights).argmax(1) != torch.from_numpy(pictures.test_labels)).sum())
    return measured(attempt, errors, len(test), pictures.hash, features=features)


def squared_hinge(design: Tensor, signs: Tensor, lam: float, newton: int = 8, inner: int = 25) -> Tensor:
    """Return weights [D, K] that minimise mean(max(0, 1 − y · x w)²) + λ |w|² for each of K classes.

    Newton's method on all classes at once; each step's system, that of the pictures inside the margin, is solved by
    conjugate gradients, so that no D × D matrix is made.

    Args:
        design: float32 [N, D].
        signs: ±1 [N, K].
        lam: λ, above 0.
        newton: steps.
        inner: conjugate gradients a step.
    """
    count = len(design)
    weights = torch.zeros(design.shape[1], signs.shape[1])
    for _ in range(newton):
        margins = signs * (design @ weights)
        inside = (margins < 1.0).float()
        gradient = design.T @ (inside * signs * (margins - 1.0)) / count + lam * weights
        weights = weights - _solve(design, inside, gradient, lam, inner)
    return weights


def _solve(design: Tensor, inside: Tensor, wanted: Tensor, lam: float, steps: int) -> Tensor:
    """Return x [D, K] with (Xᵀ diag(inside) X / N + λ) x = wanted, by conjugate gradients for each column."""
    x, residual = torch.zeros_like(wanted), wanted.clone()
    direction, size = residual.clone(), residual.square().sum(0)
    for _ in range(steps):
        product = design.T @ (inside * (design @ direction)) / len(design) + lam * direction
        step = size / (direction * product).sum(0).clamp_min(1e-30)
        x, residual = x + step * direction, residual - step * product
        before, size = size, residual.square().sum(0)
        direction = residual + size / before.clamp_min(1e-30) * direction
    return x
