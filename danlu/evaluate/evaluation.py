"""Evaluate a run or an artifact on one split and write what was found into the run's record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError, nearest_names
from danlu.core.log import logger
from danlu.core.records import RunFolder
from danlu.data.load import Data, opened_data
from danlu.evaluate.outputs import write_predictions, write_worst
from danlu.evaluate.prediction import BATCH, Predictor, predict_both, predictor_of
from danlu.evaluate.several import several_figures, several_results, write_several
from danlu.evaluate.views import check_tta
from danlu.metrics.accuracy import accuracy
from danlu.metrics.confusion_matrix import confusion_matrix
from danlu.metrics.cross_entropy import cross_entropies, cross_entropy, log_softmax
from danlu.metrics.precision_recall_f1 import precision_recall_f1
from danlu.tasks.trained import Trained, open_trained

if TYPE_CHECKING:
    from danlu.data.sample import Dataset

__all__ = ["SPLITS", "WORST", "evaluate"]

SPLITS = ("train", "validation", "test")
WORST = 16


def evaluate(
    run_or_artifact: Trained | RunFolder | Path | str,
    data: Data | Path | str,
    split: str = "test",
    *,
    write: bool = True,
    predictor: Predictor | None = None,
    batch: int = BATCH,
    tta: str | None = None,
) -> dict[str, Any]:
    """Run a network over one split, without leaving out or replacing a sample.

    Args:
        run_or_artifact: a run folder or a coded file, the folder that training returned, what
            :func:`danlu.tasks.trained.open_trained` gave for it, or an artifact for which ``predictor`` is given.
            Nothing is written for files.
        data: the data set, or its name or folder, then split as for the training; its class names say which logit is
            which, in whatever order they stand.
        split: ``train``, ``validation`` or ``test``.
        write: for a run and its own data, also write the record's sections ``results.<split>`` and ``evaluation``
            (``evaluation_<split>`` for other splits than test), ``predictions-<split>.csv`` and the worst pictures.
        predictor: what runs an artifact; nothing is written then.
        batch: pictures in one pass.
        tta: test-time augmentation, ``flip`` or ``flip+shift`` (:data:`danlu.evaluate.views.TTA`).

    Returns:
        ``{"results": {split: {"accuracy": R, "cross_entropy": R}}, "evaluation": {…}}`` with R =
        ``{"value", "low", "high", "n"}``; of several labels a picture, see :mod:`danlu.evaluate.several`.
        With ``tta`` each figure is there once more as ``accuracy_tta`` and so on, whose R says which by ``"tta"``.

    Raises:
        InputError: no such split or an empty one, classes the network does not know, a picture that cannot be decoded,
            a run that cannot be opened, or what it was trained on: its data split by another seed, or its validation.
        CheckFailed: outputs that are not finite.
    """
    _check_options(split, batch, tta)
    trained = None
    if predictor is None:
        trained = _opened(run_or_artifact)
        predictor = predictor_of(trained)
    data = opened_data(data, predictor.split_seed)
    data.check_unseen(split, predictor.name, predictor.data_hash, predictor.split_seed, predictor.trained_on)
    dataset = _dataset(data, split)
    labels = _labels(dataset, predictor)
    loader = _loader(dataset, predictor)
    indices = np.arange(len(dataset), dtype=np.int64)
    logits, mean = predict_both(predictor.logits, loader, indices, batch, f"evaluate {split}", tta)
    found = _figures(dataset.ids, labels, logits, predictor, split)
    if tta is not None:
        found["results"][split] |= _tta_figures(labels, mean, tta)
    found["evaluation"]["data"] = _origin(data, predictor)
    if trained is not None and write and predictor.data_hash != data.hash:
        # A record's figures are those of the run's own data; figures of other data must never stand in their place.
        logger.info("%s is not the data of this run: its record is left as it is", data.name)
        _warn_of_changes(trained, data, split)
    elif trained is not None and write and trained.run.file is None:
        _write(trained.run, found, dataset.ids, labels, logits, predictor, split, loader)
    return found


def _check_options(split: str, batch: int, tta: str | None) -> None:
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}", nearest=nearest_names(split, SPLITS), allowed=SPLITS)
    check_tta(tta)
    if batch < 1:
        raise InputError(f"batch = {batch}", where="evaluate", allowed=["1 and more"])


def _dataset(data: Data, split: str) -> Dataset:
    dataset: Dataset = getattr(data, split)
    if not len(dataset):
        mend = "give more pictures, or another split"
        raise InputError(f"split {split!r} holds no pictures", where=data.name, mend=mend)
    return dataset


def _opened(run: Trained | RunFolder | Path | str) -> Trained:
    if isinstance(run, Trained):
        return run
    if isinstance(run, Path | str) and Path(run).suffix.lower() == ".onnx":
        mend = "danlu eval ARTIFACT DATA, or give a predictor: danlu.deploy.subjects.predictor_for"
        raise InputError("is an artifact, not a run", where=str(run), mend=mend)
    return open_trained(run)


def _warn_of_changes(trained: Trained, data: Data, split: str) -> None:
    """Say where pictures of a split may have been trained on: it is drawn anew when one picture is added."""
    if split == "train" or trained.config["effective"]["data"].get("source") != data.source:
        return
    given = {"validation": data.validation_given, "test": data.test_given}[split]
    why = "if pictures were moved between splits" if given else "the split is drawn anew"
    logger.warning(
        "%s has changed since it was trained on: %s, some of its %s pictures may have been trained on, and the figures "
        "be too good",
        data.name,
        why,
        split,
    )


def _loader(dataset: Dataset, predictor: Predictor) -> Any:
    from danlu.data.loader import Loader

    # Every picture is seen once: nothing decoded is worth keeping.
    return Loader(dataset, predictor.size, predictor.channels, cache_bytes=0)


def _labels(dataset: Dataset, predictor: Predictor) -> NDArray[np.int64]:
    """Return the data set's labels [N] as indices into the network's classes."""
    place = {name: index for index, name in enumerate(predictor.classes)}
    unknown = [name for name in dataset.classes if name not in place]
    if unknown:
        raise InputError(
            f"classes the network was not trained for: {', '.join(map(repr, unknown[:10]))}",
            where=predictor.name,
            allowed=predictor.classes,
            mend="give the data set it was trained on, or one whose classes are among these",
        )
    translate = np.array([place[name] for name in dataset.classes], dtype=np.int64)
    labels = np.asarray(dataset.labels, dtype=np.int64)
    if (labels.ndim == 2) != (predictor.task == "multilabel"):
        held = "several labels a picture" if labels.ndim == 2 else "one label a picture"
        what = f"the data set has {held}, the network was trained for {predictor.task}"
        raise InputError(what, where=predictor.name, mend="give data of the kind it was trained on")
    if labels.ndim == 1:
        return translate[labels]
    several = np.zeros((len(labels), len(place)), dtype=np.int64)
    several[:, translate] = labels
    return several


def _origin(data: Data, predictor: Predictor) -> dict[str, Any]:
    return {
        "name": data.name,
        "hash": data.hash,
        "trained_on_hash": predictor.data_hash,
        "left_out": len(data.problems),
    }


def _figures(
    ids: Any, labels: NDArray[np.int64], logits: NDArray[np.float32], predictor: Predictor, split: str
) -> dict[str, Any]:
    if logits.shape[1] != len(predictor.classes):
        raise InputError(f"gives {logits.shape[1]} logits for {len(predictor.classes)} classes", where=predictor.name)
    if labels.ndim == 2:
        return several_figures(ids, labels, logits, predictor.classes, split, WORST)
    log_probabilities = log_softmax(logits)
    predictions = logits.argmax(axis=1)
    losses = cross_entropies(labels, log_probabilities)
    worst = np.argsort(-losses, kind="stable")[:WORST]
    name = predictor.classes
    per_class = precision_recall_f1(labels, predictions, name)
    for row in per_class:
        if row["note"] == "never predicted":
            logger.warning("%s: class %r was never predicted", split, row["class"])
    figures = {"accuracy": accuracy(labels, predictions), "cross_entropy": cross_entropy(labels, log_probabilities)}
    return {
        "results": {split: figures},
        "evaluation": {
            "split": split,
            "classes": list(name),
            "confusion": confusion_matrix(labels, predictions, len(name)).tolist(),
            "per_class": per_class,
            "worst": [
                {
                    "id": ids[i],
                    "index": i,
                    "true": name[labels[i]],
                    "predicted": name[predictions[i]],
                    "probability": float(np.exp(log_probabilities[i, predictions[i]])),
                    "loss": float(losses[i]),
                    "picture": None,
                }
                for i in worst.tolist()
            ],
        },
    }


def _tta_figures(labels: NDArray[np.int64], logits: NDArray[np.float32], tta: str) -> dict[str, Any]:
    if labels.ndim == 2:
        figures = several_results(labels, logits)
    else:
        figures = {
            "accuracy": accuracy(labels, logits.argmax(axis=1)),
            "cross_entropy": cross_entropy(labels, log_softmax(logits)),
        }
    return {f"{name}_tta": {**figure, "tta": tta} for name, figure in figures.items()}


def _write(
    run: RunFolder,
    found: dict[str, Any],
    ids: Any,
    labels: NDArray[np.int64],
    logits: NDArray[np.float32],
    predictor: Predictor,
    split: str,
    loader: Any,
) -> None:
    evaluation = found["evaluation"]
    worst = np.array([row["index"] for row in evaluation["worst"]], dtype=np.int64)
    for row, path in zip(evaluation["worst"], write_worst(run, split, loader.pictures(worst)), strict=True):
        row["picture"] = path
    file = run.path / f"predictions-{split}.csv"
    if labels.ndim == 2:
        write_several(file, ids, labels, logits, predictor.classes)
    else:
        write_predictions(file, ids, labels, log_softmax(logits), predictor.classes)
    evaluation["predictions"] = file.name
    section = "evaluation" if split == "test" else f"evaluation_{split}"
    results = {**run.read_record().get("results", {}), **found["results"]}
    run.update_record(**{"results": results, section: evaluation})
