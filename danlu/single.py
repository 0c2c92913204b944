"""One stage of the main job on its own, on a run that stands: evaluate, export, choose the best form, benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.errors import InputError
from danlu.core.records import RunFolder, open_run_folder
from danlu.core.settings import apply_overrides

if TYPE_CHECKING:
    from danlu.analyze import Analysis
    from danlu.data.load import Data

__all__ = ["analyze_any", "bench_run", "best_run", "data_of", "evaluate_any", "export_run"]


def analyze_any(model: str, input: tuple[int, ...] | None = None, *, threads: int | None = None) -> Analysis:
    """Analyze a registered model, a run folder or a coded file; a run's record and report are written anew.

    They are not where another ``input`` than the run's own was asked for.

    Raises:
        InputError: no such model or run, or an input it refuses.
    """
    from danlu.analyze import analyze, analyze_run
    from danlu.models import MODELS
    from danlu.report import build_report

    if model in MODELS.names() or input is not None or not RunFolder(model).config_path.is_file():
        return analyze(model, input, threads=threads)
    folder = open_run_folder(model)
    with folder.locked():
        found = analyze_run(folder.path, threads=threads)
        build_report(folder)
    return found


def evaluate_any(
    model: Path, source: str, split: str = "test", *, seed: int | None = None, tta: str | None = None
) -> dict[str, Any]:
    """Evaluate a run folder or an artifact on one split of a data set; a run's record and report are written anew.

    Without ``seed`` the data is split as it was for the training.

    Raises:
        InputError: the model or the data cannot be opened, or do not fit together.
    """
    from danlu.data.load import load_data
    from danlu.deploy.opening import is_artifact
    from danlu.evaluate import evaluate
    from danlu.report import build_report

    data: Data | str = source if seed is None else load_data(source, seed=seed)
    if model.suffix.lower() == ".dlz" or is_artifact(model):
        from danlu.deploy.subjects import open_subject, predictor_for

        return evaluate(model, data, split, predictor=predictor_for(open_subject(model)), tta=tta)
    folder = open_run_folder(model)
    with folder.locked():
        found = evaluate(model, data, split, tta=tta)
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
