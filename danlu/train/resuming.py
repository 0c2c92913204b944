"""Continue a run from its last good checkpoint, after making sure that nothing it depends on has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from danlu.core.environment import describe_environment
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.records import RunFolder, open_run_folder
from danlu.core.settings import apply_overrides
from danlu.data.load import Data, load_data
from danlu.train.checkpoint import Checkpoint
from danlu.train.distributed import joined
from danlu.train.loop import Training
from danlu.train.parallel import check_parallel, distribute
from danlu.train.plan import Plan, data_section, differences
from danlu.train.precision import choose_device
from danlu.train.start import finish, settled
from danlu.train.state import State
from danlu.train.step import check_parts

__all__ = ["resume_run"]

# What moves the last bits of a sum when its version changes.
_PACKAGES = ("torch", "numpy")


def resume_run(
    path: Path,
    *,
    data: Data | None,
    overrides: dict[str, Any],
    device: str | None,
    threads: int | None,
    checkpoint: str,
    after_epoch: Callable[[Training], None] | None = None,
) -> RunFolder:
    """Continue the run at ``path``; see :func:`danlu.train.resume`."""
    run = open_run_folder(path)
    where = str(run.config_path)
    effective = run.read_config().get("effective")
    if not isinstance(effective, dict):
        raise InputError("has no section 'effective'", where=where)
    plan = Plan.from_json(effective, where)
    _check_asked(plan, overrides, device, threads, where)
    if "train" in run.read_record():
        logger.info("%s is finished: nothing to do", path)
        return run
    choose_device(plan.device)
    with joined(plan.device, plan.config.rank_timeout) as world:
        check_parallel(plan.config, world.size, plan.device)
        with run.locked() if world.first else contextlib.nullcontext():
            if data is None:
                data = load_data(plan.data["source"], seed=plan.data["seed"], channels=plan.preprocess.channels)
            _check_data(plan, data)
            with settled(plan):
                training = plan.build(data, run, world)
                check_parts(training)  # there may be more ranks now, each with a smaller part
                state = world.lead(lambda: _restore(training, checkpoint, effective, world.size))
                training.state = State.from_json(state, where)
                distribute(training, world)
                training.after_epoch = after_epoch
                try:
                    training.trackers.start(run, effective, training.state.step)
                    training.run_to_end()
                    world.lead(lambda: finish(training))
                finally:
                    training.trackers.end()
    return run


def _restore(training: Training, checkpoint: str, effective: dict[str, Any], ranks: int) -> dict[str, Any]:
    """Put the training where its checkpoint stands, and the folder too; return the state."""
    run, where = training.run, str(training.run.config_path)
    training.checkpoints.clean()
    _clean_run(run)
    found = training.checkpoints.newest_good() if checkpoint == "auto" else training.checkpoints.load(checkpoint)
    if found is None:
        raise InputError(
            "holds no checkpoint: it was stopped before its first step",
            where=str(run.path),
            mend="delete it and train again",
        )
    _refuse(differences(found.state.config, effective), where, "the settings have changed since the last step")
    _go_back(training, found)
    _say(run, training, found, effective["machine"].get("ranks", 1), ranks)
    return training.state.to_json()


def _refuse(found: list[str], where: str, what: str) -> None:
    if found:
        shown = "\n    ".join(found[:20])
        raise InputError(
            f"{what}:\n    {shown}",
            where=where,
            mend="undo the change, or train a new run (--weights takes over weights)",
        )


def _check_asked(plan: Plan, overrides: dict[str, Any], device: str | None, threads: int | None, where: str) -> None:
    asked = apply_overrides(plan.config, overrides).model_dump(mode="json")
    found = differences(plan.config.model_dump(mode="json"), asked)
    if threads is not None:
        found += differences(plan.threads, threads, "threads")
    if device not in (None, "auto"):
        found += differences(plan.device, device, "device")
    _refuse(found, where, "a resumed run goes on with the settings it was begun with; this differs")


def _check_data(plan: Plan, data: Data) -> None:
    now = data_section(data)
    # Where the data lies may change; what it is may not.
    found = [line for line in differences(plan.data, now) if line.partition(":")[0] not in ("source", "name")]
    _refuse(found, plan.data["source"], "the data is not what the run was trained on")


def _clean_run(run: RunFolder) -> None:
    """Remove temporaries that a killed process left beside the records."""
    for path in run.path.glob(".*.part"):
        path.unlink(missing_ok=True)


def _go_back(training: Training, found: Checkpoint) -> None:
    """Put the training where the checkpoint stood, and cut the log back to it."""
    training.restore(found)
    state, checkpoints = training.state, training.checkpoints
    if state.best is not None:
        name = f"step-{state.best.step:06d}"
        try:
            checkpoints.load(name)
        except InputError as error:
            logger.warning("the best checkpoint is damaged; the best of the epochs to come takes its place: %s", error)
            state.best = None
    if training.run.log_length() < state.log_length:
        logger.warning("the log is shorter than the checkpoint says; some of its lines are lost")
    training.run.truncate_log(state.log_length)
    checkpoints.go_back_to(found)
    state.resumed += 1


def _say(run: RunFolder, training: Training, found: Checkpoint, begun: int, ranks: int) -> None:
    state = training.state
    logger.info(
        "resume from %s: epoch %d, step %d of %d", found.name, state.epoch + 1, state.step, training.total_steps
    )
    packages = run.read_record().get("environment", {}).get("packages", {})
    now = describe_environment()["packages"]
    for package in _PACKAGES:
        if package in packages and packages[package] != now.get(package):
            logger.warning(
                "%s is %s, the run was begun with %s: it goes on, but not bit for bit",
                package,
                now.get(package),
                packages[package],
            )
    if begun != ranks:
        logger.warning("the run was begun with %d processes: it goes on with %d, but not bit for bit", begun, ranks)
    where = {"torch": torch.__version__, **({"ranks": ranks} if ranks > 1 or begun > 1 else {})}
    training.log(kind="event", what="resume", step=state.step, epoch=state.epoch, **where)
