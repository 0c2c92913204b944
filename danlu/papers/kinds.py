"""One seed of one row: count, train and test, or call the function of the paper's folder."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.allocator import keep_freed_memory
from danlu.core.errors import DanluError, InputError
from danlu.papers.rows import Paper, Row

if TYPE_CHECKING:
    from danlu.core.records import RunFolder
    from danlu.data.load import Data
    from danlu.train.loop import Training

__all__ = ["Attempt", "Measured", "NotRunnable", "OutOfTime", "figure_of", "measure", "train_or_resume"]


class NotRunnable(DanluError):
    """A row that cannot be run here, with the reason: a part that this version lacks, data that are not there."""

    exit_code = 1


class OutOfTime(DanluError):
    """The time of ``--budget`` is over; the same command goes on from where this ended."""

    exit_code = 1


@dataclass(frozen=True)
class Attempt:
    """One seed of one row, on its way.

    Attributes:
        paper: whose row it is.
        row: what is measured.
        seed: of split, initialisation and every draw.
        folder: where what it makes lies; kept between two starts.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<i>`` or ``mps``.
        threads: processor threads; None: as measured.
        source: a folder that holds the row's data set instead of the catalogue's copy.
        deadline: when to stop, in seconds of :func:`time.monotonic`; None: never.
    """

    paper: Paper
    row: Row
    seed: int
    folder: Path
    device: str = "auto"
    threads: int | None = None
    source: Path | None = None
    deadline: float | None = None

    def check_time(self) -> None:
        """End here when the time is over.

        Raises:
            OutOfTime: it is.
        """
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise OutOfTime(f"{self.row.id}, seed {self.seed}: the time is over; the same command goes on from here")

    def data(self) -> Data:
        """Return the row's data, a tenth of the training pictures kept for validation, split by the attempt's seed.

        Raises:
            NotRunnable: the data set is not on this machine.
            InputError: the folder given holds another one: its figures could not be compared with the paper's.
        """
        from danlu.data.catalog import CATALOG, is_present
        from danlu.data.load import load_data

        name = str(self.row.data)
        if self.source is None and name in CATALOG and not is_present(name):
            raise NotRunnable(f"{name} is not on this machine: danlu data get {name}, or give a folder by --data")
        data = load_data(self.source or name, seed=self.seed)
        pinned = CATALOG[name].hash if name in CATALOG else ""
        if pinned and data.hash != pinned:
            what = f"is not {name}: its content hash is {data.hash[:12]}…, not {pinned[:12]}…"
            raise InputError(what, where=f"--data {self.source}", mend=f"leave it out: danlu data get {name}")
        return data


@dataclass(frozen=True)
class Measured:
    """What one seed gave.

    Attributes:
        value: in the row's metric.
        data_hash: of the data it was measured on; None where there are none.
        facts: what else is worth keeping: plain values.
    """

    value: float | int | str
    data_hash: str | None = None
    facts: Mapping[str, Any] | None = None


def measure(attempt: Attempt) -> Measured:
    """Run one seed of a row to its end.

    Raises:
        NotRunnable: it cannot be run here.
        OutOfTime: the budget is spent; what was done is kept.
        Stopped: a signal came; likewise.
    """
    attempt.check_time()
    if attempt.row.kind == "analytic":
        from danlu.papers.analytic import analyze_row

        return Measured(analyze_row(attempt.row))
    if attempt.row.kind == "training":
        return _train(attempt)
    # Their own loops ask for the same blocks at every step, as training does.
    keep_freed_memory()
    module = importlib.import_module(f"danlu.papers.{attempt.paper.id}.method")
    found = getattr(module, str(attempt.row.function))(attempt, **attempt.row.arguments)
    assert isinstance(found, Measured)
    return found


def _train(attempt: Attempt) -> Measured:
    """Train to the end, or go on where an interrupted training stands, then measure the test split."""
    from danlu.evaluate import evaluate
    from danlu.models import MODELS

    row = attempt.row
    if str(row.model) not in MODELS.index and str(row.model) not in MODELS.aliases:
        raise NotRunnable(row.reason or f"the zoo has no {row.model}")
    data = attempt.data()
    run = train_or_resume(attempt, data, str(row.model), str(row.recipe), row.overrides, attempt.folder)
    found = evaluate(run.path, data, "test", tta=row.tta)["results"]["test"]
    accuracy = found["accuracy" if row.tta is None else "accuracy_tta"]
    trained, effective = run.read_record()["train"], run.read_config()["effective"]
    facts = {
        "epochs": trained["epochs"],
        "training_seconds": round(trained["seconds"], 1),
        "precision": effective["machine"]["precision"],
        "threads": effective["machine"]["threads"],
    }
    if row.tta is not None:
        facts["without_views"] = figure_of(row.metric, found["accuracy"]["value"], accuracy["n"])
    return Measured(figure_of(row.metric, accuracy["value"], accuracy["n"]), data.hash, facts)


def train_or_resume(
    attempt: Attempt, data: Data, model: str, recipe: str, overrides: Mapping[str, Any], out: Path
) -> RunFolder:
    """Train a network in the folder ``out``, or go on where an interrupted training stands; a finished one is kept.

    Raises:
        OutOfTime: the budget is spent; the training pauses at the end of its epoch.
        Stopped: a signal came.
    """
    from danlu.core.records import RunFolder
    from danlu.train import resume, train

    def watch(training: Training) -> None:
        if training.state.epoch < training.config.epochs:
            attempt.check_time()

    if RunFolder(out).config_path.is_file():
        return resume(out, data=data, after_epoch=watch)
    return train(
        data,
        model=model,
        recipe=recipe,
        overrides=overrides,
        out=out,
        seed=attempt.seed,
        device=attempt.device,
        threads=attempt.threads,
        requested={"paper": attempt.paper.id, "row": attempt.row.id},
        after_epoch=watch,
    )


def figure_of(metric: str, accuracy: float, count: int) -> float:
    """Return a test accuracy (a share of ``count`` pictures) in the unit of a row's metric.

    Raises:
        ValueError: the metric is not one of accuracy.
    """
    right = round(accuracy * count)
    figures = {
        "test error %": 100.0 * (count - right) / count,
        "test errors": float(count - right),
        "test accuracy %": 100.0 * right / count,
        "test accuracy": right / count,
    }
    if metric not in figures:
        raise ValueError(f"{metric} does not follow from an accuracy")
    return round(figures[metric], 6)
