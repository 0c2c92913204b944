"""What a search may choose: for each setting a range or a list of choices, read from a file or by name.

A space is a JSON object from dotted settings to what they may be::

    {"optimizer.lr": {"low": 1e-3, "high": 1, "log": true}, "batch_size": {"choices": [64, 128]}}

It is data alone: no expressions, nothing is imported.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core import files
from danlu.core.errors import InputError, nearest_names
from danlu.core.settings import apply_overrides
from danlu.train.settings import TrainConfig

__all__ = ["SPACES", "Choices", "Range", "Space", "load_space", "parse_space"]

_RANGE, _CHOICES = ("low", "high", "log", "points"), ("choices",)

# Spaces that are called by name. Learning rates are those of SGD, with which all recipes here train.
SPACES: dict[str, dict[str, dict[str, Any]]] = {
    "lr": {"optimizer.lr": {"low": 1e-3, "high": 1.0, "log": True, "points": 7}},
    "default": {
        "optimizer.lr": {"low": 1e-3, "high": 1.0, "log": True, "points": 4},
        "optimizer.weight_decay": {"low": 1e-5, "high": 1e-2, "log": True, "points": 4},
        "batch_size": {"choices": [32, 64, 128]},
        "label_smoothing": {"choices": [0.0, 0.1]},
    },
}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where both ends are written without a point.

    Attributes:
        low: the least.
        high: the largest.
        log: drawn evenly on a logarithmic axis.
        points: how many of them a grid tries, evenly from end to end; None: all of a whole range.
    """

    low: float
    high: float
    log: bool = False
    points: int | None = None

    @property
    def whole(self) -> bool:
        """Whether these are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, trial: Any, key: str) -> Any:
        """Return the value an Optuna trial has, or gets now."""
        if self.whole:
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def decode(self, value: Any) -> Any:
        """Return the setting for what the study holds."""
        return value

    def ends(self) -> list[Any]:
        """Return the values to check: the two ends."""
        return [self.low, self.high]

    def grid(self, where: str) -> list[Any]:
        """Return the values a grid tries.

        Raises:
            InputError: numbers that are not whole, and ``points`` does not say how many.
        """
        if self.points is None and self.whole and not self.log:
            return list(range(int(self.low), int(self.high) + 1))
        if self.points is None:
            mend = 'give "points", or "choices" instead of a range'
            raise InputError("a grid over a range needs to know how many values to try", where=where, mend=mend)
        a, b = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        inside = [a + (b - a) * place / (self.points - 1) for place in range(1, self.points - 1)]
        values = [math.exp(value) if self.log else value for value in inside]
        # Six digits, so that 0.01 reads as such: these are values to try, not to compute with.
        found = [self.low, *(round(value) if self.whole else float(f"{value:.6g}") for value in values), self.high]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Choices:
    """A list of values of any kind that JSON holds. A study keeps each as its JSON text."""

    values: tuple[Any, ...]

    @property
    def texts(self) -> list[str]:
        """The values as the study holds them."""
        return [json.dumps(value, sort_keys=True) for value in self.values]

    def draw(self, trial: Any, key: str) -> Any:
        """Return the value an Optuna trial has, or gets now."""
        return self.decode(trial.suggest_categorical(key, self.texts))

    def decode(self, value: Any) -> Any:
        """Return the setting for what the study holds."""
        return json.loads(value)

    def ends(self) -> list[Any]:
        """Return the values to check: all."""
        return list(self.values)

    def grid(self, where: str) -> list[Any]:
        """Return the values a grid tries, as the study holds them."""
        del where
        return list(self.texts)


@dataclass(frozen=True)
class Space:
    """A checked space.

    Attributes:
        where: the file or name it came from, for messages.
        entries: setting -> what it may be.
        document: it as JSON.
    """

    where: str
    entries: dict[str, Range | Choices]
    document: dict[str, Any]

    def draw(self, trial: Any) -> dict[str, Any]:
        """Return the settings of an Optuna trial by dotted key."""
        return {key: entry.draw(trial, key) for key, entry in self.entries.items()}

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a trial whose parameters the study holds."""
        return {key: self.entries[key].decode(params[key]) for key in self.entries if key in params}

    def grid(self) -> dict[str, list[Any]]:
        """Return the values of each setting that a grid combines.

        Raises:
            InputError: a range does not say how many points.
        """
        return {key: entry.grid(f"{self.where}, {key}") for key, entry in self.entries.items()}

    def check(self, base: TrainConfig, fixed: Mapping[str, Any]) -> None:
        """Refuse settings and values that ``base`` with the ``fixed`` settings does not take, before anything is tried.

        Where a section's name is itself searched for (``optimizer.name``), every other setting has to stand for each.

        Raises:
            InputError: an unknown setting (with the nearest known one), a value out of its range, or a setting that is
                fixed and searched for.
        """
        names = {key: entry.ends() for key, entry in self.entries.items() if key.endswith(".name")}
        for key, entry in self.entries.items():
            where = f"{self.where}, {key}"
            if key in fixed:
                raise InputError("is searched for and given by --set too", where=where, mend="leave one of them out")
            for chosen in itertools.product(*names.values()):
                together = {**fixed, **dict(zip(names, chosen, strict=True))}
                for value in entry.ends():
                    apply_overrides(base, {**together, key: value}, where)


def load_space(name: str | Path | Mapping[str, Any]) -> Space:
    """Return the space of a registered name, of a JSON file, or of a mapping that holds what such a file would.

    Raises:
        InputError: neither a known name nor a file, or a damaged file; see :func:`parse_space`.
    """
    if isinstance(name, Mapping):
        return parse_space(dict(name), "space")
    if str(name) in SPACES:
        return parse_space(SPACES[str(name)], f"space {name}")
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"{str(name)!r} is neither a file nor a known space",
            where="--space",
            nearest=nearest_names(str(name), SPACES),
            allowed=[*sorted(SPACES), "a JSON file"],
        )
    return parse_space(files.read_json(path), str(path))


def parse_space(document: Any, where: str) -> Space:
    """Return the space a JSON document describes; whether its settings exist is for :meth:`Space.check`.

    Raises:
        InputError: another form, unknown keys, ends in the wrong order or of another kind, nothing to choose from.
    """
    if not isinstance(document, dict) or not document:
        form = '{"optimizer.lr": {"low": 1e-3, "high": 1, "log": true}, "batch_size": {"choices": [64, 128]}}'
        raise InputError("is no space", where=where, mend=f"write {form}")
    return Space(where, {key: _entry(value, f"{where}, {key}") for key, value in document.items()}, document)


def _entry(value: Any, where: str) -> Range | Choices:
    keys = list(value) if isinstance(value, dict) else []
    for key in keys:
        if key not in (*_RANGE, *_CHOICES):
            near = nearest_names(key, (*_RANGE, *_CHOICES))
            raise InputError(f"unknown key {key!r}", where=where, nearest=near, allowed=(*_RANGE, *_CHOICES))
    if "choices" in keys:
        return _choices(value, where)
    if not {"low", "high"} <= set(keys):
        raise InputError('is neither {"low": …, "high": …} nor {"choices": […]}', where=where)
    low, high, log, points = value["low"], value["high"], value.get("log", False), value.get("points")
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not all(math.isfinite(end) for end in (low, high)) or low >= high:
        raise InputError(f"low = {low!r}, high = {high!r}", where=where, allowed=["two numbers, low < high"])
    if not isinstance(log, bool):
        raise InputError(f"log = {log!r}", where=where, allowed=["true", "false"])
    if log and low <= 0:
        raise InputError(f"low = {low!r} on a logarithmic axis", where=where, allowed=["a number above 0"])
    if points is not None and (not isinstance(points, int) or isinstance(points, bool) or not 2 <= points <= 1000):
        raise InputError(f"points = {points!r}", where=where, allowed=["2 to 1,000"])
    return Range(low, high, log, points)


def _choices(value: dict[str, Any], where: str) -> Choices:
    values = value["choices"]
    if len(value) > 1:
        raise InputError("has choices and something else", where=where, mend="leave one of them out")
    if not isinstance(values, list | tuple) or not values:
        raise InputError(f"choices = {values!r}", where=where, allowed=["a list of at least one value"])
    found = Choices(tuple(values))
    if len(set(found.texts)) < len(values):
        raise InputError("a choice stands twice", where=where, mend="leave one of them out")
    return found
