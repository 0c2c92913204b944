"""What is chosen by a short measurement before the first step: processor threads, and epochs that fit a time budget.

It is measured once, on a copy of the network, written down as effective settings and never measured again: resume
reuses it, because another thread count would change the last bits of every sum.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError
from danlu.models.base import VisionModel
from danlu.tasks.preprocess import PictureModel
from danlu.train.batches import make_batch
from danlu.train.convolution import choose_kernels, use_kernels
from danlu.train.distributed import ALONE
from danlu.train.fusion import choose_fused, use_fused
from danlu.train.loop import Training
from danlu.train.memory import free_bytes, is_out_of_memory, kept_bytes, parts_for
from danlu.train.optimizers import make_optimizer
from danlu.train.precision import autocast
from danlu.train.scale import largest_scale, typical_scale
from danlu.train.state import State
from danlu.train.step import takes_one
from danlu.train.transfer import Transfer

__all__ = [
    "check_threads",
    "choose_compile",
    "choose_parts",
    "choose_threads",
    "fit_epochs",
    "measure_kernels",
    "step_probe",
    "time_steps",
]

# A second thread has to win by this much: beside a busy neighbour two spinning threads run several times slower than
# one, and a short measurement may have fallen into a quiet moment.
_WORTH = 1.2
_WORTH_COMPILING = 1.05
# Seconds of training below which compiling is not even tried.
_LEAST_COMPILED = 120.0
_SECONDS, _MOST_ROUNDS, _FEWEST_ROUNDS = 0.8, 15, 3
# A budget buys at most this many times the recipe's epochs; more would only fit the training pictures by heart.
_MOST_TIMES = 4
# Validation passes forward only: about a third of a training step for the same pictures.
_VALIDATION_SHARE = 1 / 3


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that cannot be.

    Raises:
        InputError: below 1 or above 1,024.
    """
    if threads is not None and not 1 <= threads <= 1024:
        raise InputError(f"{threads} threads", where="--threads", allowed=["1 … 1024"])


def step_probe(training: Training, *, compiled: bool = False) -> Callable[[], None]:
    """Return a function that does one training step on a copy of the network; ``training`` stays as it is."""
    probe = copy.copy(training)
    probe.model, probe.transfer = _copy(training)
    if compiled:
        # A compiled network runs as it is written, without kernels of our own.
        use_kernels(probe.model.network, {})
        use_fused(probe.model.network, ())
        probe.model.network.compile()
    probe.average = probe.scaler = None
    probe.world, probe.learner = ALONE, None
    probe.state = State()
    (phase,) = probe.task.phases(probe.model)
    probe.optimizer = make_optimizer(probe.model.network, phase.parameters, training.config.optimizer)
    probe.config = typical_scale(training.config)
    indices = np.arange(training.samples_a_step // training.world.size, dtype=np.int64)
    pictures = training.train.loader.pictures(indices)
    # A rate that moves nothing: only the time counts, and the weights must stay finite.
    rate = 1e-12

    def step() -> None:
        losses = probe.do_step(make_batch(probe, indices, pictures, 0), rate, 0)
        float(losses["loss"].detach())  # wait for the device

    return step


def _copy(training: Training) -> tuple[PictureModel, Transfer | None]:
    """Return a copy of the network in train mode, frozen as in the epoch that costs the most, and its transfer."""
    model = copy.deepcopy(training.model).train()
    if training.transfer is None:
        return model, None
    assert isinstance(model.network, VisionModel)
    transfer = training.transfer.of(model.network)
    transfer.begin(min(range(training.config.epochs), key=lambda epoch: len(transfer.frozen_stages(epoch))))
    return model, transfer


def time_steps(step: Callable[[], None], candidates: Sequence[int]) -> dict[int, float]:
    """Return the median seconds of one step for each number of threads, measured in turn after a warm-up."""
    times: dict[int, list[float]] = {threads: [] for threads in candidates}
    for round_number in range(-1, _MOST_ROUNDS):
        for threads in candidates:
            torch.set_num_threads(threads)
            step()  # the first step after a change pays for waking the threads
            begin = time.perf_counter()
            step()
            if round_number >= 0:
                times[threads].append(time.perf_counter() - begin)
        if round_number + 1 >= _FEWEST_ROUNDS and sum(map(sum, times.values())) > _SECONDS * len(candidates):
            break
    return {threads: statistics.median(found) for threads, found in times.items()}


def _candidates() -> list[int]:
    most = usable_cores()
    if (told := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(told) > 0:
        most = min(most, int(told))
    return sorted({1, max(1, most // 2), most})


def choose_threads(step: Callable[[], None], given: int | None, on_processor: bool) -> tuple[int, str, float | None]:
    """Return the number of threads to train with, why, and the seconds of one step where they were measured."""
    if given is not None:
        return given, "asked for", None
    candidates = _candidates()
    if not on_processor:
        return candidates[-1], "all usable cores: the network runs elsewhere", None
    if len(candidates) == 1:
        return 1, "one usable core", None
    seconds = time_steps(step, candidates)
    best = min(candidates, key=lambda threads: (seconds[threads], threads))
    chosen = next(threads for threads in candidates if seconds[threads] <= seconds[best] * _WORTH)
    measured = ", ".join(f"{threads}: {seconds[threads] * 1e3:.1f} ms" for threads in candidates)
    return chosen, f"median time of a step by threads: {measured}", seconds[chosen]


def choose_parts(training: Training) -> tuple[int, str]:
    """Return in how many parts a batch fits into the memory that is free, and why so many."""
    size = training.config.batch_size
    free = free_bytes(training.device)
    if free is None:
        return 1, f"nobody says how much memory is free on {training.device}"
    few = min(4, training.samples_a_step)
    indices = np.arange(few, dtype=np.int64)
    batch = make_batch(training, indices, training.train.loader.pictures(indices), 0)
    model, _ = _copy(training)
    seen = largest_scale(model, training.config)

    def forward() -> object:
        with autocast(training.device, training.precision):
            return training.task.loss(seen, batch, None)

    picture = kept_bytes(forward) // len(batch)
    pictures = size // training.world.size
    parts = parts_for(picture, pictures, free)
    if parts > max(1, pictures // 2) and not takes_one(training):
        parts = pictures // 2
    what = f"a picture keeps {picture / 2**20:,.1f} MiB for the way back, {free / 2**30:,.1f} GiB are free"
    return parts, f"{what}: a batch of {size} in {parts} part{'s' * (parts > 1)}"


def measure_kernels(training: Training) -> tuple[dict[str, str], list[str], str]:
    """Return which convolutions get another weight gradient than the library's, by name, and which places are fused.

    Where memory runs out there are none, and the third value says so: a step is then cut into smaller parts when it
    runs out there, which nothing here could.
    """
    if training.precision not in ("fp32", "bf16"):
        return {}, [], ""
    try:
        return *_measured_kernels(training), ""
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return {}, [], "memory ran out while they were measured: the library's are taken"


def _measured_kernels(training: Training) -> tuple[dict[str, str], list[str]]:
    indices = np.arange(max(1, training.samples_a_step // training.parts), dtype=np.int64)
    batch = make_batch(training, indices, training.train.loader.pictures(indices), 0)
    model, _ = _copy(training)

    def forward() -> None:
        with torch.no_grad(), autocast(training.device, training.precision):
            training.task.loss(model, batch, None)

    kernels = choose_kernels(model.network, forward)
    # Other ways of running a network wrap its modules; a graph of it would pass them by.
    plain = not training.config.recompute and training.world.size == 1 and training.transfer is None
    return kernels, choose_fused(model.network, forward) if plain and training.config.channels_last else []


def choose_compile(training: Training, seconds: float) -> tuple[bool, str, float]:
    """Return whether compiling pays for this training, why, and the seconds of a step that follow.

    Args:
        training: as it would begin.
        seconds: of one step as it is.
    """
    threads, steps = torch.get_num_threads(), training.total_steps
    if training.config.budget is not None:
        # Those that the budget buys, which may be fewer or more than the recipe's.
        steps = fit_epochs(training, seconds)[0] * training.steps_per_epoch
    whole = seconds * steps
    if whole < _LEAST_COMPILED:
        return False, f"not compiled: the training takes {whole:.0f} s, compiling alone may take longer", seconds
    begin = time.perf_counter()
    try:
        probe = step_probe(training, compiled=True)
        probe()
    except Exception as error:  # a compiler that is missing or fails has no class of its own
        return False, f"torch.compile failed: {str(error).strip().splitlines()[0]}", seconds
    spent = time.perf_counter() - begin
    faster = time_steps(probe, [threads])[threads]
    saved = (seconds - faster) * steps - spent
    said = f"a step takes {seconds * 1e3:.1f} ms, compiled {faster * 1e3:.1f} ms, compiling {spent:.0f} s"
    pays = saved > 0 and faster * _WORTH_COMPILING < seconds
    return pays, f"{said}: {'compiled' if pays else 'not compiled'}", faster if pays else seconds


def fit_epochs(training: Training, step_seconds: float) -> tuple[int, str]:
    """Return how many epochs fit ``training.config.budget`` seconds at ``step_seconds`` a step, and why so many."""
    config, steps = training.config, training.steps_per_epoch
    assert config.budget is not None
    judged = len(training.validation) if training.selects else 0
    validation = judged / config.batch_size * _VALIDATION_SHARE
    epoch = max(step_seconds, 1e-9) * (steps + validation)
    fitting = math.floor(config.budget / epoch)
    epochs = max(1, min(fitting, _MOST_TIMES * config.epochs))
    why = f"an epoch takes about {epoch:.1f} s of the budget of {config.budget:g} s"
    if fitting < 1:
        why += "; one epoch is the least, so it will take longer than asked for"
    elif epochs < fitting:
        why += f"; {fitting:,} would fit, but at most {_MOST_TIMES} times the recipe's {config.epochs} are taken"
    return epochs, why
