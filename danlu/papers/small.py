"""What the method rows share: all pictures as arrays, and a short training loop for networks that are in no zoo."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.augment.base import Draws
from danlu.augment.chain import Chain, make_chain
from danlu.core.log import progress
from danlu.core.seeds import derive_seed
from danlu.papers.kinds import Attempt, Measured, figure_of
from danlu.train.precision import choose_device, choose_precision

__all__ = [
    "Augmented",
    "Fit",
    "Pictures",
    "count_errors",
    "device_of",
    "fit",
    "fit_and_test",
    "logits_of",
    "measured",
    "pictures_of",
    "plain",
]


@dataclass(frozen=True)
class Pictures:
    """A data set in two parts.

    ``train`` and ``test`` are uint8 [N, H, W, C], the labels int64 [N]; ``hash`` is the data hash. Nothing is kept for
    validation: nothing is chosen by it.
    """

    train: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    hash: str


def pictures_of(attempt: Attempt) -> Pictures:
    """Return all training and test pictures of the row's data set, in the data set's own order.

    Raises:
        NotRunnable: the data set is not on this machine.
    """
    data = attempt.data()
    parts: list[Any] = [data.train, data.validation, data.test]
    order = np.argsort([_place(name) for part in parts[:2] for name in part.ids], kind="stable")
    pictures = np.concatenate([part.pictures for part in parts[:2]])[order]
    labels = np.concatenate([part.labels for part in parts[:2]])[order]
    test: NDArray[np.uint8] = np.asarray(parts[2].pictures)
    return Pictures(pictures, labels.astype(np.int64), test, parts[2].labels.astype(np.int64), data.hash)


def _place(name: str) -> int:
    digits = "".join(letter for letter in name if letter.isdigit())
    return int(digits or 0)


@dataclass(frozen=True)
class Fit:
    """How :func:`fit` trains: SGD with Nesterov momentum, or Adam, on a cosine from ``lr`` down to nothing.

    Attributes:
        epochs: passes over the training pictures.
        batch: pictures a step.
        lr: peak learning rate, after a warm-up over one twentieth of the steps.
        momentum: of SGD; None takes Adam.
        weight_decay: on weights, not on biases and norms.
        max_norm: largest norm of the incoming weights of a unit of a linear layer (Srivastava et al. 2014).
        schedule: ``cosine``; ``constant``, without a warm-up; ``step``: a tenth at 1/2 and 3/4, without one either.
        half: whether convolutions and products are done in bfloat16 where the processor or GPU has it.
    """

    epochs: int
    batch: int = 128
    lr: float = 0.1
    momentum: float | None = 0.9
    weight_decay: float = 0.0
    max_norm: float | None = None
    schedule: str = "cosine"
    half: bool = True


@dataclass(frozen=True)
class Augmented:
    """Batches of pictures [B, C, H, W] with mean 0 and deviation 1, augmented as a recipe would, and what they show.

    Attributes:
        pictures: uint8 [N, H, W, C].
        labels: int64 [N].
        chain: the augmentations.
        seed: of their draws.
        device: where batches go.
        smoothing: share of the target spread over all classes.
    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    chain: Chain
    seed: int
    device: torch.device
    smoothing: float = 0.0

    def __call__(self, epoch: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures [B, C, H, W] and targets [B, K] that sum to 1."""
        indices = chosen.cpu().numpy()
        scene = self.chain.batch(torch.from_numpy(self.pictures[indices]), Draws(self.seed, epoch, indices, 0))
        targets = F.one_hot(torch.from_numpy(self.labels[indices]), int(self.labels.max()) + 1).float()
        if self.smoothing:
            targets = targets * (1 - self.smoothing) + self.smoothing / targets.shape[1]
        if scene.mix is not None:
            partner = torch.as_tensor(scene.mix.partner)
            share = torch.as_tensor(scene.mix.share).float().reshape(-1, 1)
            targets = share * targets + (1.0 - share) * targets[partner]
        return self.scaled(scene.pictures), targets.to(self.device)

    def scaled(self, pictures: Tensor) -> Tensor:
        """Return uint8 pictures [B, H, W, C] as the network takes them."""
        mean, std = self._figures
        x = pictures.to(self.device).permute(0, 3, 1, 2).float() / 255.0
        return (x - mean.to(self.device)) / std.to(self.device)

    @cached_property
    def _figures(self) -> tuple[Tensor, Tensor]:
        flat = self.pictures.reshape(-1, self.pictures.shape[3])
        mean, std = flat.mean(0) / 255.0, flat.std(0) / 255.0
        return tuple(torch.from_numpy(v).float()[None, :, None, None] for v in (mean, std))  # type: ignore[return-value]


Batches = Callable[[int, Tensor], tuple[Tensor, Tensor]]


def plain(x: Tensor, labels: Tensor) -> Batches:
    """Return batches of what lies in memory as it is: rows of ``x`` [N, …] and their ``labels`` [N]."""
    return lambda epoch, chosen: (x[chosen], labels[chosen])


def fit(
    network: nn.Module,
    batches: Batches,
    count: int,
    how: Fit,
    attempt: Attempt,
    after_epoch: Callable[[int, float], bool] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> None:
    """Train ``network``.

    Args:
        network: on the device, initialised.
        batches: (epoch, indices [B]) -> what the network takes, and labels [B] or targets [B, K]; on the device.
        count: pictures.
        how: see :class:`Fit`.
        attempt: gives seed and deadline.
        after_epoch: is called with the epoch's number and its mean training accuracy; True ends the training.
        loss: (logits float32 [B, K], what ``batches`` gave) -> the loss.

    Raises:
        OutOfTime: the budget is spent; this training begins anew then.
    """
    generator = torch.Generator().manual_seed(derive_seed("papers/order", attempt.seed))
    torch.manual_seed(derive_seed("papers/noise", attempt.seed))
    optimizer = _optimizer(network, how)
    steps = count // how.batch
    total = steps * how.epochs
    with progress(f"{attempt.row.id}, seed {attempt.seed}", total, "steps") as advance:
        for epoch in range(how.epochs):
            attempt.check_time()
            network.train()
            order = torch.randperm(count, generator=generator)
            right = 0
            for step in range(steps):
                _set_rate(optimizer, how, epoch * steps + step, total)
                x, targets = batches(epoch, order[step * how.batch : (step + 1) * how.batch])
                with _cast(x.device, how.half):
                    logits = network(x)
                value = loss(logits.float(), targets)
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if how.max_norm is not None:
                    _constrain(network, how.max_norm)
                shown = targets if targets.dim() == 1 else targets.argmax(1)
                right += int((logits.argmax(1) == shown).sum())
                advance(epoch * steps + step + 1, "")
            if after_epoch is not None and after_epoch(epoch, right / (steps * how.batch)):
                return


def _optimizer(network: nn.Module, how: Fit) -> torch.optim.Optimizer:
    weights = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if how.momentum is None:
        return torch.optim.Adam(groups, lr=how.lr)
    return torch.optim.SGD(groups, lr=how.lr, momentum=how.momentum, nesterov=how.momentum > 0)


def _cast(device: torch.device, half: bool = True) -> Any:
    if not half or choose_precision("auto", device)[0] != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _set_rate(optimizer: torch.optim.Optimizer, how: Fit, step: int, total: int) -> None:
    rate = how.lr
    if how.schedule == "cosine":
        rate *= min(1.0, (step + 1) / max(1, total // 20)) * 0.5 * (1.0 + math.cos(math.pi * step / total))
    elif how.schedule == "step":
        rate *= 0.1 ** sum(step >= total * share for share in (0.5, 0.75))
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def _constrain(network: nn.Module, largest: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            norms = module.weight.norm(dim=1, keepdim=True)
            module.weight.mul_((largest / norms.clamp_min(largest)).clamp_max(1.0))


@torch.no_grad()
def logits_of(network: nn.Module, pictures: Tensor, batch: int = 500) -> Tensor:
    """Return logits float32 [N, K] in eval mode."""
    network.eval()
    parts = []
    for begin in range(0, len(pictures), batch):
        with _cast(pictures.device):
            parts.append(network(pictures[begin : begin + batch]).float())
    return torch.cat(parts)


def count_errors(network: nn.Module, pictures: Tensor, labels: Tensor) -> int:
    """Return how many pictures are classified wrongly."""
    return int((logits_of(network, pictures).argmax(1) != labels).sum())


def measured(attempt: Attempt, errors: int, count: int, data_hash: str, **facts: Any) -> Measured:
    """Return what a seed gave, in the row's metric."""
    return Measured(figure_of(attempt.row.metric, 1.0 - errors / count, count), data_hash, facts or None)


def device_of(attempt: Attempt) -> torch.device:
    """Return the device an attempt runs on, its threads set."""
    if attempt.threads is not None:
        torch.set_num_threads(attempt.threads)
    return choose_device(attempt.device)


def fit_and_test(
    attempt: Attempt,
    build: Callable[[int, int], nn.Module],
    how: Fit,
    augment: Sequence[Mapping[str, Any]] = (),
    smoothing: float = 0.0,
) -> Measured:
    """Train a network of the paper's folder on all training pictures and return its test figure.

    Args:
        attempt: of a row with a data set.
        build: (channels of the pictures, classes) -> the network; its draws are seeded.
        how: see :class:`Fit`.
        augment: augmentations as a recipe lists them.
        smoothing: share of the target spread over all classes.
    """
    device, pictures = device_of(attempt), pictures_of(attempt)
    torch.manual_seed(derive_seed("papers/initialise", attempt.seed))
    network = build(pictures.train.shape[3], int(pictures.train_labels.max()) + 1).to(device)
    chain = make_chain(tuple(dict(one) for one in augment))
    batches = Augmented(pictures.train, pictures.train_labels, chain, attempt.seed, device, smoothing)
    fit(network, batches, len(pictures.train), how, attempt)
    labels = torch.from_numpy(pictures.test_labels).to(device)
    errors = count_errors(network, batches.scaled(torch.from_numpy(pictures.test)), labels)
    parameters = sum(p.numel() for p in network.parameters())
    return measured(attempt, errors, len(labels), pictures.hash, epochs=how.epochs, parameters=parameters)
