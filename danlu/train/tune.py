"""Search for settings: ``danlu.tune``. Each trial is an ordinary run, judged on the validation split alone.

What may be chosen is a space (:mod:`danlu.train.space`), the trials are kept in a study (:mod:`danlu.train.study`), and
:mod:`danlu.train.search` does them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core import files
from danlu.core.errors import InputError
from danlu.core.records import check_outside
from danlu.data.load import Data, check_seed, opened_data
from danlu.models.hub import check_weights
from danlu.tasks.classification import Classification
from danlu.train.choose import choose_config, choose_model, choose_recipe
from danlu.train.search import Search
from danlu.train.settings import TrainConfig
from danlu.train.space import Space, load_space
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
    data: Data | Path | str,
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
        data: what :func:`danlu.load_data` returns, or a name or folder for it.
        space: a JSON file, a name of :data:`danlu.train.space.SPACES`, or a mapping; see :mod:`danlu.train.space`.
        model, recipe, device, weights: as for :func:`danlu.train`.
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
        threads: as for :func:`danlu.train`; measured in the first trial when not given.

    Returns:
        what ``tune.json`` holds (settings, all trials, the best one, what the settings matter), and its ``folder``.

    Raises:
        InputError: Optuna is missing, an unknown name, a space or setting that cannot be, a study of other settings.
        Stopped: a signal came; the trial's state is saved, and the search goes on when it is started again.
    """
    asked = _Asked(space, model, recipe, dict(overrides or {}), trials, budget, sampler, pruner, storage, study, out)
    seed = check_seed(seed)
    return _search(opened_data(data, seed), asked, seed, device, threads, weights)


@dataclass(frozen=True)
class _Asked:
    """What a search was asked for; see :func:`tune`."""

    space: str | Path | Mapping[str, Any]
    model: str
    recipe: str | None
    fixed: dict[str, Any]
    trials: int | None
    budget: float | None
    sampler: str
    pruner: str
    storage: str | None
    study: str | None
    out: Path | None

    def check(self) -> None:
        """Refuse names and numbers that cannot be.

        Raises:
            InputError: they cannot.
        """
        check_name("sampler", self.sampler, SAMPLERS)
        check_name("pruner", self.pruner, PRUNERS)
        if self.trials is not None and self.trials < 1:
            raise InputError(f"trials = {self.trials}", where="--trials", allowed=["1 or more"])


def _search(
    data: Data, asked: _Asked, seed: int, device: str, threads: int | None, weights: Path | None
) -> dict[str, Any]:
    check_optuna()
    asked.check()
    model, fixed, space = asked.model, asked.fixed, load_space(asked.space)
    name, _ = choose_model(model, data.picture, len(data.classes), fixed.get("picture_size"))
    recipe, _ = choose_recipe(asked.recipe, data.name, name)
    config = choose_config(recipe, len(data.train), fixed)
    _check_space(space, config, asked)
    study = asked.study or f"{files.slug(data.name)}-{files.slug(model)}"
    out = Path("runs") / f"tune-{files.slug(study)}" if asked.out is None else asked.out
    check_outside(out, data.source)
    source = {"name": data.name, "source": data.source, "hash": data.hash}
    known: dict[str, Any] = {"data": source, "model": model, "recipe": recipe, "set": fixed, "space": space.document}
    known |= {"weights": None if weights is None else str(weights), "sampler": asked.sampler, "pruner": asked.pruner}
    known |= {"seed": seed}
    drawn, pruning = make_sampler(asked.sampler, space, seed), make_pruner(asked.pruner, config.epochs)
    count = _trials(asked, space)
    deadline = None if asked.budget is None else time.monotonic() + asked.budget
    check_weights(weights)
    direction = {"max": "maximize", "min": "minimize"}[Classification.best[1]]
    making: dict[str, Any] = {"model": model, "recipe": recipe, "seed": seed, "device": device}
    with (
        _taken(out, study),
        open_study(asked.storage, out, study, direction, drawn, pruning) as (opened, database),
    ):
        search = Search(opened, database, data, space, fixed, making, out, count, deadline, threads, weights)
        search.join(known)
        storage = shown_url(asked.storage) if asked.storage else "study.db"
        document = {"storage": storage, "epochs": config.epochs, **known}
        search.run(document)
        return {**search.write(document, last=True), "folder": str(out)}


def _trials(asked: _Asked, space: Space) -> int:
    """Return how many trials there are in all.

    Raises:
        InputError: more than a grid has.
    """
    if asked.sampler != "grid":
        return asked.trials or _TRIALS
    whole = math.prod(map(len, space.grid().values()))
    if asked.trials and asked.trials > whole:
        # All trials have one seed: the same settings again would be the same training again.
        raise InputError(f"{asked.trials} trials of a grid of {whole}", where="--trials", allowed=[f"1 to {whole}"])
    return asked.trials or whole


def _check_space(space: Space, config: TrainConfig, asked: _Asked) -> None:
    """Refuse what cannot be searched for.

    Raises:
        InputError: it cannot.
    """
    space.check(config, asked.fixed)
    if "epochs" in space.entries and asked.pruner != "none":
        raise InputError("epochs are searched for: pruning compares trials of one length", mend="give --pruner none")
    if config.train_on != "train" or "train_on" in space.entries:
        what = "train_on: a search selects by validation, so its trials cannot be trained on it"
        raise InputError(
            what, where="settings", mend="leave it out; train the best settings on all the data afterwards"
        )


@contextlib.contextmanager
def _taken(out: Path, study: str) -> Iterator[None]:
    """Hold the folder of a search, made where there is none; folders made for nothing are removed again.

    Raises:
        InputError: it cannot be written, or holds another search.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    try:
        _take_folder(out, study)
        yield
    except InputError:
        for path in made:
            # Only what is still empty: a search that had begun keeps what it has.
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _take_folder(out: Path, study: str) -> None:
    """Make the folder; refuse one that holds another search."""
    files.check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    if (out / "tune.json").exists():
        found = files.read_json(out / "tune.json").get("study")
        if found != study:
            raise InputError(f"holds the search {found!r}", where=str(out), mend="give another --out, or its --study")
