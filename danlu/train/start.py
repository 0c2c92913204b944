"""Start a run: what can be wrong is found before anything is written; then it is written down and trained."""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.augment.chain import make_chain
from danlu.core import files, seeds
from danlu.core.allocator import keep_freed_memory
from danlu.core.environment import describe_environment
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.records import SCHEMA, RunFolder, new_run_folder
from danlu.data.load import Data
from danlu.models import MODELS
from danlu.models.base import VisionModel
from danlu.models.hub import find_weights
from danlu.train.choose import choose_config, choose_model, choose_pictures, choose_recipe, several_labels
from danlu.train.distributed import ALONE, World, joined
from danlu.train.initialise import initialise
from danlu.train.loop import Training
from danlu.train.measure import (
    check_threads,
    choose_compile,
    choose_parts,
    choose_threads,
    fit_epochs,
    measure_kernels,
    step_probe,
    time_steps,
)
from danlu.train.parallel import check_parallel, distribute
from danlu.train.pictures import first_batch, show_batch, write_augmented
from danlu.train.plan import Plan, data_section
from danlu.train.precision import choose_device, choose_precision, matrix_products
from danlu.train.scale import check_scales
from danlu.train.settings import InitialiseSettings, TrainConfig
from danlu.train.step import check_parts
from danlu.train.transfer import HEAD, load_fitting, stage_parameters

__all__ = [
    "check_start",
    "choose",
    "environment_record",
    "finish",
    "fresh",
    "measure",
    "settled",
    "start",
    "take_over",
]

# For networks with filters that are fixed by the pictures before the first step, the method ``whiten``; as many as the
# script of airbench takes.
_WHITENED = 5000


def start(
    data: Data,
    *,
    model: str,
    recipe: str | None,
    overrides: dict[str, Any],
    out: Path | None,
    seed: int,
    device: str,
    threads: int | None,
    weights: Path | None,
    requested: dict[str, Any],
    after_epoch: Callable[[Training], None] | None = None,
) -> RunFolder:
    """Choose, check, write down, train; see :func:`danlu.train.train`."""
    check_threads(threads)
    plan, why = choose(data, model=model, recipe=recipe, overrides=overrides, seed=seed, device=device)
    check_start(plan.config, weights)
    asked = {"model": model, "recipe": recipe, "set": overrides, "seed": seed, "device": device, "threads": threads}
    with joined(plan.device, plan.config.rank_timeout) as world:
        plan = _agree(plan, data, world)
        with settled(plan):
            # Built once to no folder, so that weights that do not fit are found before a folder is made.
            training = fresh(plan, data, world)
            taken: dict[str, str] | None = None
            if weights is not None:
                file = find_weights(weights, MODELS.get(plan.model))
                why |= take_over(training, plan, file)
                taken = {"file": str(weights), "sha256": files.sha256_file(file)}
            run = RunFolder(Path(world.lead(lambda: _new_folder(out, data, plan, training))))
            with run.locked() if world.first else contextlib.nullcontext():
                training.run, training.checkpoints.folder = run, run.checkpoints
                asked |= {"weights": taken, **requested}
                begin = functools.partial(_begin, training, plan, data, threads, asked, why)
                try:
                    effective = world.lead(begin)
                    _follow(training, Plan.from_json(effective, str(run.config_path)), effective)
                    distribute(training, world)
                    training.after_epoch = after_epoch
                    training.run_to_end()
                    world.lead(lambda: finish(training))
                finally:
                    # Also where it diverged or was stopped: the next run of this process begins a session of its own.
                    training.trackers.end()
    return run


def check_start(config: TrainConfig, weights: Path | None) -> None:
    """Refuse what has no sense for a network without weights of its own, or for one with them.

    Raises:
        InputError: a frozen body or weights in part are asked for, but none are given; or they are, and an initialiser
            that looks at what the fresh ones do.
    """
    transfer = config.transfer
    if weights is None and (transfer.freeze == "body" or transfer.partial):
        key = "transfer.freeze = body" if transfer.freeze == "body" else "transfer.partial"
        what = f"{key} is for given weights; a fresh network has none worth keeping"
        raise InputError(what, where="--set", mend="give --weights FILE")
    if weights is not None and config.init.name == "lsuv":
        what = "init.name = lsuv scales layers by what the fresh ones give, which --weights takes the place of"
        raise InputError(what, where="settings", mend="give another init.name, or no --weights")


def _begin(
    training: Training, plan: Plan, data: Data, threads: int | None, asked: dict[str, Any], why: dict[str, str]
) -> dict[str, Any]:
    """Measure what is to be measured and write the run down; return what takes effect. Rank 0 does so for all."""
    run = training.run
    if run.config_path.exists():
        # Another run took the folder between the look and the lock, and has finished already.
        raise InputError("was taken by another run", where=str(run.path), mend="give another --out")
    measured = measure(plan, training, threads, why)
    training.world = ALONE  # the others wait for what is measured and written here
    _write_down(run, data, measured, training, asked, why)
    training.trackers.start(run, measured.to_json(), 0)
    show_batch(training)
    return measured.to_json()


def _follow(training: Training, plan: Plan, effective: dict[str, Any]) -> None:
    """Take over, on every rank, what rank 0 measured."""
    newly = plan.config.compile is True and training.config.compile is not True
    training.config, training.state.config = plan.config, effective
    torch.set_num_threads(plan.threads)
    plan.use_chosen(training.model.network)
    if newly:
        training.model.network.compile()


def _agree(plan: Plan, data: Data, world: World) -> Plan:
    """Return rank 0's plan, after making sure that all ranks read the same data and can train together.

    Raises:
        InputError: they do not, or cannot.
    """
    check_parallel(plan.config, world.size, plan.device, begins=True)
    if not world.same(f"{data.hash} {data.seed}"):
        what = f"the ranks do not read the same data; rank {world.rank} reads {data.source}, hash {data.hash[:12]}…"
        raise InputError(what, where="torchrun", mend="give all machines the same copy")
    return replace(Plan.from_json(world.share(plan.to_json()), "rank 0"), ranks=world.size)


def _new_folder(out: Path | None, data: Data, plan: Plan, training: Training) -> str:
    """Make the run folder, where there is room for the checkpoints."""
    # Weights, momentum and perhaps an average, in four bytes each, for each checkpoint that is kept at once.
    training.checkpoints.folder = (out or Path("runs")) / "checkpoints"
    training.checkpoints.check_space(16 * sum(p.numel() for p in training.model.parameters()) + 2**20)
    return str(new_run_folder(out, data.name, plan.model).path)


def fresh(plan: Plan, data: Data, world: World = ALONE) -> Training:
    """Return a training at its first step that belongs to no folder, its weights set as network and recipe ask."""
    training = plan.build(data, RunFolder(Path()), world)
    check_parts(training)
    whiten = getattr(training.model.network, "whiten", None)
    if whiten is not None:
        whiten(_drawn_pictures(training, _WHITENED))
        training.follow_weights()
    if plan.config.init != InitialiseSettings():
        initialise(training.model.network, plan.config.init, lambda: _first_pictures(training))
        training.follow_weights()
    return training


def _first_pictures(training: Training) -> Tensor:
    """Return the first batch, augmented, as the network takes it."""
    found: Tensor = training.model.preprocess(first_batch(training).pictures)
    return found


def _drawn_pictures(training: Training, most: int) -> Tensor:
    """Return at most so many pictures, drawn since folders come class by class, not augmented, as the network takes."""
    drawn = np.sort(seeds.permutation(len(training.train), "train/whiten", training.seed)[:most])
    pictures = torch.from_numpy(training.train.loader.pictures(drawn)).to(training.device)
    found: Tensor = training.model.preprocess(pictures)
    return found


def take_over(training: Training, plan: Plan, file: Path) -> dict[str, str]:
    """Load what fits of a file of weights; say what did, and what was left for ``init``.

    Raises:
        InputError: the file does not fit, or sets everything that ``init`` was to set.
    """
    network = training.model.network
    assert isinstance(network, VisionModel)
    picture = (plan.preprocess.channels, *plan.preprocess.input_size)
    head = stage_parameters(network, picture)[HEAD]
    loaded = load_fitting(network, file, head, partial=plan.config.transfer.partial)
    training.follow_weights()
    why = {"weights": loaded.text()}
    if plan.config.init != InitialiseSettings():
        fresh = [*loaded.missing, *loaded.reshaped]
        if not fresh:
            what = f"init.name = {plan.config.init.name}: --weights sets every tensor, so that init would set none"
            raise InputError(what, where="settings", mend="leave the settings of init out, or --weights")
        why["init"] = f"only for the {len(fresh)} tensors that --weights does not set: {', '.join(fresh[:5])}"
    return why


def choose(
    data: Data, *, model: str, recipe: str | None, overrides: dict[str, Any], seed: int, device: str
) -> tuple[Plan, dict[str, str]]:
    """Return what takes effect as far as it needs no measurement, and why."""
    why: dict[str, str] = {}
    name, why["model"] = choose_model(model, data.picture, len(data.classes), overrides.get("picture_size"))
    recipe_name, why["recipe"] = choose_recipe(recipe, data.name, name)
    config = choose_config(recipe_name, len(data.train), overrides)
    if data.multilabel:
        config, why["loss.kind"] = several_labels(config)
    make_chain(config.augment).check_one_label()
    _check_data(data, config)
    preprocess, why["picture_size"] = choose_pictures(config, data, name)
    make_chain(config.augment).check_pictures(*preprocess.picture_size, preprocess.channels)
    check_scales(config, name, preprocess.channels)
    chosen = choose_device(device)
    precision, why["precision"] = choose_precision(config.precision, chosen)
    plan = Plan(
        data=data_section(data),
        model=name,
        preprocess=preprocess,
        config=config,
        recipe=recipe_name,
        device=str(chosen),
        precision=precision,
        threads=torch.get_num_threads(),
        seed=seed,
    )
    return plan, why


def _check_data(data: Data, config: TrainConfig) -> None:
    if len(data.classes) < 2:
        raise InputError(
            f"one class only ({', '.join(data.classes)}), a classifier needs two",
            where=data.source,
            mend="add a folder for another class",
        )
    for name in ("train", "validation"):
        if not len(data.split(name)):
            raise InputError(f"the {name} split is empty", where=data.source, mend="add pictures")
    data.check_batch(config.batch_size, "batch_size")
    steps = (len(data.train) + len(data.validation)) // config.batch_size * config.epochs
    if config.lookahead is not None and config.lookahead > steps and config.budget is None:
        what = f"lookahead = {config.lookahead} never comes in the {steps} steps of this training"
        raise InputError(what, where="settings", mend="give a smaller one, or leave it out")


@contextlib.contextmanager
def settled(plan: Plan) -> Iterator[None]:
    """Train with the plan's threads; threads and torch's generators are as before when the block ends."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    devices = [torch.device(plan.device)] if plan.device.startswith("cuda") else []
    torch.set_num_threads(plan.threads)
    try:
        with torch.random.fork_rng(devices=devices), matrix_products(plan.precision):
            yield
    finally:
        torch.set_num_threads(threads)


def measure(plan: Plan, training: Training, given: int | None, why: dict[str, str]) -> Plan:
    """Return the plan with what is chosen by a measurement: parts of a batch, threads, compilation, epochs."""
    if plan.config.accumulate == "auto":
        parts, why["accumulate"] = choose_parts(training)
        plan = plan.with_settings(accumulate=parts)
        training.config = plan.config
    probe = step_probe(training)
    threads, why["threads"], seconds = choose_threads(probe, given, training.device.type == "cpu")
    torch.set_num_threads(threads)
    plan = plan.with_threads(threads)
    if plan.config.kernels == "auto" and training.device.type == "cpu" and plan.config.compile is not True:
        kernels, fused, failed = measure_kernels(training)
        plan = plan.with_kernels(kernels, fused)
        if failed:
            why["kernels"] = failed
        if kernels:
            why["kernels"] = f"measured to be faster for {len(kernels)} convolutions"
        if fused:
            why["fused"] = f"measured to be faster at {len(fused)} places"
        if kernels or fused:
            plan.use_chosen(training.model.network)
            seconds, probe = None, step_probe(training)
    if seconds is None and (plan.config.budget is not None or plan.config.compile == "auto"):
        seconds = time_steps(probe, [threads])[threads]
    if plan.config.compile == "auto":
        assert seconds is not None
        pays, why["compile"], seconds = choose_compile(training, seconds)
        plan = plan.with_settings(compile=pays)
        if pays:
            plan = plan.with_kernels({})
    if plan.config.budget is not None:
        assert seconds is not None
        epochs, why["epochs"] = fit_epochs(training, seconds)
        plan = plan.with_settings(epochs=epochs)
    return plan


def _write_down(
    run: RunFolder, data: Data, plan: Plan, training: Training, requested: dict[str, Any], why: dict[str, str]
) -> None:
    """Write config, record, a picture of an augmented batch and the checkpoint of step 0."""
    for key, reason in why.items():
        logger.info("%s: %s", key, f"{plan.model}, {reason}" if key == "model" else reason)
    effective = plan.to_json()
    training.state.config = effective
    run.checkpoints.mkdir(exist_ok=True)
    # A checkpoint of the very start: resume works from the first step on, and a disk that fails is found now.
    training.save()
    run.update_record(data=data.to_record(), environment=environment_record(plan))
    write_augmented(training, run.pictures / "augmented.png")
    # Last, because it makes the folder a run: one that has a config has a checkpoint too.
    # Random, not drawn from the seed: what tells this run from all others, on whatever machine they have its name.
    document = {"schema": SCHEMA, "id": uuid.uuid4().hex, "requested": requested, "effective": effective, "why": why}
    files.write_json(run.config_path, document)


def environment_record(plan: Plan) -> dict[str, Any]:
    """Return the ``environment`` section of the record."""
    found = {
        "device": plan.device,
        "threads": plan.threads,
        "precision": plan.precision,
        "channels_last": plan.config.channels_last,
        "allocator": keep_freed_memory(),
    }
    if plan.device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(torch.device(plan.device))
    return {**describe_environment(), **found}


def finish(training: Training) -> None:
    """Write the ``train`` section of the record: a run that has it is finished."""
    state = training.state
    best = state.best
    assert best is not None or not training.selects
    pictures = state.step * training.config.batch_size
    value = None if best is None else best.value if training.task.best[1] == "max" else -best.value
    left_out = 0 if training.scaler is None else training.scaler.left_out
    training.trackers.end()
    went_on = training.run.read_record().get("train", {}).get("steps") != state.step
    # It may have been evaluated and exported when it was stopped: other weights than those it ends with.
    if went_on and (dropped := training.run.keep_only("data", "environment", "train", "stages")):
        logger.warning("dropped what was measured of earlier weights: %s", ", ".join(dropped))
    training.run.update_record(
        train={
            "epochs": state.epoch,
            "steps": state.step,
            "seconds": state.total_seconds,
            "pictures_per_second": pictures / max(state.total_train_seconds, 1e-9),
            "trained_on": training.config.train_on,
            "best_epoch": None if best is None else best.epoch,
            "best": None if best is None else {best.metric: value, "loss": best.loss},
            "left_out": left_out,
            "resumed": state.resumed,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    )
    judged = "on training and validation, so the last weights are taken and no figure of validation stands"
    if best is not None:
        judged = f"best {best.metric} {value:.4f} after epoch {best.epoch + 1}"
    logger.info("trained %d epochs in %.1f s; %s", state.epoch, state.total_seconds, judged)
    if left_out:
        logger.warning("%d of %d steps were left out: their gradients overflowed in fp16", left_out, state.step)
