"""What the settings of a search matter, as an SVG file of its own with real text. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from danlu.core import files
from danlu.report.figures import svg_name, width

__all__ = ["importance_chart", "write_importance"]

_ROW, _TOP, _RIGHT, _WIDTH = 28, 58, 56, 640
_LONGEST = 40  # columns of a setting's name

# A file that is looked at by itself: its own colours, for light and dark.
_STYLE = Markup(
    "text{font:14px system-ui,sans-serif;fill:#221f1b}.title{font-size:16px}.note{font-size:12px;fill:#6b655d}"
    ".end{text-anchor:end}rect{fill:#1f66a5}@media(prefers-color-scheme:dark)"
    "{text{fill:#ece7df}.note{fill:#a29b91}rect{fill:#6fb0e6}}"
)


def importance_chart(found: Mapping[str, Any]) -> Markup:
    """Return a bar a setting, the largest share first.

    Args:
        found: ``{"method", "trials", "values": {setting: share of 1}}`` with at least one value.
    """
    rows = sorted(found["values"].items(), key=lambda pair: -pair[1])
    left = 24 + round(8.0 * max(min(width(key), _LONGEST) for key, _ in rows))
    longest = max(share for _, share in rows) or 1.0
    title = '<text class="title" x="16" y="26">Importance of the settings · 各项设置的重要性</text>'
    note = '<text class="note" x="16" y="46">{}, {} finished trials · {} 个完成的试验</text>'
    pieces = [Markup(title), Markup(note).format(found["method"], found["trials"], found["trials"])]
    for place, (key, share) in enumerate(rows):
        middle = _TOP + _ROW * (place + 0.5)
        shape = (
            '<text class="end" x="{}" y="{}">{}</text><rect x="{}" y="{}" width="{}" height="16" rx="2"/>'
            '<text x="{}" y="{}">{}</text>'
        )
        length = round((_WIDTH - _RIGHT - left) * share / longest, 1)
        label, value = svg_name(key, _LONGEST), f"{100 * share:.1f} %"
        pieces.append(
            Markup(shape).format(
                left - 10, middle + 5, label, left, middle - 8, length, left + length + 6, middle + 5, value
            )
        )
    frame = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" height="{}" role="img">'
        "<title>Importance of the settings · 各项设置的重要性</title><style>{}</style>{}</svg>\n"
    )
    height = _TOP + _ROW * len(rows) + 14
    return Markup(frame).format(_WIDTH, height, _WIDTH, height, _STYLE, Markup("").join(pieces))


def write_importance(path: Path, found: Mapping[str, Any]) -> Path:
    """Write :func:`importance_chart` to ``path``, whole or not at all, and return it."""
    files.write_whole(path, str(importance_chart(found)))
    return path
