"""What every registered task promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from danlu.metrics import METRICS
from danlu.models import create_model
from danlu.tasks import TASKS
from danlu.tasks.classification import NO_LABEL, Batch, Classification
from danlu.tasks.preprocess import PictureModel, Preprocess, PreprocessSettings

CLASSES = tuple("abcd")


def make_task(name: str, smoothing: float = 0.0) -> Classification:
    task = TASKS.get(name)(CLASSES, smoothing)
    assert isinstance(task, Classification)
    return task


def make_model(seed: int = 0) -> PictureModel:
    torch.manual_seed(seed)
    settings = PreprocessSettings(
        picture_size=(8, 8), input_size=(8, 8), fit="none", channels=1, mean=(0.3,), std=(0.4,)
    )
    return PictureModel(Preprocess(settings), create_model("resnet20", num_classes=4, in_channels=1))


def make_batch(task: Classification, count: int, labels: list[int] | None = None) -> Batch:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    truth = rng.integers(0, 4, count) if labels is None else np.array(labels, dtype=np.int64)
    if task.name == "multilabel":
        truth = np.where(truth[:, None] == NO_LABEL, NO_LABEL, np.eye(4, dtype=np.int64)[truth.clip(0)])
    return task.collate(pictures, truth, [f"id {number}" for number in range(count)])


@pytest.mark.parametrize("name", TASKS.names())
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [0, 3])
def test_empty_targets(name: str, smoothing: float, count: int) -> None:
    """No target at all: the loss is 0 and so is every gradient; nothing is NaN."""
    task, model = make_task(name, smoothing), make_model().eval()
    losses = task.loss(model, make_batch(task, count, [NO_LABEL] * count), None)
    assert losses["loss"].item() == 0.0
    assert all(torch.isfinite(value) for value in losses.values())
    losses["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", TASKS.names())
def test_batch_of_one(name: str) -> None:
    task, model = make_task(name), make_model().train()
    losses = task.loss(model, make_batch(task, 1), None)
    losses["loss"].backward()
    assert losses["loss"].item() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", TASKS.names())
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_never_changes_the_loss(name: str, smoothing: float) -> None:
    """Samples without a target, added to fill a batch, change neither loss nor counts."""
    task, model = make_task(name, smoothing), make_model().eval()
    plain = task.loss(model, make_batch(task, 5), None)
    padded_batch = make_batch(task, 8)
    labels = padded_batch.targets["label"].clone()
    first = make_batch(task, 5)
    pictures = padded_batch.pictures.numpy().copy()
    pictures[:5] = first.pictures.numpy()
    labels[:5], labels[5:] = first.targets["label"], NO_LABEL
    padded = task.loss(model, task.collate(pictures, labels.numpy(), padded_batch.ids), None)
    for key, value in plain.items():
        assert padded[key].item() == pytest.approx(value.item(), rel=1e-6), key


@pytest.mark.parametrize("name", TASKS.names())
def test_the_loss_falls_on_8_samples(name: str) -> None:
    task, model = make_task(name, smoothing=0.05), make_model().train()
    batch = make_batch(task, 8, [0, 1, 2, 3, 0, 1, 2, 3])
    (phase,) = task.phases(model)
    optimizer = torch.optim.SGD(phase.parameters, lr=0.05, momentum=0.9)
    seen = []
    for _ in range(20):
        loss = task.loss(model, batch, None)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.5 * seen[0]


@pytest.mark.parametrize("name", TASKS.names())
def test_decoding_perfect_outputs_scores_1(name: str) -> None:
    task = make_task(name)
    labels = np.array([0, 1, 2, 3, 3])
    batch = make_batch(task, 5, labels.tolist())
    probabilities = task.decode(20 * torch.eye(4)[torch.from_numpy(labels)] - 10, batch)
    assert probabilities.shape == (5, 4)
    if name == "classification":
        assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 5)
    metric = METRICS.get("accuracy")
    assert metric(labels, probabilities.argmax(1).numpy())["value"] == 1.0
    assert metric(labels, (1 - probabilities).argmax(1).numpy())["value"] < 1.0


@pytest.mark.parametrize("name", TASKS.names())
def test_names(name: str) -> None:
    task = make_task(name)
    assert task.name == name
    metric, direction = task.best
    assert metric in task.metrics
    assert set(task.metrics) <= set(METRICS.names())
    assert METRICS.index[metric]["direction"] == direction


@pytest.mark.parametrize("name", TASKS.names())
def test_phases_cover_every_parameter_once(name: str) -> None:
    model = make_model()
    next(model.parameters()).requires_grad_(False)
    phases = make_task(name).phases(model)
    moved = [id(p) for phase in phases for p in phase.parameters]
    assert sorted(moved) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert all(phase.every >= 1 for phase in phases)


def test_the_index_is_fresh() -> None:
    assert TASKS.build_index() == {name: dict(facts) for name, facts in TASKS.index.items()}
