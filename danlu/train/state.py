"""Where a training stands: all that a checkpoint holds beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor

from danlu.core.errors import InputError
from danlu.core.records import SCHEMA

__all__ = ["Best", "State", "Tally", "checkpoint_name"]

# Fields that states of earlier versions lack, and what they stood for there.
_LATER = {"parts": 0}


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after ``step`` steps."""
    return f"step-{step:06d}"


@dataclass(frozen=True)
class Best:
    """The best epoch so far, by validation: the highest ``value``, then the lowest loss, then the earliest."""

    epoch: int
    step: int
    metric: str
    value: float
    loss: float


class Tally:
    """Sums of a task's figures over the steps of an epoch.

    A task returns counts (``correct``, ``labelled``) and means over its labelled samples (all else). Counts are added,
    means are added times ``labelled``. Addition is in the order of the steps in double precision, so the sums are the
    same wherever a run was interrupted.
    """

    COUNTS = ("correct", "labelled")

    def __init__(self, sums: Mapping[str, float] | None = None) -> None:
        self.sums = dict(sums or {})

    def add(self, names: tuple[str, ...], rows: Tensor) -> None:
        """Take in float rows [steps, len(names)]."""
        counted = names.index("labelled")
        for row in rows.tolist():
            for name, value in zip(names, row, strict=True):
                self.sums[name] = self.sums.get(name, 0.0) + (value if name in self.COUNTS else value * row[counted])

    def means(self) -> dict[str, float]:
        """Return the means over all labelled samples: ``accuracy`` for the count ``correct``, the others as named."""
        total = max(self.sums.get("labelled", 0.0), 1.0)
        means = {name: value / total for name, value in self.sums.items() if name not in self.COUNTS}
        if "correct" in self.sums:
            means["accuracy"] = self.sums["correct"] / total
        return means


@dataclass
class State:
    """Where a training stands.

    Attributes:
        step: steps done since the beginning.
        epoch: the epoch that runs, from 0; the number of epochs when training is done.
        position: steps done in this epoch; all of them done means that the validation is still to come.
        sums: of the running epoch, see :class:`Tally`.
        train_seconds: spent in the training steps of the running epoch.
        epoch_seconds: spent in the running epoch.
        total_seconds: spent in the epochs before it.
        total_train_seconds: spent in their training steps.
        best: the best epoch so far.
        resumed: how often the run was resumed.
        log_length: bytes of the log when the checkpoint was written.
        parts: in how many parts a batch is computed since memory ran out; 0: as the settings say.
        config: the run's effective configuration, to see at resume that it was not changed.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    total_seconds: float = 0.0
    total_train_seconds: float = 0.0
    best: Best | None = None
    resumed: int = 0
    log_length: int = 0
    parts: int = 0
    config: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain values; numbers keep every bit."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: str) -> State:
        """Return the state that :meth:`to_json` wrote.

        Raises:
            InputError: keys are missing or unknown.
        """
        values = {key: value for key, value in document.items() if key != "schema"}
        known = {one.name for one in fields(cls)}
        values = _LATER | values
        if values.keys() != known:
            differing = ", ".join(sorted(values.keys() ^ known))
            raise InputError(f"is no training state: missing or unknown {differing}", where=where)
        best = values.pop("best")
        try:
            return cls(best=None if best is None else Best(**best), **values)
        except TypeError as error:
            raise InputError(f"is no training state: {error}", where=where) from None
