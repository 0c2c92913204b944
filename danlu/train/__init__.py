"""Training that can be read from top to bottom, stopped at any moment and continued bit for bit.

:func:`train` starts a run, :func:`resume` continues one. ``loop.py`` is the loop itself; ``start.py`` chooses what it
needs (model, recipe, precision, threads) and writes it down; ``checkpoint.py`` keeps checkpoints whole or absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.callable_module import make_callable

if TYPE_CHECKING:
    from danlu.core.records import RunFolder
    from danlu.data.load import Data
    from danlu.train.loop import Training

__all__ = ["resume", "train"]


def train(
    data: Data | Path | str,
    *,
    model: str = "auto",
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    weights: Path | str | None = None,
    requested: Mapping[str, Any] | None = None,
    after_epoch: Callable[[Training], None] | None = None,
) -> RunFolder:
    """Train a model on ``data`` and return the run folder with its checkpoints, log and record.

    Args:
        data: what :func:`danlu.load_data` returns, or a name or folder for it; its test split is not touched.
        model: a name of :func:`danlu.list_models`, or ``auto``: chosen by picture size, channels and classes.
        recipe: a recipe's name; by default the one for this data and model.
        overrides: settings by dotted key, e.g. ``{"epochs": 5, "optimizer.lr": 0.1}``; see
            :class:`danlu.train.settings.TrainConfig`.
        out: the run folder; by default ``./runs/<data>-<model>-<n>``.
        seed: of initialisation, order and augmentation.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<i>`` or ``mps``.
        threads: processor threads; measured when not given.
        weights: start from this file instead of a fresh initialisation.
        requested: what the user typed; kept in ``config.json``.
        after_epoch: is called when an epoch is logged and saved; what it raises ends the training there, and
            :func:`resume` can go on from it.

    Raises:
        InputError: unknown names or settings, data that cannot be trained on, a folder that is taken or cannot be
            written; nothing was written.
        Diverged: the loss is no longer finite; the message names the batch's sample ids.
        Stopped: SIGINT or SIGTERM came; the state is saved, :func:`resume` goes on.
    """
    from danlu.data.load import check_seed, opened_data
    from danlu.train.start import start

    seed = check_seed(seed)
    return start(
        opened_data(data, seed),
        model=model,
        recipe=recipe,
        overrides=dict(overrides or {}),
        out=None if out is None else Path(out),
        seed=seed,
        device=device,
        threads=threads,
        weights=None if weights is None else Path(weights),
        requested=dict(requested or {}),
        after_epoch=after_epoch,
    )


def resume(
    run: RunFolder | Path | str,
    *,
    data: Data | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    threads: int | None = None,
    checkpoint: str = "auto",
    after_epoch: Callable[[Training], None] | None = None,
) -> RunFolder:
    """Continue a run where its last good checkpoint stands; a finished run is left as it is.

    On the same kind of machine, versions and threads the weights and the logged losses are bit for bit those of a run
    that was never interrupted.

    Args:
        run: the run folder, or what :func:`train` returned.
        data: the data it was trained on; loaded from where ``config.json`` says when not given.
        overrides: settings that must equal those of the run; a difference is shown and refused.
        device: must equal the run's, likewise.
        threads: must equal the run's, likewise.
        checkpoint: ``auto`` takes the newest good one and says which were damaged; ``last``, ``best`` or a name
            (``step-000123``) takes that one or fails, and drops what came after it.
        after_epoch: see :func:`train`.

    Raises:
        InputError: no run folder, a damaged checkpoint that was asked for by name, or data, settings, device or threads
            that differ from the run's.
        Diverged: see :func:`train`.
        Stopped: see :func:`train`.
    """
    from danlu.core.records import RunFolder
    from danlu.train.resuming import resume_run

    return resume_run(
        run.path if isinstance(run, RunFolder) else Path(run),
        data=data,
        overrides=dict(overrides or {}),
        device=device,
        threads=threads,
        checkpoint=checkpoint,
        after_epoch=after_epoch,
    )


make_callable(__name__)
