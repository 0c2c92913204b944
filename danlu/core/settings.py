"""Settings that are checked: frozen pydantic models, unknown keys refused with the nearest name, overrides parsed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from danlu.core.errors import InputError, nearest_names

__all__ = ["Settings", "apply_overrides", "make_settings", "parse_duration", "parse_overrides"]


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _plain_values(cls, values: Any) -> Any:
        """Refuse ``true`` where a number is meant, which would count as 1; take one value for a list of one."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name, field in cls.model_fields.items():
            value, kinds = values.get(name), {field.annotation, *get_args(field.annotation)}
            kinds |= {getattr(kind, "__origin__", kind) for kind in kinds}  # what Annotated is wrapped around
            if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"{name} = {json.dumps(value)}: a number is expected")
            is_list = get_origin(field.annotation) is tuple and Ellipsis in get_args(field.annotation)
            if is_list and isinstance(value, str | int | float | dict) and not isinstance(value, bool):
                values[name] = (value,)
        return values


S = TypeVar("S", bound=Settings)


def _sections(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the settings a field can hold: one class, or several that are told apart by their names."""
    kinds = (field.annotation, *get_args(field.annotation))
    kinds = (*kinds, *(inner for kind in kinds for inner in get_args(kind)))
    return [kind for kind in dict.fromkeys(kinds) if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _chosen(field: FieldInfo, value: Any) -> list[type[BaseModel]]:
    """Return what :func:`_sections` does; where ``value`` says by its name which one, only that."""
    found = _sections(field)
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    named = [one for one in found if "name" in one.model_fields and one.model_fields["name"].default == name]
    return named or found


def _field_names(settings: type[BaseModel], values: Any = None, prefix: str = "") -> list[str]:
    """Return the dotted keys of ``settings``; with ``values``, of a section those of the class that they name."""
    names: list[str] = []
    for name, field in settings.model_fields.items():
        names.append(prefix + name)
        value = None if values is None else values.get(name, field.default)
        for one in _sections(field) if value is None else _chosen(field, value):
            names.extend(_field_names(one, value if isinstance(value, Mapping) else None, f"{prefix}{name}."))
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
        raise _explained(error.errors(include_url=False), settings, values, where) from None


def _explained(errors: list[Any], settings: type[BaseModel], values: Mapping[str, Any], where: str) -> InputError:
    """Return what is wrong first, in words of the settings alone; a union's alternatives are told together."""
    first = next((one for one in errors if one["type"] != "literal_error"), errors[0])
    if isinstance(errors[0]["input"], list | tuple):
        # What is wrong inside a list says more than that it is none of the words that would do as well.
        first = max(errors, key=lambda one: len(_key(one["loc"], values).split(".")))
    key = _key(first["loc"], values)
    if first["type"] == "extra_forbidden":
        return _unknown(key, settings, values, where)
    if first["type"] == "value_error":
        # Written by our own validators: what was given stands in it already, or is a whole section.
        return InputError(str(first["ctx"]["error"]), where=where)
    field, parent = _field_of(key, settings, values)
    if field is not None and _sections(field):
        return _no_section(key, field, first, where)
    if first["type"] == "missing":
        return InputError(f"{key} is missing", where=where, allowed=list(parent.model_fields))
    same = [one for one in errors if _key(one["loc"], values) == key]
    names = [name for one in same if one["type"] == "literal_error" for name in _literals(one["ctx"]["expected"])]
    others = [one for one in same if one["type"] != "literal_error"]
    given = f"{key or 'settings'} = {first['input']!r}"
    if not names:
        return InputError(f"{given}: {_words(others)}", where=where)
    nearest = nearest_names(str(first["input"]), names)
    kinds = " ".join(one["type"] for one in others)
    names = [*(["true", "false"] if "bool" in kinds else []), *names]
    names += ["a list"] * ("tuple" in kinds) + ["a number"] * any(word in kinds for word in _NUMBER)
    # A number out of its range is told apart from a word that is none.
    ranged = [one for one in others if "parsing" not in one["type"] and not one["type"].endswith("_type")]
    what = f"{given}: {_words(ranged)}" if ranged else f"{given} is not known"
    return InputError(what, where=where, nearest=nearest, allowed=names)


_NUMBER = ("int", "float", "greater", "less")


def _words(errors: list[Any]) -> str:
    return " or ".join(dict.fromkeys(one["msg"][0].lower() + one["msg"][1:] for one in errors))


def _field_of(
    key: str, settings: type[BaseModel], values: Mapping[str, Any]
) -> tuple[FieldInfo | None, type[BaseModel]]:
    """Return the field that a dotted key names, None where it lies inside a value, and the class it is of."""
    kind, at = settings, values
    *parents, last = key.split(".")
    for parent in parents:
        field = kind.model_fields.get(parent)
        if field is None or not _sections(field):
            return None, kind
        inside = at.get(parent) if isinstance(at, Mapping) else None
        kind, at = _chosen(field, inside)[0], inside if isinstance(inside, Mapping) else {}
    return kind.model_fields.get(last), kind


def _no_section(key: str, field: FieldInfo, error: Any, where: str) -> InputError:
    """Return that several settings are meant where one value, or a name that tells which, was given."""
    sections = _sections(field)
    named = [one.model_fields["name"] for one in sections if "name" in one.model_fields]
    tags = [str(one.default) for one in named] if len(sections) > 1 else []
    if error["type"] == "union_tag_invalid":
        tag = str(error["ctx"]["tag"])
        return InputError(
            f"{key}.name = {tag!r} is not known", where=where, nearest=nearest_names(tag, tags), allowed=tags
        )
    if isinstance(error["input"], Mapping):
        return InputError(f"{key} needs a name", where=where, allowed=tags)
    given = error["input"]
    first = "name" if named else next(iter(sections[0].model_fields))
    mend = f"give --set {key}.{first}={given if named and isinstance(given, str) else '…'}"
    allowed = list(dict.fromkeys(f"{key}.{name}" for one in sections for name in one.model_fields))
    return InputError(f"{key} = {given!r} is one value, {key} has several", where=where, allowed=allowed, mend=mend)


def _literals(expected: str) -> list[str]:
    """Return the words of pydantic's ``'a', 'b' or 'c'``; of numbers, the numbers."""
    return re.findall(r"'([^']*)'", expected) or re.split(r", | or ", expected)


def _unknown(key: str, settings: type[BaseModel], values: Mapping[str, Any], where: str) -> InputError:
    """Return that there is no such key; where another class of the section has it, which."""
    *parents, last = key.split(".")
    kind, at = settings, values
    for parent in parents:
        field = kind.model_fields.get(parent)
        if field is None or not isinstance(at.get(parent), Mapping):
            break
        others = [one for one in _sections(field) if last in one.model_fields]
        kind, at = next(iter(_chosen(field, at[parent])), kind), at[parent]
        if parent == parents[-1] and others and "name" in at:
            owners = [one.model_fields["name"].default for one in others]
            section = ".".join(parents)
            return InputError(
                f"{section}.name = {at['name']} has no key {last!r}; {', '.join(owners)} "
                f"{'has' if len(owners) == 1 else 'have'} it",
                where=where,
                allowed=[f"{section}.{name}" for name in kind.model_fields],
                mend=f"give --set {section}.name={owners[0]} too, or leave {key} out",
            )
    nearest = nearest_names(key, _field_names(settings))
    return InputError(f"unknown key {key!r}", where=where, nearest=nearest, allowed=_field_names(settings, values))


def _key(location: tuple[int | str, ...], values: Mapping[str, Any]) -> str:
    """Return the dotted key of an error; what only says which of several classes was tried is left out."""
    parts: list[str] = []
    at: Any = values
    for part in location:
        if isinstance(at, Mapping):
            if part not in at and part == at.get("name"):
                continue
            at = at.get(part)
        elif isinstance(at, list | tuple) and isinstance(part, int):
            at = at[part] if part < len(at) else None
        elif parts:
            # Inside a value only the names of the types that were tried can follow.
            continue
        parts.append(str(part))
    return ".".join(parts)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs of ``--set``; values are JSON, or text where they are not (``1e-3`` is a number).

    Raises:
        InputError: no ``=``, an empty key, a key given twice, or a list or an object that is no JSON.
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
    except (json.JSONDecodeError, RecursionError) as error:
        if text.startswith(("[", "{", '"')):
            raise InputError(f"{text!r} is no JSON ({error})", where="--set", mend="quote it for the shell") from None
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
                raise _unknown(key, type(settings), document, where)
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
