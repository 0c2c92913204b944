"""Settings that are checked: frozen pydantic models, unknown keys refused with the nearest name, overrides parsed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from danlu.core.errors import InputError, nearest_names

__all__ = ["Settings", "apply_overrides", "make_settings", "parse_duration", "parse_overrides"]


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, values: Any) -> Any:
        """Refuse ``true`` where a number is meant, which would count as 1."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            kinds = {field.annotation, *get_args(field.annotation)}
            kinds |= {getattr(kind, "__origin__", kind) for kind in kinds}  # what Annotated is wrapped around
            if isinstance(values.get(name), bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"{name} = {json.dumps(values[name])}: a number is expected")
        return values


S = TypeVar("S", bound=Settings)


def _field_names(settings: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in settings.model_fields.items():
        names.append(prefix + name)
        for one in (field.annotation, *get_args(field.annotation)):
            if isinstance(one, type) and issubclass(one, BaseModel):
                names.extend(_field_names(one, f"{prefix}{name}."))
    return list(dict.fromkeys(names))


def make_settings(settings: type[S], values: Mapping[str, Any], where: str) -> S:
    """Build ``settings`` from plain values.

    Args:
        settings: the class to build.
        values: nested plain values, e.g. read from JSON.
        where: what to call the source in an error (a file, ``--set``, ``recipe NAME``).

    Raises:
        InputError: an unknown key (with the nearest known one) or a value out of its range.
    """
    try:
        return settings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = _key(first["loc"], values)
        if first["type"] == "extra_forbidden":
            names = _field_names(settings)
            raise InputError(
                f"unknown key {key!r}", where=where, nearest=nearest_names(key, names), allowed=names
            ) from None
        if first["type"] == "union_tag_invalid":
            tag, tags = str(first["ctx"]["tag"]), re.findall(r"'([^']+)'", first["ctx"]["expected_tags"])
            what = f"{key}.name = {tag!r} is not known"
            raise InputError(what, where=where, nearest=nearest_names(tag, tags), allowed=tags) from None
        if first["type"] == "value_error":
            # Written by our own validators: what was given stands in it already, or is a whole section.
            raise InputError(str(first["ctx"]["error"]), where=where) from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{key or 'settings'} = {first['input']!r}: {message}", where=where) from None


def _key(location: tuple[int | str, ...], values: Mapping[str, Any]) -> str:
    """Return the dotted key of an error; what only says which of several classes was tried is left out."""
    parts: list[str] = []
    at: Any = values
    for part in location:
        if isinstance(at, Mapping) and part not in at and part == at.get("name"):
            continue
        parts.append(str(part))
        inside = isinstance(at, Mapping) or (isinstance(at, list | tuple) and isinstance(part, int) and part < len(at))
        at = (at.get(part) if isinstance(at, Mapping) else at[part]) if inside else None
    return ".".join(parts)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs of ``--set``; values are JSON, or text where they are not (``1e-3`` is a number).

    Raises:
        InputError: no ``=``, an empty key, or a key given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        key = key.strip()
        if not separator or not key:
            raise InputError(f"{pair!r} is not key=value", where="--set", mend="write --set epochs=5")
        if key in values:
            raise InputError(f"key {key!r} is given twice", where="--set")
        values[key] = _plain(text.strip())
    return values


def _plain(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (json.JSONDecodeError, RecursionError):
        return text


def apply_overrides(settings: S, overrides: Mapping[str, Any], where: str = "--set") -> S:
    """Return ``settings`` with dotted keys replaced (``optimizer.lr``); the settings given stay as they are.

    A section that has a name starts from the defaults of another one when its name is changed (``optimizer.name``),
    before its other keys are replaced.
    """
    document = settings.model_dump()
    for key, value in sorted(overrides.items(), key=lambda item: not item[0].endswith(".name")):
        target = document
        *parents, last = key.split(".")
        for part in parents:
            if not isinstance(target.get(part), dict):
                names = _field_names(type(settings))
                raise InputError(f"unknown key {key!r}", where=where, nearest=nearest_names(key, names), allowed=names)
            target = target[part]
        if parents and last == "name" and target.get("name") != value:
            target.clear()
        target[last] = value
    return make_settings(type(settings), document, where)


_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str, where: str = "--budget") -> float:
    """Return the seconds of ``90s``, ``10min``, ``1.5h`` or a bare number of seconds.

    Raises:
        InputError: anything else, or not above zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h)?\s*", text)
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if seconds <= 0:
        raise InputError(f"{text!r} is no time", where=where, allowed=["90s", "10min", "1.5h"])
    return seconds
