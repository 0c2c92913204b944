"""Train a network again while it is compressed: the pieces of danlu/train in a loop without checkpoints.

Augmentation, order, batches, gradients and optimisers are those of a training; what a method adds are hooks: another
loss, an addition to the loss, a call after each step. Weights that are functions of other parameters (quantised,
shared, masked) are put in by ``torch.nn.utils.parametrize`` before, so that the optimiser moves those parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from danlu.augment.chain import make_chain
from danlu.compress.base import Subject
from danlu.core import seeds
from danlu.core.environment import usable_cores
from danlu.core.errors import CheckFailed
from danlu.core.log import progress
from danlu.core.records import RunFolder
from danlu.data.loader import Loader
from danlu.data.sample import Dataset
from danlu.tasks.classification import Batch, Classification
from danlu.tasks.preprocess import PictureModel, Preprocess
from danlu.train.batches import Split, epoch_parts, make_batch
from danlu.train.checkpoint import Checkpoints
from danlu.train.loop import Training
from danlu.train.optimizers import make_optimizer
from danlu.train.precision import LossScaler, choose_precision
from danlu.train.schedule import learning_rate
from danlu.train.settings import TrainConfig, TransferSettings
from danlu.train.state import Tally

__all__ = ["Hooks", "retrain", "validate"]

Loss = Callable[[nn.Module, Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Hooks:
    """What a method adds to training.

    Attributes:
        loss: ``(model, batch) -> figures`` in place of the task's: ``loss`` is minimised, the others are those of
            :meth:`danlu.tasks.classification.Classification.loss_of`. ``model`` takes ``batch.pictures``.
        penalty: returns what is added to the loss of each step.
        after_step: ``(step, steps)``, called when the optimiser has moved the weights; ``step`` counts from 1.
        after_epoch: ``(epoch, train figures)``; may validate.
    """

    loss: Loss | None = None
    penalty: Callable[[], Tensor] | None = None
    after_step: Callable[[int, int], None] | None = None
    after_epoch: Callable[[int, dict[str, float]], None] | None = None


class _Task(Classification):
    """The subject's task with a method's loss."""

    def __init__(self, task: Classification, hooks: Hooks) -> None:
        super().__init__(task.classes, task.label_smoothing, task.loss_settings, task.weights)
        self.hooks = hooks

    def loss(self, model: nn.Module, batch: Batch, draw: object = None) -> dict[str, Tensor]:
        """Return the task's figures, with the method's loss."""
        own = self.hooks.loss
        figures = super().loss(model, batch, draw) if own is None else own(model, batch)
        if self.hooks.penalty is not None:
            figures["loss"] = figures["loss"] + self.hooks.penalty()
        return figures


def retrain(
    subject: Subject,
    model: nn.Module,
    settings: TrainConfig,
    *,
    title: str = "retrain",
    hooks: Hooks | None = None,
) -> dict[str, float]:
    """Train ``model`` in place for ``settings.epochs`` and leave it in eval mode.

    Args:
        subject: whose training pictures, task and seed are used.
        model: the network itself, on the subject's device; takes preprocessed pictures.
        settings: of this training; start from ``subject.settings.model_copy(update={…})``. Moving averages, transfer,
            several processes and compilation have no part in it.
        title: names the phase: in the progress bar, and as the seed of its order and draws.
        hooks: what the method adds.

    Returns:
        the figures of the last epoch's training batches: ``loss``, ``cross_entropy``, ``accuracy``.

    Raises:
        CheckFailed: the loss or the weights are no longer finite.
    """
    hooks = hooks or Hooks()
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    training = _training(subject, model, settings, title, hooks)
    total, means = training.total_steps, dict[str, float]()
    with progress(title, total * settings.batch_size, "pictures") as advance:
        for epoch in range(settings.epochs):
            training.state.epoch, training.state.position = epoch, 0
            training.model.train()
            tally = Tally()
            for losses in _steps(training, epoch, hooks):
                tally.add(tuple(losses), torch.stack([value.detach().float() for value in losses.values()])[None])
                step = training.state.step
                advance(step * settings.batch_size, f"epoch {epoch + 1}") if step % 20 == 0 else None
            means = tally.means()
            if not np.isfinite(list(means.values())).all() or not _finite(model):
                raise CheckFailed(f"{title}: the loss or the weights are no longer finite in epoch {epoch + 1}")
            advance(training.state.step * settings.batch_size, f"epoch {epoch + 1}, loss {means['loss']:.4f}")
            if hooks.after_epoch is not None:
                hooks.after_epoch(epoch, means)
    # Back in the usual layout, which those who look at the weights may expect.
    model.eval().to(memory_format=torch.contiguous_format)
    return means


def _steps(training: Training, epoch: int, hooks: Hooks) -> Iterator[dict[str, Tensor]]:
    config, total, state = training.config, training.total_steps, training.state
    _, parts = epoch_parts(training)
    for indices, pictures in training.train.batches(parts):
        lr = learning_rate(state.step, total, config.optimizer.lr, config.schedule, config.epochs)
        losses = training.do_step(make_batch(training, indices, pictures, epoch), lr, state.step)
        state.step += 1
        if hooks.after_step is not None:
            hooks.after_step(state.step, total)
        yield losses


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def _training(subject: Subject, model: nn.Module, settings: TrainConfig, title: str, hooks: Hooks) -> Training:
    """Return what the steps need; it belongs to no folder and nothing is ever written."""
    config = settings.model_copy(update={"ema": None, "lookahead": None, "transfer": TransferSettings()})
    network = PictureModel(Preprocess(subject.preprocess), model).to(subject.device)
    # On a processor a retraining is small; bf16 there would only cost digits.
    wanted = "fp32" if subject.device.type == "cpu" else config.precision
    precision, _ = choose_precision(wanted, subject.device)
    task = _Task(subject.task, hooks)
    if task.weights is not None:
        task.weights = task.weights.to(subject.device)
    (phase,) = task.phases(network)
    nowhere = RunFolder(Path())
    return Training(
        run=nowhere,
        config=config,
        seed=seeds.derive_seed(f"compress/{title}", subject.seed),
        task=task,
        model=network,
        optimizer=make_optimizer(model, phase.parameters, config.optimizer),
        device=subject.device,
        precision=precision,
        chain=make_chain(config.augment),
        train=_split(subject, subject.train),
        validation=_split(subject, subject.validation),
        checkpoints=Checkpoints(nowhere.checkpoints, config.keep),
        scaler=LossScaler() if precision == "fp16" else None,
    )


def _split(subject: Subject, dataset: Dataset) -> Split:
    settings = subject.preprocess
    return Split(dataset, _loader(dataset, settings.picture_size, settings.channels))


def _loader(dataset: Dataset, size: tuple[int, int], channels: Any) -> Loader:
    return Loader(dataset, size, channels, threads=max(2, usable_cores()))


def validate(subject: Subject, model: nn.Module, dataset: Dataset | None = None) -> dict[str, float]:
    """Return ``accuracy``, ``cross_entropy`` and ``n`` of ``model`` on the validation split, in float32 and eval mode.

    Args:
        subject: whose task and validation split are used.
        model: takes preprocessed pictures.
        dataset: another set of pictures than the validation split; never the test split.
    """
    dataset = subject.validation if dataset is None else dataset
    network = PictureModel(Preprocess(subject.preprocess), model).to(subject.device)
    split, was_training, tally = _split(subject, dataset), model.training, Tally()
    indices = np.arange(len(dataset), dtype=np.int64)
    network.eval()
    with torch.inference_mode():
        for part, pictures in split.batches([indices[k : k + 256] for k in range(0, len(indices), 256)]):
            batch = subject.task.collate(pictures, dataset.labels[part], split.ids(part)).to(subject.device)
            figures = subject.task.loss_of(network(batch.pictures).float(), batch.targets["label"])
            tally.add(tuple(figures), torch.stack([value.float() for value in figures.values()])[None])
    network.train(was_training)
    means = tally.means()
    return {"accuracy": means["accuracy"], "cross_entropy": means["cross_entropy"], "n": float(len(dataset))}
