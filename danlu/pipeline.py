"""The main job: check the data, train, evaluate, analyze, quantise, export, prove parity, benchmark, report.

Every stage is also a verb and a Python function of its own; a run folder joins them.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.environment import is_restarted, is_writer
from danlu.core.errors import CheckFailed, InputError
from danlu.core.log import logger
from danlu.core.records import RunFolder, check_free, open_run_folder
from danlu.core.settings import apply_overrides

if TYPE_CHECKING:
    from danlu.data.load import Data
    from danlu.tasks.trained import Trained

__all__ = [
    "Stages",
    "begin",
    "bench_run",
    "best_run",
    "data_of",
    "evaluate_any",
    "export_run",
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
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    weights: Path | None = None,
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
    out: Path | None = None,
    seed: int = 0,
    weights: Path | None = None,
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

        check_weights(weights)
    _check_settings(recipe, training.get("overrides") or {})
    if out is not None and is_restarted() and RunFolder(out).config_path.is_file():
        _check_same(RunFolder(out), training.get("requested"))
        with stages.stage("train", f"go on with {out} after a restart"):
            from danlu.train import resume as go_on

            folder = go_on(out)
        return folder, data_of(folder)
    if is_writer():
        check_free(out)
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


def evaluate_any(
    model: Path, source: str, split: str = "test", *, seed: int = 0, tta: str | None = None
) -> dict[str, Any]:
    """Evaluate a run folder or an artifact on one split of a data set; a run's record and report are written anew.

    Raises:
        InputError: the model or the data cannot be opened, or do not fit together.
    """
    from danlu.data.load import load_data
    from danlu.evaluate import evaluate
    from danlu.report import build_report

    if model.is_file():
        from danlu.deploy.subjects import open_subject, predictor_for

        predictor = predictor_for(open_subject(model))
        return evaluate(model, load_data(source, seed=seed), split, predictor=predictor, tta=tta)
    folder = open_run_folder(model)
    with folder.locked():
        found = evaluate(model, load_data(source, seed=seed), split, tta=tta)
        build_report(folder)
    return found


def export_run(
    path: Path,
    *,
    to: str = "onnx",
    int8: bool | None = None,
    quantising: Mapping[str, Any] | None = None,
    bf16: bool = False,
    out: Path | None = None,
    threads: int | None = None,
    package: Path | None = None,
    download: bool = False,
) -> dict[str, Any]:
    """Export a run folder or a coded file on the data it was trained on; return its record.

    The report of a run folder is written anew.

    Args:
        path: the run folder.
        to: ``onnx``, or a runtime of :data:`danlu.deploy.targets.TARGETS`.
        int8: for ONNX ``None`` delivers INT8 where it holds, ``True`` demands it; elsewhere ``True`` asks for it.
        bf16: bfloat16, where the runtime has it.
        out: where to; beside the run's other files when not given.
        threads: of PyTorch and of the runtime.
        package: the ``.tgz`` of onnxruntime-web, for ``web``.
        download: whether that may be fetched.

    Raises:
        InputError: no run folder, its data has changed, or something the runtime has not.
        CheckFailed: the export is out of tolerance, or INT8 was demanded and does not hold.
    """
    from danlu.deploy.export import export
    from danlu.deploy.int8 import Int8Settings
    from danlu.deploy.targets import export_to
    from danlu.report import build_report
    from danlu.tasks.trained import open_trained

    if int8 and bf16:
        raise InputError("--int8 and --bf16 exclude each other", mend="give one of them")
    precision = "int8" if int8 else "bf16" if bf16 else "fp32"
    wanted = apply_overrides(Int8Settings(), quantising or {})
    trained = open_trained(path)
    folder = trained.run
    with folder.locked():
        try:
            data = data_of(folder)
            if to == "onnx" and not bf16:
                export(trained, data, int8=int8, quantising=wanted, out=out, threads=threads)
            else:
                export_to(
                    trained, data, to, precision=precision, out=out, threads=threads, package=package, download=download
                )
        finally:
            if folder.file is None:
                build_report(folder)
    return folder.read_record()


def best_run(path: Path, **options: Any) -> dict[str, Any]:
    """Export a run in every form at hand, choose the fastest that holds its accuracy, and write the report anew.

    ``options`` are those of :func:`danlu.deploy.best.best`.

    Raises:
        InputError: no run folder, its data has changed, or a bad option.
        CheckFailed: float32 is out of tolerance.
    """
    from danlu.deploy.best import best, check_options
    from danlu.report import build_report
    from danlu.tasks.trained import open_trained

    check_options(**{name: value for name, value in options.items() if name in ("max_drop", "batch", "out")})
    trained = open_trained(path)
    folder = trained.run
    with folder.locked():
        try:
            return best(trained, data_of(folder), **options)
        finally:
            if folder.file is None:
                build_report(folder)


def bench_run(path: Path, *, threads: int | None = None, **options: Any) -> dict[str, Any]:
    """Benchmark a run folder or a coded file and its artifacts; return the record's section.

    The report of a run folder is written anew.

    ``options`` are those of :func:`danlu.deploy.benchmark.bench`.

    Raises:
        InputError: no run folder, or its data has changed.
    """
    from danlu.deploy.benchmark import bench
    from danlu.report import build_report
    from danlu.tasks.trained import open_trained

    trained = open_trained(path)
    folder = trained.run
    with folder.locked():
        measured = bench(trained, data_of(folder), threads=threads, **options)
        if folder.file is None:
            build_report(folder)
    return measured


def data_of(folder: RunFolder) -> Data:
    """Load the data a run was trained on, as its ``config.json`` names it.

    Raises:
        InputError: the data is gone or is no longer what the run was trained on.
    """
    from danlu.data.load import load_data

    config = folder.read_config()
    used, seed = config["effective"]["data"], config["effective"]["seed"]
    data = load_data(used["source"], seed=seed, channels=config["effective"]["preprocess"]["channels"])
    if data.hash != used["hash"]:
        raise InputError(
            f"the data has changed since this run: its hash was {used['hash'][:12]}…, now it is {data.hash[:12]}…",
            where=used["source"],
            mend="restore the data, or train a new run",
        )
    return data


def resume(path: Path) -> RunFolder:
    """Continue a run bit for bit; a run begun by the main job goes on through the stages after training.

    Raises:
        InputError: no run folder, or its data or settings have changed.
    """
    from danlu.train import resume as resume_training

    folder = open_run_folder(path)
    requested = folder.read_config()["requested"]
    stages = Stages(total=7 if requested.get("verb") == "run" else 1)
    with stages.stage("train", f"resume {path}"):
        resume_training(path)
    if requested.get("verb") != "run":
        return folder
    with stages.stage("data", "load the data"):
        data = data_of(folder)
    return finish(folder, data, stages, int8=requested.get("int8"))
