"""The main job and training: run, train, resume, and what they left: runs, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu import terminal
from danlu.core.errors import InputError
from danlu.verbs.common import (
    Common,
    Flag,
    Output,
    Pairs,
    Training,
    WholeOrNone,
    overrides_of,
    requested_of,
    run_output,
)

__all__ = ["env", "report", "resume", "run", "runs_list", "runs_show", "train"]


def run(
    data: str,
    /,
    *,
    model: str = "auto",
    recipe: str | None = None,
    epochs: WholeOrNone = None,
    budget: str | None = None,
    set: Pairs = None,
    weights: Path | None = None,
    int8: bool | None = None,
    download: Flag = False,
    common: Training | None = None,
) -> Output:
    """The main job: check, split, train, evaluate, analyze, quantise, export, prove parity, benchmark, report.

    Parameters
    ----------
    data
        A named data set (digits, mnist, fashion-mnist, cifar10, cifar100) or a folder that holds one folder a class.
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
        Start from a checkpoint (.safetensors or .pth), the best one of a run folder, or published weights
        (torchvision:NAME, timm:TAG).
    int8
        --int8 demands an INT8 artifact, --no-int8 leaves it out; by default it is delivered where it holds.
    download
        Fetch a named data set that is not on this machine yet.
    """
    from danlu import pipeline

    common = common or Training()
    overrides = overrides_of(set, epochs, budget)
    asked = requested_of("run", data, model, recipe, overrides, weights, common, int8=int8, download=download)
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
    epochs: WholeOrNone = None,
    budget: str | None = None,
    set: Pairs = None,
    weights: Path | None = None,
    download: Flag = False,
    dry_run: Flag = False,
    show_schedule: Flag = False,
    find_rate: Flag = False,
    common: Training | None = None,
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
        Start from a checkpoint (.safetensors or .pth), the best one of a run folder, or published weights
        (torchvision:NAME, timm:TAG).
    download
        Fetch a named data set that is not on this machine yet.
    dry_run
        Show the settings that would take effect, and why; train nothing.
    show_schedule
        Draw the learning rate over the steps; train nothing.
    find_rate
        Let the learning rate grow until the loss explodes, draw the loss over it and suggest one; keep nothing.
    """
    from danlu import pipeline

    common = common or Training()
    overrides = overrides_of(set, epochs, budget)
    if find_rate or dry_run or show_schedule:
        _check_preview(common.out, None if find_rate else weights)
    if find_rate:
        return _found_rate(data, model, recipe, overrides, download, weights, common)
    if dry_run or show_schedule:
        return _preview(data, model, recipe, overrides, download, common, drawn=show_schedule)
    asked = requested_of("train", data, model, recipe, overrides, weights, common, download=download)
    chosen: dict[str, Any] = {"model": model, "recipe": recipe, "overrides": overrides, "weights": weights}
    where: dict[str, Any] = {"out": common.out, "seed": common.seed, "device": common.device, "threads": common.threads}
    folder, _ = pipeline.begin(data, pipeline.Stages(total=2), download=download, requested=asked, **chosen, **where)
    return run_output(folder.path)


def _check_preview(out: Path | None, weights: Path | None) -> None:
    """Refuse what a preview would ignore."""
    for word, value in (("--out", out), ("--weights", weights)):
        if value is not None:
            what = "a preview writes nothing and begins from no weights"
            raise InputError(what, where=word, mend="leave it out, or train")


def _preview(
    source: str,
    model: str,
    recipe: str | None,
    overrides: dict[str, Any],
    download: bool,
    common: Training,
    *,
    drawn: bool,
) -> Output:
    from danlu.data.load import load_data
    from danlu.train.preview import preview

    data = load_data(source, seed=common.seed, download=download)
    found = preview(data, model=model, recipe=recipe, overrides=overrides, seed=common.seed, device=common.device)
    train, rates = found["effective"]["train"], found["learning_rates"]
    if drawn:
        facts = {"schedule": terminal.flat(train["schedule"]), "steps": found["steps"], "epochs": train["epochs"]}
        ends = {"first": rates[0], "highest": max(rates), "last": rates[-1]}
        return Output(found, f"{terminal.curve(rates)}\n\n{terminal.pairs({**facts, **ends}, width=None)}")
    settings = {key: terminal.flat(value) for key, value in train.items()}
    if train["budget"]:
        settings["epochs"] = f"{train['epochs']} without the budget; fitted to it once steps were measured"
    words = terminal.pairs({"model": found["effective"]["model"]["name"], "steps": found["steps"]})
    text = [words, "", "settings", terminal.pairs(settings, width=None), "", "why"]
    return Output(found, "\n".join([*text, terminal.pairs(found["why"], width=None)]))


def _found_rate(
    source: str,
    model: str,
    recipe: str | None,
    overrides: dict[str, Any],
    download: bool,
    weights: Path | None,
    common: Training,
) -> Output:
    from danlu.data.load import load_data
    from danlu.train.finder import find_rate

    found = find_rate(
        load_data(source, seed=common.seed, download=download),
        model=model,
        recipe=recipe,
        overrides=overrides,
        seed=common.seed,
        device=common.device,
        threads=common.threads,
        weights=weights,
    )
    rates, suggested = found["rates"], found["suggested"]
    if not rates:
        return Output(found, "the first loss is not finite: no rate can be suggested", exit_code=1)
    words = (
        "none: the loss never fell" if suggested is None else f"{suggested:.2g}  (--set optimizer.lr={suggested:.2g})"
    )
    facts = {"rates": f"{rates[0]:.1e} to {rates[-1]:.1e}, left to right", "suggested": words}
    return Output(found, f"{terminal.curve(found['losses'])}\n\n{terminal.pairs(facts, width=None)}")


def resume(run: Path, /, *, common: Common | None = None) -> Output:
    """Go on where a run stopped, bit for bit, with the threads and the device it was begun with.

    Parameters
    ----------
    run
        The run folder.
    """
    from danlu import pipeline

    folder = pipeline.resume(run)
    return run_output(folder.path)


def runs_list(folder: Path = Path("runs"), /, *, common: Common | None = None) -> Output:
    """List the run folders below a folder with their figures.

    Parameters
    ----------
    folder
        Where to look.
    """
    from danlu.core.records import RunFolder

    rows = [_run_row(RunFolder(config.parent)) for config in sorted(folder.glob("*/config.json"))]
    return Output(rows, terminal.rows(rows) if rows else f"no runs below {folder}")


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
    return Output(document, f"{run_output(run).text}\n\n{_told_run(document)}")


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


def _told_run(document: dict[str, Any]) -> str:
    """Return what was trained on what, how long and with which settings that were asked for."""
    effective = document["config"].get("effective") or {}
    trained, data = document["record"].get("train") or {}, effective.get("data") or {}
    facts = {
        "command": (document["config"].get("requested") or {}).get("command"),
        "data": data.get("name"),
        "data hash": data.get("hash"),
        "model": (effective.get("model") or {}).get("name"),
        "seed": effective.get("seed"),
        "epochs": trained.get("epochs"),
        "best epoch": trained.get("best_epoch"),
        "validation": terminal.flat(trained.get("best")),
        "seconds": trained.get("seconds"),
        "finished": trained.get("finished") or "no",
    }
    return terminal.pairs(facts, width=None)


def _run_row(folder: Any) -> dict[str, Any]:
    """Return a run's row; one that is damaged gets a row that says so, and hides no other."""
    row: dict[str, Any] = dict.fromkeys(("run", "data", "model", "epochs", "seconds", "test accuracy", "artifacts"))
    row["run"] = str(folder.path)
    try:
        record, effective = folder.read_record(), folder.read_config()["effective"]
        trained = record.get("train", {})
        files = [facts["file"] for facts in record.get("artifacts", {}).values() if facts.get("file")]
        row |= {
            "data": effective["data"]["name"],
            "model": effective["model"]["name"],
            "epochs": trained.get("epochs"),
            "seconds": trained.get("seconds"),
            "test accuracy": record.get("results", {}).get("test", {}).get("accuracy", {}).get("value"),
            "artifacts": ", ".join(files) or None,
        }
    except (InputError, KeyError, TypeError, AttributeError) as error:
        row["artifacts"] = f"damaged: {error}".splitlines()[0]
    return row
