"""Many processes, one training: what ``torchrun`` tells each of them, and how they agree.

Only rank 0 writes. What one rank alone finds out (a signal, a full disk, a measured number of threads) is told to all
of them at a place that all of them reach, so that they never wait for each other at different ones. Values travel as
JSON and plain tensors, never as pickles. A rank that is dead or hung ends the others within ``rank_timeout``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.core.environment import launched
from danlu.core.errors import DanluError, InputError
from danlu.core.log import logger
from danlu.train.state import Tally

if TYPE_CHECKING:
    from danlu.train.signals import StopRequest

__all__ = ["ALONE", "RankFailed", "RankLost", "World", "joined", "local"]

# Some of its functions are not declared as public, documented as they are.
collective: Any = torch.distributed
# Seconds between two questions "shall we stop or save?": each costs all ranks a message.
_ASK_EVERY = 0.5
# Ranks wait at least this long for each other at the start.
_START = 300.0
# How long a rank that lost another one waits for signs of life, to say which one it was.
_ROLL_CALL = 2.0
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|timed? ?out|broken pipe|socket", re.I)


class RankLost(DanluError):
    """Another process of this training died, hangs, or cannot be reached any more (exit code 70)."""


class RankFailed(DanluError):
    """Rank 0 refused or failed; ``exit_code`` is that of its error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(eq=False)
class World:
    """The processes that train together.

    Attributes:
        rank: of this process, from 0; rank 0 writes.
        size: how many there are.
        local_rank: of this process among those of its machine.
        store: where ranks leave signs of life; None where there is one process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Any = None
    _calls: int = 0
    _ask_after: int = 1
    _asked: float = field(default_factory=time.monotonic)

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def place(self, device: str) -> torch.device:
        """Return the device of this rank: of ``cuda``, the GPU of its number on its machine."""
        if self.size > 1 and device == "cuda":
            return torch.device("cuda", self.local_rank)
        return torch.device(device)

    def part(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this rank's part of a batch; all parts are equally large, in the order of the ranks."""
        count = len(indices) // self.size
        return indices[self.rank * count : (self.rank + 1) * count]

    def counters(self, part: int) -> list[int]:
        """Return what the seed of ``part`` of a step has beside seed and step; nothing for the first of rank 0."""
        return [part, self.rank] if self.rank else [part] if part else []

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all ranks."""
        if self.size > 1:
            values = values.clone()
            collective.all_reduce(values)
        return values

    def most(self, values: list[int]) -> list[int]:
        """Return the largest of each of ``values`` over all ranks."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.int64)
        collective.all_reduce(tensor, op=collective.ReduceOp.MAX)
        found: list[int] = tensor.tolist()
        return found

    def share(self, value: Any) -> Any:
        """Return rank 0's ``value``, plain enough for JSON, on all ranks."""
        if self.size == 1:
            return value
        content = json.dumps(value).encode() if self.first else b""
        length = torch.tensor([len(content)], dtype=torch.int64)
        collective.broadcast(length, src=0)
        # One byte more, so that nothing is never sent.
        data = torch.zeros(int(length) + 1, dtype=torch.uint8)
        if self.first:
            data[:-1] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        collective.broadcast(data, src=0)
        return json.loads(data[:-1].numpy().tobytes())

    def lead(self, work: Callable[[], Any]) -> Any:
        """Let rank 0 do ``work``; return its result, plain enough for JSON, on all ranks.

        Raises:
            RankFailed: on the others, where it raised an error of ours on rank 0; there that error itself.
        """
        if self.size == 1:
            return work()
        if not self.first:
            told = self.share(None)
            if "error" in told:
                raise RankFailed(f"rank 0: {told['error']}", told["exit_code"])
            return told["result"]
        try:
            result = work()
        except DanluError as error:
            self.share({"error": str(error).partition("\n")[0], "exit_code": error.exit_code})
            raise
        self.share({"result": result})
        return result

    def spread(self, tensors: Mapping[str, Tensor]) -> None:
        """Give all ranks rank 0's values, in place; all must name the same tensors."""
        if self.size == 1:
            return
        for name in sorted(tensors):
            value = tensors[name]
            # Sent in the order of the dimensions, whatever the order in memory.
            sent = value.detach().contiguous()
            collective.broadcast(sent, src=0)
            if sent.data_ptr() != value.data_ptr():
                with torch.no_grad():
                    value.copy_(sent)

    def rows(self, names: tuple[str, ...], rows: Tensor) -> Tensor:
        """Return the figures [steps, names] of whole batches, given those of this rank's parts.

        Counts are added; means are over labelled samples, so each rank's weighs as much as it has of them.
        """
        if self.size == 1:
            return rows
        counts = [place for place, name in enumerate(names) if name in Tally.COUNTS]
        means = [place for place, name in enumerate(names) if name not in Tally.COUNTS]
        labelled = names.index("labelled")
        sums = rows.double()
        sums[:, means] *= sums[:, [labelled]]
        sums = self.sum(sums)
        sums[:, means] /= sums[:, [labelled]].clamp(min=1)
        assert counts
        return sums.to(rows.dtype)

    def rounds(self, parts: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Return this rank's share of ``parts``: as many as each other rank's, so that all work in step.

        A rank that would have one fewer does its last one twice, or the first of all; :meth:`in_order` leaves it out.
        """
        own = parts[self.rank :: self.size]
        lacking = -(-len(parts) // self.size) - len(own)
        return own + ([own[-1] if own else parts[0]] * lacking)

    def in_order(self, rows: Tensor, count: int) -> Tensor:
        """Return the figures of all ``count`` parts in their order, given those of this rank's :meth:`rounds`."""
        if self.size == 1:
            return rows
        own = len(range(self.rank, count, self.size))
        every = torch.zeros((count, rows.shape[1]), dtype=rows.dtype)
        every[self.rank :: self.size] = rows[:own]
        return self.sum(every)  # all but one are zeros, so nothing is rounded

    def same(self, value: str) -> bool:
        """Return, on all ranks alike, whether all of them have rank 0's ``value``."""
        return not self.most([int(self.share(value) != value)])[0]

    def consult(self, stop: StopRequest, due: bool = False) -> bool:
        """Return whether all ranks shall stop or save now: one of them was asked to stop, or rank 0 finds it ``due``.

        All ranks call this after every step. They exchange messages only about every half second.
        """
        if self.size == 1:
            return stop.number is not None or due
        self._calls += 1
        if self._calls < self._ask_after:
            return False
        now = time.monotonic()
        each = (now - self._asked) / self._calls
        wanted = min(1000, max(1, int(_ASK_EVERY / max(each, 1e-6)))) if self.first else 0
        act, self._ask_after = self.most([int(stop.number is not None or (due and self.first)), wanted])
        self._calls, self._asked = 0, now
        return bool(act)

    def stop_number(self, stop: StopRequest) -> int | None:
        """Return the signal that asked any rank to stop, or None; the same on all ranks."""
        if self.size == 1:
            return stop.number
        return self.most([stop.number or 0])[0] or None

    def missing(self) -> list[int]:
        """Return the ranks that give no sign of life, for the message of a rank that lost another."""
        found: list[int] = []
        with contextlib.suppress(RuntimeError):  # the store may have gone with its rank
            self.store.set(f"alive/{self.rank}", "1")
            end = time.monotonic() + _ROLL_CALL
            while found := [rank for rank in range(self.size) if not self.store.check([f"alive/{rank}"])]:
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
        return found


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a sharded tensor, which shares its memory; any other tensor as it is."""
    shard = getattr(tensor, "to_local", None)
    found: Tensor = tensor if shard is None else shard()
    return found


# One process that trains by itself.
ALONE = World()
_store: Any = None
_sessions = 0


@contextlib.contextmanager
def joined(device: str, seconds: float) -> Iterator[World]:
    """Join the other processes that ``torchrun`` started, if it did, while the block runs.

    Args:
        device: what the network will run on: ``cpu``, or ``cuda`` for one GPU a rank.
        seconds: how long a rank waits for another before it gives up.

    Raises:
        InputError: the environment is not what torchrun sets, or the device cannot be shared.
        RankLost: another rank died or hangs.
    """
    told = launched()
    if told is None or told[1] == 1:
        yield ALONE
        return
    world = World(*told)
    _check_device(world, device)
    level = logger.level
    try:
        with _naming(world):
            _start(world, device, seconds)
            if not world.first:
                logger.setLevel(max(logging.ERROR, level))
            logger.info("%d processes train together; this is the one that writes", world.size)
            yield world
    except RankLost:
        # The group is broken: leaving it would wait for those that are gone.
        raise
    except BaseException:
        _leave()
        raise
    else:
        with _naming(world):
            # None leaves before all are done: it would look dead to those that still wait for it.
            collective.barrier()
        _leave()
    finally:
        logger.setLevel(level)


def _check_device(world: World, device: str) -> None:
    if not collective.is_available():
        raise InputError("this torch was built without torch.distributed", where="torchrun")
    if device not in ("cpu", "cuda"):
        mend = "give --device auto, cpu or cuda: of several GPUs each rank takes the one of its LOCAL_RANK"
        raise InputError(f"--device {device} cannot be shared by {world.size} ranks", where="torchrun", mend=mend)
    if device == "cuda" and world.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"local rank {world.local_rank} has no GPU: this machine has {torch.cuda.device_count()}",
            where="torchrun",
            mend="start as many processes a machine as it has GPUs (--nproc-per-node)",
        )


def _start(world: World, device: str, seconds: float) -> None:
    """Start the process group: gloo for tensors in memory, NCCL for those on GPUs."""
    global _store, _sessions
    wait, begin = timedelta(seconds=seconds), timedelta(seconds=max(seconds, _START))
    if device == "cuda":
        torch.cuda.set_device(world.local_rank)
    if _store is None:
        _store, _, _ = next(collective.rendezvous("env://", world.rank, world.size, timeout=begin))
    _sessions += 1
    # Several trainings of one process must not read each other's addresses, nor a restart those of the dead: torchrun
    # keeps its store.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    world.store = collective.PrefixStore(f"danlu/{attempt}/{_sessions}", _store)
    _meet(world, seconds)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    collective.init_process_group(backend, store=world.store, rank=world.rank, world_size=world.size, timeout=wait)


def _meet(world: World, seconds: float) -> None:
    """Wait until all ranks are there: they may start minutes apart, where a running one answers in seconds.

    Raises:
        RankLost: some did not come; it names them.
    """
    world.store.set(f"here/{world.rank}", "1")
    end = time.monotonic() + max(seconds, _START)
    while absent := [rank for rank in range(world.size) if not world.store.check([f"here/{rank}"])]:
        if time.monotonic() > end:
            raise RankLost(f"rank {world.rank}: rank {', '.join(map(str, absent))} of {world.size} never came")
        time.sleep(0.05)


def _leave() -> None:
    with contextlib.suppress(RuntimeError, ValueError):
        collective.destroy_process_group()


@contextlib.contextmanager
def _naming(world: World) -> Iterator[None]:
    """Turn what a backend raises when a rank is gone into an error that says so."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, collective.DistError) and not _LOST.search(text):
            raise
        missing = world.missing()
        who = f"rank {', '.join(map(str, missing))} of {world.size}" if missing else "another rank"
        raise RankLost(
            f"rank {world.rank}: {who} died, hangs or cannot be reached: {text.splitlines()[0][:200]}\n"
            "  mend: see what that rank told; then torchrun … -m danlu resume RUN goes on from the last checkpoint"
        ) from error
