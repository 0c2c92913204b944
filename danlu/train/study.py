"""The study a search keeps its trials in: Optuna's, in a SQLite file or any database, with the seeds of its draws.

Optuna's samplers go on from a generator that dies with its process. Here each trial's draw is seeded by (seed, number
of the trial), so that a search that was killed and started again draws what it would have drawn.
"""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core import seeds
from danlu.core.errors import InputError, nearest_names
from danlu.train.space import Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "SeededSampler",
    "alive",
    "ask",
    "check_name",
    "check_optuna",
    "importances",
    "make_pruner",
    "make_sampler",
    "open_study",
    "release_stale",
    "shown_url",
]

SAMPLERS = ("grid", "random", "tpe")
PRUNERS = ("asha", "hyperband", "median", "none")

# Seconds between two signs of life of a worker, and after how many without one another machine takes its trial over.
_HEARTBEAT, _GRACE = 60, 300
# Seconds that one process waits for another to be done with a file of SQLite.
_PATIENCE = 60.0
_FEWEST = 4  # trials to say anything of importance by


def check_optuna() -> None:
    """Refuse to search without Optuna.

    Raises:
        InputError: it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("optuna") is None:
        raise InputError("optuna is not installed", where="tune", mend="pip install 'danlu[tune]'")


def check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Refuse an unknown sampler or pruner.

    Raises:
        InputError: it is.
    """
    if name not in known:
        raise InputError(
            f"unknown {kind} {name!r}", where=f"--{kind}", nearest=nearest_names(name, known), allowed=known
        )


class SeededSampler:
    """An Optuna sampler made anew for each trial, seeded by the search's seed and the trial's number.

    Args:
        make: returns the sampler for a seed.
        seed: of the search.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.inner = make(0)

    def before_trial(self, study: Study, trial: Any) -> None:
        """Seed the draws of ``trial``."""
        self.inner = self.make(seeds.derive_seed("tune/sample", self.seed, trial.number) % 2**32)
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: Any, state: Any, values: Any) -> None:
        """Do nothing: Optuna's grid would stop a loop here that is not Optuna's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def make_sampler(name: str, space: Space, seed: int) -> SeededSampler:
    """Return the sampler ``grid``, ``random`` or ``tpe`` (tree-structured Parzen estimator, Bergstra et al. 2011)."""
    from optuna import samplers

    if name == "grid":
        values = space.grid()
        # The seed orders the grid, so it is the same for every trial.
        return SeededSampler(lambda _: samplers.GridSampler(values, seed=seed % 2**32), seed)
    if name == "random":
        return SeededSampler(lambda one: samplers.RandomSampler(seed=one), seed)
    return SeededSampler(lambda one: samplers.TPESampler(seed=one), seed)


def make_pruner(name: str, epochs: int) -> BasePruner:
    """Return what ends trials early, by the validation metric after each of at most ``epochs`` epochs.

    ``asha``: after a ninth and a third of the epochs the best third goes on (Li et al. 2020); ``hyperband``: several
    such ladders that begin at different epochs (Li et al. 2018); ``median``: from the sixth trial on one ends that is
    worse than the median of those before it at the same epoch; ``none``.
    """
    from optuna import pruners

    first = max(1, epochs // 9)
    if name == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=3)
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=5)
    return pruners.NopPruner()


def shown_url(url: str) -> str:
    """Return a database's URL without its password."""
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)


@contextlib.contextmanager
def open_study(
    url: str | None, out: Path, name: str, direction: str, sampler: SeededSampler, pruner: BasePruner
) -> Iterator[tuple[Study, RDBStorage]]:
    """Open the study ``name`` of a database, or create it; without a URL in ``out/study.db``.

    Optuna's own messages are silenced while it is open.

    Raises:
        InputError: no such kind of database, its driver is not installed, or it cannot be reached.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storage, where = None, "--storage" if url else str(out / "study.db")
    try:
        storage = _storage(url or _file_url(out / "study.db"), where)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,  # type: ignore[arg-type]
            pruner=pruner,
            direction=direction,  # type: ignore[arg-type]
            load_if_exists=True,
        )
        yield study, storage
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        mend = "run the same command again when it can be reached: what is done is kept"
        raise _failed("fails", error, where, mend) from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


def _file_url(path: Path) -> str:
    """Return the URL of a SQLite file; quoted twice, as SQLAlchemy undoes it once and SQLite once more."""
    return f"sqlite:///{urllib.parse.quote(path.resolve().as_uri(), safe=':/')}?uri=true"


def _storage(url: str, where: str) -> RDBStorage:
    import optuna
    from sqlalchemy.exc import IntegrityError, SQLAlchemyError

    # Several processes write into one file: each waits for its turn.
    kwargs = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite:") else {"pool_pre_ping": True}
    callback = optuna.storages.RetryHeartbeatStaleTrialCallback
    for attempt in range(5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.storages.RDBStorage(
                    url,
                    engine_kwargs=kwargs,
                    heartbeat_interval=_HEARTBEAT,
                    grace_period=_GRACE,
                    heartbeat_stale_trial_callback=callback(),
                )
        except (ImportError, RuntimeError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            # Two processes that begin at once both make the tables, and one of them finds them made.
            if attempt < 4 and (isinstance(error, IntegrityError) or "already exists" in str(error)):
                time.sleep(0.2 * (attempt + 1))
                continue
            mend = "give a URL such as postgresql+psycopg://USER:PASSWORD@HOST/NAME, and install its driver"
            raise _failed("cannot be opened", error, where, mend) from error
    raise AssertionError("unreachable")


def _failed(what: str, error: BaseException, where: str, mend: str) -> InputError:
    first = str(error).partition("\n")[0]
    if "locked" in first:
        mend = "run the same command again when the other process is done: what is done is kept"
    elif "not a database" in first or "malformed" in first:
        mend = "restore it from a copy, or give another --out to begin anew: the runs of its trials are still there"
    return InputError(f"the database {what} ({first})", where=where, mend=mend)


def release_stale(study: Study) -> None:
    """Let trials wait for a new worker whose own, on whatever machine, has given no sign of life for five minutes."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def ask(study: Study) -> Trial:
    """Return the next trial: one that waits for a new worker, or a new one."""
    with warnings.catch_warnings():
        # Optuna expects signs of life from its own loop alone; here `alive` gives them.
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        return study.ask()


@contextlib.contextmanager
def alive(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Tell the database every minute that the trial's worker lives, while the block runs."""
    done = threading.Event()

    def beat() -> None:
        try:
            while True:
                with contextlib.suppress(Exception):  # a database that is away for a while must not end a training
                    storage.record_heartbeat(trial_id)
                if done.wait(_HEARTBEAT):
                    return
        finally:
            storage.remove_session()

    thread = threading.Thread(target=beat, name="danlu-tune-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def importances(study: Study) -> dict[str, Any]:
    """Return how much of the difference between good trials and all trials each setting explains.

    By PED-ANOVA (Watanabe, Bansal, Hutter 2023), over the trials that were trained to their end; shares of 1.

    Returns:
        ``{"method", "trials", "values": {setting: share}, "why": None}``; no values where the trials are too few or do
        not differ, and then ``why``.
    """
    import optuna

    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    found: dict[str, Any] = {"method": "PED-ANOVA", "trials": len(trials), "values": {}, "why": None}
    if len(trials) < _FEWEST:
        return {**found, "why": f"only {len(trials)} of the {_FEWEST} finished trials it needs"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        raw = optuna.importance.get_param_importances(study, normalize=False)
    total = sum(raw.values())
    if not total > 0.0:
        return {**found, "why": "no setting tells the best trials from the others"}
    return {**found, "values": {key: float(value / total) for key, value in raw.items()}}
