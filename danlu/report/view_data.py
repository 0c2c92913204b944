"""What the report says about the data: records in, plain values and charts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from danlu.report.fields import flag, listing, section, table, whole, words
from danlu.report.marks import profile, stacked_bar

__all__ = ["SPLITS", "Balance", "DataView", "data_view"]

SPLITS = ("train", "validation", "test")
_MOST_BARS = 40


@dataclass(frozen=True)
class Balance:
    """Pictures of one class by split, and the bar that shows them."""

    name: str
    counts: tuple[int, ...]
    total: int
    bar: Markup


@dataclass(frozen=True)
class DataView:
    """The data section."""

    name: str | None
    source: str | None
    classes: int | None
    picture: str | None
    varied: bool
    sizes: dict[str, int | None]
    test_given: bool | None
    seed: int | None
    mean: str | None
    std: str | None
    licence: str | None
    citation: str | None
    hash: str | None
    balance: list[Balance]
    profile: Markup | None
    most: Balance | None
    least: Balance | None
    problems: list[tuple[str, str]]
    problem_count: int
    warnings: list[tuple[str, str]]
    warning_count: int
    duplicates: list[list[str]]
    duplicate_count: int


def data_view(record: dict[str, Any]) -> DataView | None:
    """Return the data section of ``record["data"]``, or ``None`` where nothing was recorded."""
    data = section(record, "data")
    if not data:
        return None
    picture = section(data, "picture")
    extent = [whole(picture, key) for key in ("height", "width", "channels")]
    balance = _balance(data)
    many = len(balance) > _MOST_BARS
    ordered = sorted(balance, key=lambda row: -row.total)
    problems, warnings = section(data, "problems"), section(data, "warnings")
    duplicates = section(data, "duplicates")
    return DataView(
        name=words(data, "name"),
        source=words(data, "source"),
        classes=len(listing(data, "classes")) or None,
        picture=None if None in extent else " × ".join(str(value) for value in extent),
        varied=flag(picture, "uniform") is False,
        sizes={split: whole(section(data, "sizes"), split) for split in SPLITS},
        test_given=flag(data, "test_given"),
        seed=whole(data, "seed"),
        mean=_channels(data, "mean"),
        std=_channels(data, "std"),
        licence=words(data, "licence"),
        citation=words(data, "citation"),
        hash=words(data, "hash"),
        balance=[] if many else balance,
        profile=profile([row.total for row in balance]) if many else None,
        most=ordered[0] if ordered else None,
        least=ordered[-1] if ordered else None,
        problems=_findings(problems),
        problem_count=whole(problems, "count") or 0,
        warnings=_findings(warnings),
        warning_count=whole(warnings, "count") or 0,
        duplicates=[[str(side) for side in pair] for pair in listing(duplicates, "first") if isinstance(pair, list)],
        duplicate_count=whole(duplicates, "count") or 0,
    )


def _findings(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(row.get("id")), str(row.get("reason"))) for row in table(found, "first")]


def _channels(data: dict[str, Any], key: str) -> str | None:
    values = [value for value in listing(data, key) if isinstance(value, int | float)]
    return ", ".join(f"{value:.4f}" for value in values) or None


def _balance(data: dict[str, Any]) -> list[Balance]:
    names = [str(name) for name in listing(data, "classes")]
    recorded = section(data, "counts")
    counts = {split: recorded.get(split) for split in SPLITS}
    columns = [values if isinstance(values, list) and len(values) == len(names) else None for values in counts.values()]
    if not names or all(column is None for column in columns):
        return []
    rows = [
        tuple(int(column[i]) if column is not None and isinstance(column[i], int) else 0 for column in columns)
        for i in range(len(names))
    ]
    most = max(sum(row) for row in rows)
    return [
        Balance(name, row, sum(row), stacked_bar(list(zip(SPLITS, row, strict=True)), most))
        for name, row in zip(names, rows, strict=True)
    ]
