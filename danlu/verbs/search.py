"""The search for settings: tune."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from danlu import terminal
from danlu.verbs.common import Flag, Output, Pairs, Training, WholeOrNone, overrides_of

__all__ = ["tune"]

_SHOWN = 10


def tune(
    data: str,
    /,
    *,
    model: str = "auto",
    space: str = "default",
    recipe: str | None = None,
    trials: WholeOrNone = None,
    budget: str | None = None,
    epochs: WholeOrNone = None,
    sampler: str = "tpe",
    pruner: str = "asha",
    storage: str | None = None,
    study: str | None = None,
    set: Pairs = None,
    weights: Path | None = None,
    download: Flag = False,
    common: Training | None = None,
) -> Output:
    """Search for settings by validation. The same command again goes on with it, or joins it from another process.

    Parameters
    ----------
    data
        A named data set or a folder that holds one folder a class.
    model
        A network's name (see: danlu models list), or auto.
    space
        What may be chosen: a JSON file, or a name (lr, default).
    recipe
        Training recipe for what is not searched for; by default the one made for this data and model.
    trials
        How many in all, also those of other processes; 20 by default, for a grid all of it.
    budget
        Begin nothing new after this time, e.g. 90s, 10min, 1.5h; the trial under way goes on at the next start.
    epochs
        Train each trial this many epochs.
    sampler
        grid, random or tpe.
    pruner
        What ends bad trials early: asha, hyperband, median or none.
    storage
        URL of a database that several machines share; by default a SQLite file in the folder.
    study
        The search's name in the database.
    set
        Set one setting in all trials, e.g. --set optimizer.momentum=0.8; may be given several times.
    weights
        Start every trial from a checkpoint, the best one of a run folder, or published weights (torchvision:NAME,
        timm:TAG).
    download
        Fetch a named data set that is not on this machine yet.
    """
    asked: dict[str, Any] = {"model": model, "space": space, "recipe": recipe, "weights": weights, "trials": trials}
    asked |= {"sampler": sampler, "pruner": pruner, "storage": storage, "study": study}
    asked["overrides"] = overrides_of(set, epochs, None)
    return _search(data, asked, budget, download, common or Training())


def _search(data: str, asked: dict[str, Any], budget: str | None, download: bool, common: Training) -> Output:
    from danlu.core.settings import parse_duration
    from danlu.data.load import load_data
    from danlu.models import MODELS
    from danlu.train.space import load_space
    from danlu.train.tune import tune

    # What is wrong with the request alone is found before the pictures of a large folder are read.
    if asked["model"] != "auto":
        MODELS.check(asked["model"], "--model")
    load_space(asked["space"])
    seconds = parse_duration(budget) if budget else None
    loaded = load_data(data, seed=common.seed, download=download)
    where: dict[str, Any] = {"out": common.out, "seed": common.seed, "device": common.device, "threads": common.threads}
    return _shown(tune(loaded, budget=seconds, **asked, **where), data, asked["weights"], common)


def _shown(found: dict[str, Any], data: str, weights: Path | None, common: Training) -> Output:
    """Return the table of the best trials, the best settings as words to paste, and what the settings matter."""
    from danlu.report.importance import write_importance

    out = Path(found["folder"])
    counts = {state: sum(row["state"] == state for row in found["trials"]) for state in _states(found)}
    lines = [", ".join(f"{count} {state}" for state, count in counts.items()) or "no trials"]
    by_number = {row["number"]: row for row in found["trials"]}
    best = [by_number[number] for number in found["ranking"][:_SHOWN]]
    if best:
        keys = list(found["space"])
        columns = ["trial", f"validation {found['metric']}", "loss", "epochs", "seconds", *keys]
        rows = [
            [r["number"], r["value"], r["loss"], r["epochs"], r["seconds"]]
            + [terminal.flat(r["settings"][key]) for key in keys]
            for r in best
        ]
        lines += ["", terminal.table(columns, rows)]
    matter = found["importances"]
    drawn = write_importance(out / "importance.svg", matter) if matter["values"] else None
    if best:
        words = ["danlu", "train", data, *_words(found, weights, common)]
        lines += ["", "train with the best", f"  {shlex.join(words)}"]
        found = {**found, "command": shlex.join(words)}
    else:
        lines += ["", "no trial is finished yet: the same command goes on"]
    shares = ", ".join(f"{key} {share:.0%}" for key, share in matter["values"].items())
    lines += ["", f"importance  {shares or matter['why']} ({matter['method']}, {matter['trials']} finished trials)"]
    lines += [f"all trials  {out / 'tune.json'}", *([f"plot        {drawn}"] if drawn else [])]
    return Output(found, "\n".join(lines), exit_code=0 if best else 1)


def _states(found: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(sorted(row["state"] for row in found["trials"])))


def _words(found: dict[str, Any], weights: Path | None, common: Training) -> list[str]:
    """Return the words after ``danlu train DATA`` that train once more with the best settings."""
    words = ["--model", found["model"], "--recipe", found["recipe"]]
    words += ["--weights", str(weights)] if weights else []
    words += ["--seed", str(common.seed)] if common.seed else []
    for key, value in {**found["set"], **found["best"]["settings"]}.items():
        words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return words
