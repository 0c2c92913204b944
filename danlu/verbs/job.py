"""The main job and training: run, train, resume, and what they left: runs, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from danlu import terminal
from danlu.verbs.common import Common, Output, overrides_of, requested_of, run_output

__all__ = ["env", "report", "resume", "run", "runs_list", "runs_show", "train"]

Pairs = Annotated[list[str] | None, Parameter(negative="", consume_multiple=False)]
Flag = Annotated[bool, Parameter(negative="")]


def run(
    data: str,
    /,
    *,
    model: str = "auto",
    recipe: str | None = None,
    epochs: int | None = None,
    budget: str | None = None,
    set: Pairs = None,
    weights: Path | None = None,
    int8: bool | None = None,
    download: Flag = False,
    common: Common | None = None,
) -> Output:
    """The main job: check, split, train, evaluate, analyze, quantise, export, prove parity, benchmark, report.

    Parameters
    ----------
    data
        A named data set (digits, mnist, fashion-mnist, cifar10) or a folder that holds one folder a class.
    model
        A network's name (see: danlu models list), or auto.
    recipe
        Training recipe; by default the one made for this data and model.
    epochs
        Train this many epochs.
    budget
        Fit the schedule to this time, e.g. 90s, 10min, 1.5h.
    set
        Override one setting, e.g. --set optimizer.lr=0.05; may be given several times.
    weights
        Start from this checkpoint (.safetensors or .pth).
    int8
        --int8 demands an INT8 artifact, --no-int8 leaves it out; by default it is delivered where it holds.
    download
        Fetch a named data set that is not on this machine yet.
    """
    from danlu import pipeline

    common = common or Common()
    overrides = overrides_of(set, epochs, budget)
    asked = requested_of("run", data, model, recipe, overrides, common, int8=int8, download=download)
    folder = pipeline.run(
        data,
        model=model,
        recipe=recipe,
        overrides=overrides,
        int8=int8,
        out=common.out,
        seed=common.seed,
        device=common.device,
        threads=common.threads,
        weights=weights,
        download=download,
        requested=asked,
    )
    return run_output(folder.path)


def train(
    data: str,
    /,
    *,
    model: str = "auto",
    recipe: str | None = None,
    epochs: int | None = None,
    budget: str | None = None,
    set: Pairs = None,
    weights: Path | None = None,
    download: Flag = False,
    common: Common | None = None,
) -> Output:
    """Train a network; the run folder that is printed takes every later verb.

    Parameters
    ----------
    data
        A named data set or a folder that holds one folder a class.
    model
        A network's name (see: danlu models list), or auto.
    recipe
        Training recipe; by default the one made for this data and model.
    epochs
        Train this many epochs.
    budget
        Fit the schedule to this time, e.g. 90s, 10min, 1.5h.
    set
        Override one setting, e.g. --set optimizer.lr=0.05; may be given several times.
    weights
        Start from this checkpoint (.safetensors or .pth).
    download
        Fetch a named data set that is not on this machine yet.
    """
    from danlu import pipeline

    common = common or Common()
    overrides = overrides_of(set, epochs, budget)
    folder, _ = pipeline.begin(
        data,
        pipeline.Stages(total=2),
        model=model,
        recipe=recipe,
        overrides=overrides,
        out=common.out,
        seed=common.seed,
        device=common.device,
        threads=common.threads,
        weights=weights,
        download=download,
        requested=requested_of("train", data, model, recipe, overrides, common, download=download),
    )
    return run_output(folder.path)


def resume(run: Path, /, *, common: Common | None = None) -> Output:
    """Go on where a run stopped, bit for bit.

    Parameters
    ----------
    run
        The run folder.
    """
    from danlu import pipeline

    folder = pipeline.resume(run, threads=(common or Common()).threads)
    return run_output(folder.path)


def runs_list(*, common: Common | None = None) -> Output:
    """List the run folders below ./runs (or --out) with their figures."""
    from danlu.core.records import RunFolder

    parent = (common.out if common else None) or Path("runs")
    rows = [_run_row(RunFolder(config.parent)) for config in sorted(parent.glob("*/config.json"))]
    return Output(rows, terminal.rows(rows) if rows else f"no runs below {parent}")


def runs_show(run: Path, /, *, common: Common | None = None) -> Output:
    """Show a run's settings and record.

    Parameters
    ----------
    run
        The run folder.
    """
    from danlu.core.records import open_run_folder

    folder = open_run_folder(run)
    document = {"config": folder.read_config(), "record": folder.read_record()}
    return Output(document, run_output(run).text)


def report(run: Path, /, *, common: Common | None = None) -> Output:
    """Write a run's report.html again from its records.

    Parameters
    ----------
    run
        The run folder.
    """
    from danlu.core.records import open_run_folder
    from danlu.report import build_report

    path = build_report(open_run_folder(run))
    return Output({"report": str(path)}, str(path))


def env(*, common: Common | None = None) -> Output:
    """Show versions and machine, for a bug report."""
    from danlu.core.environment import describe_environment

    document = describe_environment()
    return Output(document, terminal.pairs({key: terminal.flat(value) for key, value in document.items()}))


def _run_row(folder: Any) -> dict[str, Any]:
    record, config = folder.read_record(), folder.read_config()
    accuracy = record.get("results", {}).get("test", {}).get("accuracy", {}).get("value")
    trained = record.get("train", {})
    return {
        "run": str(folder.path),
        "data": config["effective"]["data"]["name"],
        "model": config["effective"]["model"]["name"],
        "epochs": trained.get("epochs"),
        "seconds": trained.get("seconds"),
        "test accuracy": accuracy,
        "artifacts": ", ".join(f["file"] for f in record.get("artifacts", {}).values() if f.get("file")) or None,
    }
