"""The main job: check the data, train, evaluate, analyze, quantise, export, prove parity, benchmark, report.

Every stage is also a verb and a Python function of its own; a run folder joins them.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.environment import is_restarted, is_writer
from danlu.core.errors import CheckFailed, InputError
from danlu.core.log import logger
from danlu.core.records import RunFolder, check_free, check_outside, open_run_folder
from danlu.core.settings import apply_overrides
from danlu.single import data_of

if TYPE_CHECKING:
    from danlu.data.load import Data
    from danlu.tasks.trained import Trained
    from danlu.train.loop import Training

__all__ = [
    "Stages",
    "begin",
    "finish",
    "resume",
    "run",
]


class Stages:
    """Names each stage as it begins and keeps its seconds; they become the record's ``stages``."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.seconds: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Time the block as stage ``name`` and announce it as ``title``."""
        logger.info("[%d/%d] %s", len(self.seconds) + 1, self.total, title)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.append({"name": name, "seconds": round(time.perf_counter() - begin, 3)})


def run(
    source: str | Path,
    *,
    model: str = "auto",
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    int8: bool | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    weights: Path | str | None = None,
    download: bool = False,
    requested: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Carry ``source`` through every stage and return the run folder with the report and the artifacts.

    Args:
        source: a named data set, or a folder of class folders.
        model: a model's name, or ``auto``.
        recipe: a recipe's name; by default the one for this data and model.
        overrides: training settings by dotted key, e.g. ``{"epochs": 5}``.
        int8: ``None`` delivers INT8 where it holds, ``True`` demands it, ``False`` leaves it out.
        out: the run folder; by default ``./runs/<data>-<model>-<n>``.
        seed: of the split, the initialisation and every draw.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<i>`` or ``mps``.
        threads: processor threads; measured when not given.
        weights: start from this checkpoint.
        download: fetch a named data set that is not there yet.
        requested: what the user typed, kept in ``config.json``.

    Raises:
        InputError: bad data, names or settings; nothing was written.
        CheckFailed: the export is out of tolerance; the report says where.
        Stopped: stopped by a signal; ``resume`` goes on.
    """
    stages = Stages(total=7)
    folder, data = begin(
        source,
        stages,
        model=model,
        recipe=recipe,
        overrides=overrides,
        out=out,
        seed=seed,
        device=device,
        threads=threads,
        weights=weights,
        download=download,
        requested={**(requested or {}), "verb": "run", "int8": int8},
    )
    return finish(folder, data, stages, int8=int8, threads=threads)


def begin(
    source: str | Path,
    stages: Stages,
    *,
    model: str = "auto",
    recipe: str | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    weights: Path | str | None = None,
    download: bool = False,
    **training: Any,
) -> tuple[RunFolder, Data]:
    """Load the data and train on it: the main job up to the trained network, and all of ``danlu train``.

    What is wrong with the request alone is found before the pictures of a large folder are read.

    Returns:
        the run folder and the data.
    """
    from danlu.data.load import load_data
    from danlu.models import MODELS
    from danlu.train.recipes import RECIPES

    if model != "auto":
        MODELS.check(model, "--model")
    if recipe is not None:
        RECIPES.check(recipe, "--recipe")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", training.get("device", "auto")):
        raise InputError(f"--device {training['device']!r}", allowed=["auto", "cpu", "cuda", "cuda:<i>", "mps"])
    if weights is not None:
        from danlu.models.hub import check_weights

        check_weights(Path(weights))
    _check_settings(recipe, training.get("overrides") or {})
    if out is not None and is_restarted() and RunFolder(out).config_path.is_file():
        _check_same(RunFolder(out), training.get("requested"))
        with stages.stage("train", f"go on with {out} after a restart"):
            from danlu.train import resume as go_on

            folder = go_on(out)
        return folder, data_of(folder)
    if is_writer():
        check_outside(out, source)
        check_free(None if out is None else Path(out))
    with stages.stage("data", f"check and split {source}"):
        data = load_data(source, seed=seed, download=download)
    from danlu.train import train

    with stages.stage("train", "train"):
        folder = train(data, model=model, recipe=recipe, out=out, seed=seed, weights=weights, **training)
    return folder, data


def _check_settings(recipe: str | None, overrides: Mapping[str, Any]) -> None:
    """Refuse settings that suit no recipe they could go on top of: which one it is, is known once the data is.

    Raises:
        InputError: an unknown key or a value out of its range.
    """
    from danlu.train.recipes import RECIPES
    from danlu.train.settings import TrainConfig

    bases = [RECIPES.get(name)(50_000) for name in ([recipe] if recipe else RECIPES.names())]
    errors = []
    for base in bases if recipe else [TrainConfig(), *bases]:
        try:
            apply_overrides(base, overrides)
        except InputError as error:
            errors.append(error)
        else:
            return
    raise errors[0]


def _check_same(run: RunFolder, requested: dict[str, Any] | None) -> None:
    """Make sure that a run found after a restart is the one that was asked for.

    Raises:
        InputError: it was begun by another request.
    """
    begun = run.read_config().get("requested", {})
    differing = [key for key, value in (requested or {}).items() if begun.get(key) != json.loads(json.dumps(value))]
    if differing:
        raise InputError(
            f"holds another run ({', '.join(differing)} differ)", where=str(run.path), mend="give another --out"
        )


def finish(
    folder: RunFolder,
    data: Data,
    stages: Stages,
    *,
    int8: bool | None = None,
    threads: int | None = None,
) -> RunFolder:
    """Do the stages after training: evaluate, analyze, export with parity, benchmark, report."""
    if not is_writer():
        return folder
    from danlu.report import build_report
    from danlu.tasks.trained import open_trained

    failure: CheckFailed | None = None
    with folder.locked():
        trained = open_trained(folder.path)
        threads = _threads(trained, threads)
        _measure(trained, data, stages, threads)
        try:
            _deploy(trained, data, stages, int8=int8, threads=threads)
        except CheckFailed as error:
            failure = error
        with stages.stage("report", "report"):
            folder.update_record(stages=stages.seconds)
            build_report(folder)
    if failure is not None:
        raise failure
    return folder


def _threads(trained: Trained, given: int | None) -> int:
    """Return the threads to measure with: those given, else those the training measured as the fastest here."""
    from danlu.deploy.subjects import threads_of

    return threads_of(trained, given)


def _measure(trained: Trained, data: Data, stages: Stages, threads: int) -> None:
    from danlu.analyze import analyze_run
    from danlu.evaluate import evaluate

    splits = ("validation", "test") if trained.trained_on == "train" else ("test",)
    with stages.stage("evaluate", f"evaluate on {' and '.join(splits)}"):
        for split in splits:
            evaluate(trained, data, split)
    with stages.stage("analyze", "analyze"):
        analyze_run(trained.run.path, trained=trained, threads=threads)


def _deploy(trained: Trained, data: Data, stages: Stages, *, int8: bool | None, threads: int) -> None:
    from danlu.deploy.benchmark import bench
    from danlu.deploy.export import export

    with stages.stage("export", "export, quantise and prove parity"):
        export(trained, data, int8=int8, threads=threads)
    with stages.stage("benchmark", "benchmark"):
        bench(trained, data, threads=threads)


def resume(
    path: RunFolder | Path | str,
    *,
    data: Data | Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    threads: int | None = None,
    checkpoint: str = "auto",
    after_epoch: Callable[[Training], None] | None = None,
) -> RunFolder:
    """Continue a run bit for bit; a run begun by the main job goes on through the stages after training.

    Args and errors are those of :func:`danlu.train.resume`.
    """
    from danlu.data.load import opened_data
    from danlu.train import resume as resume_training

    path = path.path if isinstance(path, RunFolder) else path
    folder = open_run_folder(path)
    requested = folder.read_config()["requested"]
    if data is not None:
        data = opened_data(data, folder.read_config()["effective"]["data"].get("seed"))
    stages = Stages(total=7 if requested.get("verb") == "run" else 1)
    with stages.stage("train", f"resume {path}"):
        resume_training(
            path,
            data=data,
            overrides=overrides,
            device=device,
            threads=threads,
            checkpoint=checkpoint,
            after_epoch=after_epoch,
        )
    # What was trained before the stop counts as well.
    stages.seconds[-1]["seconds"] = max(
        stages.seconds[-1]["seconds"], round(folder.read_record()["train"]["seconds"], 3)
    )
    if requested.get("verb") != "run":
        return folder
    with stages.stage("data", "load the data"):
        loaded = data_of(folder) if data is None else data
    return finish(folder, loaded, stages, int8=requested.get("int8"))
