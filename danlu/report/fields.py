"""Reading records with care: a value that is absent or of another type is ``None``, and the report shows a dash."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

__all__ = ["flag", "flatten", "listing", "number", "section", "table", "whole", "words"]


def section(source: Any, *keys: str) -> dict[str, Any]:
    """Return the object found by following ``keys``, or ``{}`` where there is none."""
    for key in keys:
        source = source.get(key) if isinstance(source, dict) else None
    return source if isinstance(source, dict) else {}


def listing(source: dict[str, Any], key: str) -> list[Any]:
    """Return the list under ``key``, or ``[]``."""
    value = source.get(key)
    return value if isinstance(value, list) else []


def table(source: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects of the list under ``key``."""
    return [row for row in listing(source, key) if isinstance(row, dict)]


def number(source: dict[str, Any], key: str) -> float | None:
    """Return the finite number under ``key``; truth values are no numbers."""
    value = source.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def whole(source: dict[str, Any], key: str) -> int | None:
    """Return the integer under ``key``."""
    value = number(source, key)
    return None if value is None else round(value)


def words(source: dict[str, Any], key: str) -> str | None:
    """Return the text under ``key``; an empty one is ``None``."""
    value = source.get(key)
    return value if isinstance(value, str) and value else None


def flag(source: dict[str, Any], key: str) -> bool | None:
    """Return the truth value under ``key``."""
    value = source.get(key)
    return value if isinstance(value, bool) else None


def flatten(document: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, plain value) of nested objects; lists of plain values stay whole."""
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, document
