"""One process's part in a search for settings: trials are taken, trained and told to the study, and none is ever lost.

The study (see :mod:`danlu.train.study`) says which trials there are; a trial's run folder says how far it came. A
worker that was killed leaves a trial that is under way. Whoever starts the search again goes on with its run bit for
bit, then with new trials, until as many as were asked for are done.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core import files
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.records import SCHEMA, RunFolder
from danlu.data.load import Data
from danlu.tasks.classification import Classification
from danlu.train import resume, train
from danlu.train.loop import Diverged, Training
from danlu.train.plan import differences
from danlu.train.space import Space
from danlu.train.start import choose
from danlu.train.study import alive, ask, importances, release_stale

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

__all__ = ["Search"]

# A trial without a word of who has it: its worker died right after it got the number, if it has been so this long.
_NAMELESS_SECONDS = 60.0


class _EndEarly(Exception):
    """The pruner gives a trial up."""


class _OutOfTime(Exception):
    """The budget is over; the trial goes on when the search is started again."""


@dataclass
class Search:
    """One process's part in a search; :meth:`run` is its loop."""

    study: Study
    storage: RDBStorage
    data: Data
    space: Space
    fixed: dict[str, Any]
    making: dict[str, Any]
    out: Path
    count: int
    deadline: float | None = None
    threads: int | None = None
    weights: Path | None = None
    metric: str = field(default=Classification.best[0])

    def join(self, asked: dict[str, Any]) -> None:
        """Write down what this search is, or compare with what it was begun as.

        Raises:
            InputError: it was begun with other settings, or runs of a search that is gone lie in the folder.
        """
        known = self.study.user_attrs.get("danlu")
        now = json.loads(json.dumps(asked))
        if known is None:
            if any(self.out.glob("trial-*")):
                raise InputError("holds runs of a search that is gone", where=str(self.out), mend="give another --out")
            self.study.set_user_attr("danlu", now)
            return
        # Where the data lies may differ between machines; what it is may not.
        found = [line for line in differences(known, now) if not line.startswith(("data.source", "data.name"))]
        if found:
            shown = "\n    ".join(found[:20])
            raise InputError(
                f"the search {self.study.study_name!r} was begun with other settings:\n    {shown}",
                where=str(self.out),
                mend="give the same again to go on, or another --study and --out to begin a new one",
            )

    def run(self, document: dict[str, Any]) -> None:
        """Do trials until ``count`` are done or under way, or time is over: first those that a dead process left."""
        with contextlib.suppress(_OutOfTime):
            while self.deadline is None or time.monotonic() < self.deadline:
                with self._next() as (trial, folder):
                    if trial is None:
                        return
                    self._work(trial, folder)
                self.write(document)

    @contextlib.contextmanager
    def _next(self) -> Iterator[tuple[Trial | None, Path]]:
        """Yield a trial that no other process has, and its run folder; no trial when there is none to do."""
        with contextlib.ExitStack() as stack:
            trial = self._orphan(stack)
            if trial is not None:
                yield trial, self._folder(trial.number, trial.user_attrs)
                return
            release_stale(self.study)
            if self._counted() >= self.count and not self._waiting():
                yield None, self.out
                return
            trial = ask(self.study)
            if "run" not in trial.user_attrs and self._counted(before=trial.number) >= self.count:
                # Another process took the last place between the look and the question.
                self._tell(trial, "FAIL", ended="surplus")
                yield None, self.out
                return
            folder = self._folder(trial.number, trial.user_attrs)
            try:
                stack.enter_context(self._claim(folder))
            except InputError:
                # The worker that was given up for dead lives: this one leaves it its folder.
                folder = self.out / f"trial-{trial.number:04d}"
                stack.enter_context(self._claim(folder))
            for key, value in (("out", str(folder.parent.resolve())), ("run", folder.name), ("host", platform.node())):
                trial.set_user_attr(key, value)
            yield trial, folder

    def _orphan(self, stack: contextlib.ExitStack) -> Trial | None:
        """Return a trial that is under way by its state, while no process of this machine has its claim."""
        from optuna.trial import Trial, TrialState

        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            attributes = frozen.user_attrs
            folder = self._folder(frozen.number, attributes)
            if "host" in attributes:
                # Of other machines the heartbeat tells; a lock of theirs may not be seen here.
                if attributes["host"] != platform.node() or not _claim_of(folder).is_dir():
                    continue
            elif (datetime.datetime.now() - (frozen.datetime_start or datetime.datetime.now())).total_seconds() < (
                _NAMELESS_SECONDS
            ):
                continue
            claim = contextlib.ExitStack()
            try:
                claim.enter_context(self._claim(folder))
            except InputError:
                continue
            if self.study.get_trials(deepcopy=False)[frozen.number].state is TrialState.RUNNING:
                stack.push(claim)
                logger.info("trial %d: go on with what a stopped process left", frozen.number)
                trial = Trial(self.study, frozen._trial_id)
                for key, value in (("out", str(folder.parent.resolve())), ("run", folder.name)):
                    trial.set_user_attr(key, value)
                return trial
            claim.close()
        return None

    def _folder(self, number: int, attributes: Mapping[str, Any]) -> Path:
        """Return a trial's run folder: below this search's folder, or where the process that had it put it."""
        name = str(attributes.get("run", f"trial-{number:04d}"))
        here = self.out / name
        there = Path(str(attributes.get("out", self.out))) / name
        return there if there.exists() and not here.exists() else here

    @contextlib.contextmanager
    def _claim(self, folder: Path) -> Iterator[None]:
        """Hold a trial's claim; its lock ends with the process, however that ends."""
        claim = _claim_of(folder)
        claim.mkdir(parents=True, exist_ok=True)
        with files.lock(claim, "trial's"):
            yield

    def _counted(self, before: int | None = None) -> int:
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)[:before]
        return sum(trial.state is not TrialState.FAIL for trial in trials)

    def _waiting(self) -> bool:
        from optuna.trial import TrialState

        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _work(self, trial: Trial, folder: Path) -> None:
        """Train one trial, from its beginning or from where it stands, and tell the study what became of it."""
        from optuna.exceptions import UpdateFinishedTrialError

        settings = self.space.draw(trial)
        words = ", ".join(f"{key} {value}" for key, value in settings.items())
        logger.info("trial %d of %d: %s", trial.number + 1, self.count, words)
        try:
            with alive(self.storage, trial._trial_id):
                self._train(trial, folder, settings)
        except UpdateFinishedTrialError:
            logger.warning("trial %d was taken over by another process", trial.number)

    def _train(self, trial: Trial, folder: Path, settings: dict[str, Any]) -> None:
        run = RunFolder(folder)
        overrides = {**self.fixed, **settings}
        try:
            # Told apart from a full disk and the like, which end the search: settings that do not go together.
            choose(self.data, overrides=overrides, **self.making)
        except InputError as error:
            logger.warning("trial %d: these settings are refused: %s", trial.number, error)
            self._tell(trial, "PRUNED", ended="refused", reason=str(error))
            return
        reporter = _Reporter(self, trial)
        try:
            if self._is_begun(run, overrides):
                reporter.decide(run.read_config()["effective"]["train"]["epochs"])
                resume(folder, data=self.data, after_epoch=reporter)
            else:
                # Killed before its first checkpoint: there is nothing in it to go on from.
                shutil.rmtree(folder, ignore_errors=True)
                train(
                    self.data,
                    overrides=overrides,
                    out=folder,
                    threads=self.threads,
                    weights=self.weights,
                    requested={"verb": "tune", "study": self.study.study_name, "trial": trial.number},
                    after_epoch=reporter,
                    **self.making,
                )
        except _EndEarly:
            self._tell(trial, "PRUNED", ended="pruned", **_cost(run))
            return
        except Diverged as error:
            logger.warning("trial %d: %s", trial.number, error)
            self._tell(trial, "PRUNED", ended="diverged", reason=str(error), **_cost(run))
            return
        reporter.catch_up(run)
        best = run.read_record()["train"]["best"]
        # Measured once in a search, and not in every trial.
        self.threads = self.threads or run.read_config()["effective"]["machine"]["threads"]
        self._tell(trial, "COMPLETE", best[self.metric], loss=best["loss"], **_cost(run))

    def _is_begun(self, run: RunFolder, overrides: dict[str, Any]) -> bool:
        """Return whether the folder holds a run of these very settings that can be gone on with."""
        if not run.config_path.is_file():
            return False
        return bool(run.read_config()["requested"].get("set") == json.loads(json.dumps(overrides)))

    def _tell(self, trial: Trial, state: str, value: float | None = None, **facts: Any) -> None:
        from optuna.trial import TrialState

        for key, fact in facts.items():
            trial.set_user_attr(key, fact)
        self.study.tell(trial, value, TrialState[state], skip_if_finished=True)

    def write(self, document: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
        """Write ``tune.json`` and return what it holds; ``last``: with what the settings matter."""
        rows = [self._row(frozen) for frozen in self.study.get_trials(deepcopy=False)]
        rows = [row for row in rows if row["state"] != "surplus"]
        sign = -1.0 if Classification.best[1] == "max" else 1.0
        complete = [row for row in rows if row["state"] == "complete"]
        ranked = sorted(complete, key=lambda row: (sign * row["value"], row["loss"], row["number"]))
        found = {
            "schema": SCHEMA,
            "study": self.study.study_name,
            **document,
            "split": "validation",
            "metric": self.metric,
            "direction": Classification.best[1],
            "trials": rows,
            "ranking": [row["number"] for row in ranked],
            "best": ranked[0] if ranked else None,
            "importances": importances(self.study) if last else None,
        }
        files.write_json(self.out / "tune.json", found)
        return found

    def _row(self, frozen: FrozenTrial) -> dict[str, Any]:
        attributes = frozen.user_attrs
        state = frozen.state.name.lower()
        state = attributes.get("ended", "retried") if state in ("pruned", "fail") else state
        values = frozen.intermediate_values
        return {
            "number": frozen.number,
            "state": state,
            "value": frozen.value if state == "complete" else (values[max(values)] if values else None),
            "loss": attributes.get("loss"),
            "epochs": attributes.get("epochs", len(values)),
            "seconds": attributes.get("seconds"),
            "settings": self.space.decode(frozen.params),
            "run": attributes.get("run"),
            "host": attributes.get("host"),
            "reason": attributes.get("reason"),
        }


class _Reporter:
    """Tells the study a trial's validation metric after each epoch, and ends the trial where the pruner says so."""

    def __init__(self, search: Search, trial: Trial) -> None:
        self.search, self.trial = search, trial
        self.known = set(search.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def __call__(self, training: Training) -> None:
        """Be called after each epoch, when it is saved."""
        self.catch_up(training.run)
        is_last = training.state.epoch >= training.config.epochs
        # Asked after the last epoch too, because the pruner compares later trials with this one.
        if self.trial.should_prune() and not is_last:
            raise _EndEarly
        deadline = self.search.deadline
        if deadline is not None and time.monotonic() >= deadline and not is_last:
            logger.info("time is over; trial %d goes on when the search is started again", self.trial.number)
            raise _OutOfTime

    def decide(self, epochs: int) -> None:
        """Ask the pruner about the last epoch told: the process may have been killed before it could."""
        if self.known and max(self.known) < epochs and self.trial.should_prune():
            raise _EndEarly

    def catch_up(self, run: RunFolder) -> None:
        """Tell every epoch of the log that the study does not know yet."""
        for entry in run.read_log():
            if entry["kind"] == "epoch" and entry["epoch"] + 1 not in self.known:
                self.trial.report(entry["validation"][self.search.metric], entry["epoch"] + 1)
                self.known.add(entry["epoch"] + 1)


def _claim_of(folder: Path) -> Path:
    return folder.parent / "claims" / folder.name


def _cost(run: RunFolder) -> dict[str, Any]:
    """Return how many epochs a run took, and their seconds."""
    epochs = [entry for entry in run.read_log() if entry["kind"] == "epoch"]
    return {"epochs": len(epochs), "seconds": round(sum(entry["seconds"] for entry in epochs), 3)}
