"""Search for settings: ``danlu.tune``. Each trial is an ordinary run, judged on the validation split alone.

What may be chosen is a space (:mod:`danlu.train.space`), the trials are kept in a study (:mod:`danlu.train.study`), and
:mod:`danlu.train.search` does them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.core import files
from danlu.core.errors import InputError
from danlu.data.load import Data
from danlu.models.hub import check_weights
from danlu.tasks.classification import Classification
from danlu.train.choose import choose_config, choose_model, choose_recipe
from danlu.train.search import Search
from danlu.train.space import load_space
from danlu.train.study import (
    PRUNERS,
    SAMPLERS,
    check_name,
    check_optuna,
    make_pruner,
    make_sampler,
    open_study,
    shown_url,
)

__all__ = ["tune"]

_TRIALS = 20


def tune(
    data: Data,
    *,
    space: str | Path | Mapping[str, Any],
    model: str = "auto",
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    trials: int | None = None,
    budget: float | None = None,
    sampler: str = "tpe",
    pruner: str = "asha",
    storage: str | None = None,
    study: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    weights: Path | None = None,
) -> dict[str, Any]:
    """Search ``space`` for the settings with the best validation metric; the test split is not touched.

    Called again with the same folder, or the same ``storage`` and ``study``, it joins that search: trials whose worker
    was killed go on where they stood, finished ones are kept, and ``trials`` counts them all.

    Args:
        data: what :func:`danlu.load_data` returns.
        space: a JSON file, a name of :data:`danlu.train.space.SPACES`, or a mapping; see :mod:`danlu.train.space`.
        model: as for :func:`danlu.train`.
        recipe: likewise: what is not searched for.
        overrides: settings that are the same in all trials, by dotted key, e.g. ``{"epochs": 9}``.
        trials: how many in all, pruned ones too; 20 by default, for a grid all of it.
        budget: seconds after which this process begins nothing new; the trial under way stops at its next epoch and
            goes on when the search is started again.
        sampler: ``grid``, ``random`` or ``tpe``.
        pruner: ``asha``, ``hyperband``, ``median`` or ``none``; see :func:`danlu.train.study.make_pruner`.
        storage: a database's URL; by default the file ``study.db`` in ``out``.
        study: the search's name in the database; ``<data>-<model>`` by default.
        out: folder of the trials' runs and of ``tune.json``; ``./runs/tune-<study>`` by default.
        seed: of the draws, and of every trial's training, so that trials differ by their settings alone.
        device: as for :func:`danlu.train`.
        threads: likewise; measured in the first trial when not given.
        weights: likewise.

    Returns:
        what ``tune.json`` holds (the search's settings, all trials, the best one, what the settings matter), and its
        ``folder``.

    Raises:
        InputError: Optuna is missing, an unknown name, a space or a setting that cannot be, a study of other settings.
        Stopped: a signal came; the trial's state is saved, and the search goes on when it is started again.
    """
    given = {key: value for key, value in locals().items() if key != "data"}
    return _search(data, **given)


def _search(
    data: Data,
    *,
    space: str | Path | Mapping[str, Any],
    model: str,
    recipe: str | None,
    overrides: Mapping[str, Any] | None,
    trials: int | None,
    budget: float | None,
    sampler: str,
    pruner: str,
    storage: str | None,
    study: str | None,
    out: Path | None,
    seed: int,
    device: str,
    threads: int | None,
    weights: Path | None,
) -> dict[str, Any]:
    check_optuna()
    check_name("sampler", sampler, SAMPLERS)
    check_name("pruner", pruner, PRUNERS)
    if trials is not None and trials < 1:
        raise InputError(f"trials = {trials}", where="--trials", allowed=["1 or more"])
    fixed, loaded = dict(overrides or {}), load_space(space)
    name, _ = choose_model(model, data.picture, len(data.classes), fixed.get("picture_size"))
    recipe, _ = choose_recipe(recipe, data.name, name)
    config = choose_config(recipe, len(data.train), fixed)
    loaded.check(config, fixed)
    if "epochs" in loaded.entries and pruner != "none":
        raise InputError("epochs are searched for: pruning compares trials of one length", mend="give --pruner none")
    if config.train_on != "train" or "train_on" in loaded.entries:
        what = "train_on: a search selects by validation, so its trials cannot be trained on it"
        raise InputError(
            what, where="settings", mend="leave it out; train the best settings on all the data afterwards"
        )
    study = study or f"{files.slug(data.name)}-{files.slug(model)}"
    out = Path("runs") / f"tune-{files.slug(study)}" if out is None else out
    source = {"name": data.name, "source": data.source, "hash": data.hash}
    asked: dict[str, Any] = {"data": source, "model": model, "recipe": recipe, "set": fixed, "space": loaded.document}
    asked |= {"weights": None if weights is None else str(weights), "sampler": sampler, "pruner": pruner, "seed": seed}
    drawn, pruning = make_sampler(sampler, loaded, seed), make_pruner(pruner, config.epochs)
    count = trials or (math.prod(map(len, loaded.grid().values())) if sampler == "grid" else _TRIALS)
    deadline = None if budget is None else time.monotonic() + budget
    check_weights(weights)
    _take_folder(out, study)
    direction = {"max": "maximize", "min": "minimize"}[Classification.best[1]]
    making: dict[str, Any] = {"model": model, "recipe": recipe, "seed": seed, "device": device}
    with open_study(storage, out, study, direction, drawn, pruning) as (opened, database):
        search = Search(opened, database, data, loaded, fixed, making, out, count, deadline, threads, weights)
        search.join(asked)
        document = {"storage": shown_url(storage) if storage else "study.db", "epochs": config.epochs, **asked}
        search.run(document)
        return {**search.write(document, last=True), "folder": str(out)}


def _take_folder(out: Path, study: str) -> None:
    """Make the folder; refuse one that holds another search."""
    files.check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    if (out / "tune.json").exists():
        found = files.read_json(out / "tune.json").get("study")
        if found != study:
            raise InputError(f"holds the search {found!r}", where=str(out), mend="give another --out, or its --study")
