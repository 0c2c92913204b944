"""Small marks inside tables and headings: bars, stacked bars, column profiles, intervals. All are SVG without text."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from danlu.report.axes import Scale

__all__ = ["bar", "interval", "profile", "stacked_bar"]


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
            round(i * wide, 2), round(90 - 84 * v / most, 2), round(max(wide - (1 if wide > 3 else 0), 0.2), 2),
            round(84 * v / most, 2),
        )
        for i, v in enumerate(ordered)
    ]
    return Markup(
        '<svg class="profile" viewBox="0 0 720 91" preserveAspectRatio="none" aria-hidden="true">{}'
        '<line class="axis" x1="0" x2="720" y1="90.5" y2="90.5"/></svg>'
    ).format(Markup("").join(columns))


def interval(value: float, low: float, high: float) -> Markup:
    """Return a share with its interval as a dot on a whisker, on an axis that ends at 100 %."""
    reach = max(high - low, 0.002)
    start = max(0.0, low - 0.8 * reach)
    end = min(1.0, high + 0.8 * reach)
    x = Scale(start, end, 4, 196)
    return Markup(
        '<svg class="interval" viewBox="0 0 200 16" aria-hidden="true"><line class="rail" x1="4" x2="196" y1="8" y2="8"/>'
        '<line class="whisker" x1="{0}" x2="{1}" y1="8" y2="8"/><line class="whisker" x1="{0}" x2="{0}" y1="3" y2="13"/>'
        '<line class="whisker" x1="{1}" x2="{1}" y1="3" y2="13"/><circle class="point" cx="{2}" cy="8" r="4.5"/></svg>'
    ).format(x(low), x(high), x(value))
