"""Small marks inside tables and headings: bars, stacked bars, column profiles, intervals. All are SVG without text."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from danlu.report.axes import Scale

__all__ = ["bar", "interval", "profile", "spot", "stacked_bar"]


def bar(share: float | None, style: str = "") -> Markup:
    """Return a small horizontal bar that fills ``share`` of its width, for a table's cell."""
    filled = 0.0 if share is None else round(100 * min(max(share, 0.0), 1.0), 2)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/><rect class="fill {}" width="{}" height="10"/></svg>'
    ).format(style, filled)


def stacked_bar(parts: Sequence[tuple[str, float]], most: float) -> Markup:
    """Return one bar of several parts (style, length), drawn against ``most``, the longest bar of its group."""
    drawn, position = [], 0.0
    for style, length in parts:
        extent = round(100 * length / most, 2) if most > 0 else 0.0
        rect = '<rect class="fill {}" x="{}" width="{}" height="10"/>'
        drawn.append(Markup(rect).format(style, round(position, 2), extent))
        position += extent
    return Markup(
        '<svg class="bar wide" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(Markup("").join(drawn))


def profile(values: Sequence[float]) -> Markup:
    """Return columns of ``values`` in descending order, without names: the balance of many classes at a glance."""
    ordered = sorted(values, reverse=True)
    most = ordered[0] or 1
    wide = 720 / len(ordered)
    columns = [
        Markup('<rect class="fill train" x="{}" y="{}" width="{}" height="{}"/>').format(
            round(i * wide, 2),
            round(90 - 84 * v / most, 2),
            round(max(wide - (1 if wide > 3 else 0), 0.2), 2),
            round(84 * v / most, 2),
        )
        for i, v in enumerate(ordered)
    ]
    return Markup(
        '<svg class="profile" viewBox="0 0 720 91" preserveAspectRatio="none" aria-hidden="true">{}'
        '<line class="axis" x1="0" x2="720" y1="90.5" y2="90.5"/></svg>'
    ).format(Markup("").join(columns))


def interval(value: float, low: float, high: float) -> Markup:
    """Return a share with its interval as a dot on a whisker, on an axis from a round share to 100 %."""
    start = _round_start(low)
    x = Scale(start, 1.0, 5, 195)
    return Markup(
        '<svg class="interval" viewBox="0 0 200 30" aria-hidden="true">'
        '<line class="rail" x1="5" x2="195" y1="8" y2="8"/>'
        '<line class="rail" x1="5" x2="5" y1="4" y2="12"/><line class="rail" x1="195" x2="195" y1="4" y2="12"/>'
        '<line class="whisker" x1="{0}" x2="{1}" y1="8" y2="8"/><circle class="point" cx="{2}" cy="8" r="4.5"/>'
        '<text x="5" y="26">{3}</text><text class="tick" x="195" y="26">100</text></svg>'
    ).format(x(low), x(high), x(value), f"{100 * start:g}")


def _round_start(low: float) -> float:
    """Return the largest round share that leaves some room below ``low``."""
    room = low - 0.15 * (1.0 - low)
    return max((start for start in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995) if start <= room), default=0.0)


def spot(value: float | None, start: float) -> Markup:
    """Return a share as a dot on a rail from ``start`` to 100 %: equal high shares stay apart, which bars do not."""
    if value is None:
        return Markup("")
    x = Scale(start, 1.0, 4, 96)
    return Markup(
        '<svg class="spot" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<line class="rail" x1="0" x2="100" y1="5" y2="5"/><line class="reach" x1="0" x2="{0}" y1="5" y2="5"/>'
        '<line class="pin" x1="{0}" x2="{0}" y1="0" y2="10"/></svg>'
    ).format(x(value))
