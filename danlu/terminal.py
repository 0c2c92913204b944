"""What a verb shows a person: plain tables of a document that ``--json`` prints whole."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["curve", "figure", "flat", "pairs", "percent", "rows", "table"]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _clean(value: Any, limit: int | None = 60) -> str:
    text = figure(value)
    # Names come from users' folders: a control character must not reach the terminal.
    text = "".join(letter if letter.isprintable() else "�" for letter in text)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def figure(value: Any) -> str:
    """Return a value as a person reads it: thousands separated, four significant digits, ``–`` for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)


def percent(result: Mapping[str, Any]) -> str:
    """Return a recorded share as per cent with its interval."""
    text = f"{100 * result['value']:.2f} %"
    if result.get("low") is not None:
        text += f" (95 % interval {100 * result['low']:.2f}–{100 * result['high']:.2f}, n = {result['n']:,})"
    return text


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as aligned columns under a rule; numbers to the right, 中文 counted as two cells."""
    cells = [list(columns), *([_clean(value) for value in row] for row in rows)]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(columns))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = [
            " " * (width - _width(text)) + text if to_right else text + " " * (width - _width(text))
            for text, width, to_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(cells[0]), "  ".join("─" * width for width in widths), *(line(row) for row in cells[1:])])


def pairs(document: Mapping[str, Any], width: int | None = 100) -> str:
    """Return a flat mapping as two aligned columns, values cut to ``width`` characters (None: not cut)."""
    keys = max((_width(str(key)) for key in document), default=0)
    return "\n".join(
        f"{key}{' ' * (keys - _width(str(key)))}  {_clean(value, width)}" for key, value in document.items()
    )


def rows(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records that share their keys as a table; nested values are flattened."""
    if not records:
        return "nothing"
    columns = list(records[0])
    return table(columns, [[flat(row[column]) for column in columns] for row in records])


def flat(value: Any) -> Any:
    """Return a nested value as one line of text, a plain value as it is."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(flat(item)) for item in value)
    return value


_EIGHTHS = " ▁▂▃▄▅▆▇█"


def curve(values: Sequence[float], width: int = 72, height: int = 10) -> str:
    """Return values of at least 0 as a chart of bars, the largest at the top; many are averaged into ``width`` bars."""
    if not values:
        return "nothing"
    count = min(width, len(values))
    bounds = [len(values) * place // count for place in range(count + 1)]
    bars = [sum(values[begin:end]) / (end - begin) for begin, end in itertools.pairwise(bounds)]
    top = max(bars)
    eighths = [round(8 * height * bar / top) if top > 0 else 0 for bar in bars]
    left = max(len(figure(float(top))), 1)
    lines = []
    for row in reversed(range(height)):
        label = figure(float(top)) if row == height - 1 else "0" if row == 0 else ""
        cells = "".join(_EIGHTHS[min(max(bar - 8 * row, 0), 8)] for bar in eighths)
        lines.append(f"{label:>{left}} ┤{cells}".rstrip())
    return "\n".join(lines)
