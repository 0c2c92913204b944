"""Charts as SVG with real text. Colours are classes that the style sheet sets for the light and the dark page.

Every function returns markup in which names are escaped; positions are attributes, because the page's security policy
allows no ``style`` attribute. A chart is drawn near its shown size, so that its text is legible on a phone as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from danlu.report.axes import Scale, log_ticks, tick_labels, ticks, whole_ticks
from danlu.report.figures import milliseconds, power_of_ten, svg_name, width
from danlu.report.text import both, both_svg

__all__ = ["Latency", "Series", "dot_chart", "latency_chart", "line_chart", "thinned"]

_WIDTH, _HEIGHT = 440, 256
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 66, 18, 28
_MOST_POINTS = 400
_LONGEST_TAIL = 2.5
_LABEL = 16  # columns of a row's name


@dataclass(frozen=True)
class Series:
    """One line of a chart: (x, y) points in ascending x; ``style`` is a class of the style sheet."""

    key: str
    style: str
    points: Sequence[tuple[float, float]]
    faint: bool = False


def thinned(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most ``most`` points: the means of equal runs of neighbours."""
    if len(points) <= most:
        return list(points)
    edges = [round(i * len(points) / most) for i in range(most + 1)]
    runs = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def line_chart(
    series: Sequence[Series],
    label: Callable[[float], str],
    *,
    ident: str,
    log: bool = False,
    bounds: tuple[float | None, float | None] = (None, None),
    from_zero: bool = False,
    best: float | None = None,
    tick_label: Callable[[Sequence[float]], list[str]] | None = None,
) -> Markup:
    """Return a chart of lines over epochs with ticks, end labels, and values that appear on pointing or by ← →.

    Args:
        series: the lines; faint ones lie behind and are not read out.
        label: how a value is written.
        ident: the id of the caption that names the chart.
        log: logarithmic values (all positive).
        bounds: the least and the largest value the axis may show, where the quantity has such.
        from_zero: the axis begins at zero, where differences are not to be magnified.
        best: the epoch to mark.
        tick_label: how ticks are written.
    """
    lines = [Series(s.key, s.style, thinned(s.points), s.faint) for s in series if s.points]
    everything = [y for line in lines for _, y in line.points]
    marks = _value_ticks([0.0, *everything] if from_zero else everything, log, bounds)
    epochs = [x for line in lines for x, _ in line.points]
    last = max(epochs)
    x = Scale(0 if last <= 1 else min(1.0, *epochs), max(last, 1), _LEFT, _WIDTH - _RIGHT)
    y = Scale(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP, log)
    written = tick_label or ((lambda values: [power_of_ten(v) for v in values]) if log else tick_labels)
    pieces = [_axes(x, y, marks, written(marks))]
    if best is not None:
        pieces.append(_best(x(best)))
    for line in sorted(lines, key=lambda s: not s.faint):
        pieces.append(_path(line, x, y))
    solid = [line for line in lines if not line.faint]
    if len(solid) > 1:
        pieces.extend(_end_labels(solid, x, y, label))
    data = json.dumps(_readout(solid, x, y, label), ensure_ascii=False)
    frame = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}" tabindex="0" data-chart="{}">{}'
        '<g class="cursor" visibility="hidden"><line y1="{}" y2="{}"/></g></svg>'
    )
    drawn = frame.format(_WIDTH, _HEIGHT, ident, data, Markup("").join(pieces), _TOP, _HEIGHT - _BOTTOM)
    return _legend(lines) + drawn


def _value_ticks(values: Sequence[float], log: bool, bounds: tuple[float | None, float | None]) -> list[float]:
    low, high = min(values), max(values)
    if log:
        return log_ticks(low, high)
    marks = ticks(low, high)
    least, most = bounds
    if least is not None:
        marks = [mark for mark in marks if mark >= least - 1e-9] or [least]
    if most is not None:
        marks = [mark for mark in marks if mark <= most + 1e-9] or [most]
    return marks if len(marks) > 1 else [marks[0] - 1, marks[0]]


def _axes(x: Scale, y: Scale, marks: Sequence[float], labels: Sequence[str]) -> Markup:
    rows = [
        Markup(
            '<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/><text class="tick" x="{3}" y="{4}">{5}</text>'
        ).format(x.start, x.end, y(mark), x.start - 8, y(mark) + 4, text)
        for mark, text in zip(marks, labels, strict=True)
    ]
    base = y.start
    columns = [
        Markup(
            '<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text class="tick mid" x="{0}" y="{3}">{4}</text>'
        ).format(x(value), base, base + 4, base + 20, f"{value:,}")
        for value in whole_ticks(round(x.low), round(x.high))
    ]
    title = Markup(
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick epoch" x="{}" y="{}">{}</text>'
    )
    drawn = title.format(x.start, x.end, base, base, x.start - 12, base + 20, both_svg("epoch"))
    return Markup("").join([*rows, *columns, drawn])


def _best(position: float) -> Markup:
    shape = '<line class="best" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text class="tick mid" x="{0}" y="{3}">{4}</text>'
    return Markup(shape).format(position, _TOP, _HEIGHT - _BOTTOM, _TOP - 4, both_svg("best"))


def _path(line: Series, x: Scale, y: Scale) -> Markup:
    points = " ".join(f"{x(a)},{y(b)}" for a, b in line.points)
    style = f"line {line.style}{' faint' if line.faint else ''}"
    if len(line.points) == 1:
        a, b = line.points[0]
        return Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.5"/>').format(line.style, x(a), y(b))
    return Markup('<polyline class="{}" points="{}"/>').format(style, points)


def _end_labels(lines: Sequence[Series], x: Scale, y: Scale, label: Callable[[float], str]) -> list[Markup]:
    """Write each line's last value at its end; labels that would overlap are moved apart."""
    ends = sorted(((y(line.points[-1][1]), line) for line in lines), key=lambda pair: pair[0])
    drawn, previous = [], float("-inf")
    for height, line in ends:
        place = max(height + 4, previous + 14)
        previous = place
        value = label(line.points[-1][1])
        text = Markup('<text class="end {}" x="{}" y="{}">{}</text>')
        drawn.append(text.format(line.style, x(line.points[-1][0]) + 7, place, value))
    return drawn


def _readout(lines: Sequence[Series], x: Scale, y: Scale, label: Callable[[float], str]) -> dict[str, object]:
    """Return what the script shows on pointing: the epochs, and of each line the pixel and the text of its values."""
    epochs = sorted({value for line in lines for value, _ in line.points})
    rows = []
    for line in lines:
        values = dict(line.points)
        heights = [y(values[e]) if e in values else None for e in epochs]
        texts = [label(values[e]) if e in values else "" for e in epochs]
        rows.append({"key": line.key, "style": line.style, "y": heights, "text": texts})
    return {"x": [x(e) for e in epochs], "head": [f"{e:g}" for e in epochs], "rows": rows}


def _legend(lines: Sequence[Series]) -> Markup:
    entry = Markup(
        '<span data-key="{0}"><svg class="key" viewBox="0 0 24 8" aria-hidden="true">'
        '<line class="line {1}" x1="1" x2="23" y1="4" y2="4"/></svg>{2}</span>'
    )
    entries = [entry.format(line.key, line.style + (" faint" if line.faint else ""), both(line.key)) for line in lines]
    return Markup('<div class="legend">{}</div>').format(Markup("").join(entries))


def dot_chart(rows: Sequence[tuple[str, float | None, bool]], *, limit: float | None, ident: str) -> Markup:
    """Return named positive values as dots on a logarithmic axis, those that are bad marked, and a line at ``limit``.

    A value of zero sits at the left end; ``None`` is a value that was not finite, and is said in words.
    """
    positive = [value for _, value, _ in rows if value] + ([limit] if limit else [])
    marks = log_ticks(min(positive), max(positive), decades=True) if positive else [1e-7, 1e-6]
    left = 20 + round(8.0 * max(min(width(label), _LABEL) for label, _, _ in rows))
    right, row_height, top = 420, 24, 8
    x = Scale(marks[0], marks[-1], left, right, log=True)
    bottom = top + row_height * len(rows)
    pieces = []
    for mark in marks:
        line = Markup(
            '<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text class="tick mid" x="{0}" y="{3}">{4}</text>'
        )
        pieces.append(line.format(x(mark), top, bottom, bottom + 16, power_of_ten(mark)))
    if limit:
        line = Markup('<line class="limit" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
        pieces.append(line.format(x(limit), top - 4, bottom))
    for position, (label, value, bad) in enumerate(rows):
        middle = top + row_height * (position + 0.5)
        text = Markup('<text class="tick" x="{}" y="{}">{}</text>')
        pieces.append(text.format(left - 10, middle + 4, svg_name(label, _LABEL)))
        if value is None:
            text = Markup('<text class="tick bad" x="{}" y="{}">{}</text>')
            pieces.append(text.format(right, middle + 4, both_svg("not_finite")))
            continue
        style = "bad" if bad else "train"
        row = Markup(
            '<line class="stem" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/><circle class="dot {3}" cx="{1}" cy="{2}" r="4"/>'
        )
        where = x(value) if value > 0 else x.start
        pieces.append(row.format(left, where, middle, style))
    frame = Markup('<svg class="chart" viewBox="0 0 440 {}" role="img" aria-labelledby="{}">{}</svg>')
    return frame.format(bottom + 24, ident, Markup("").join(pieces))


@dataclass(frozen=True)
class Latency:
    """Median, 90th and 99th percentile of one runtime at one batch size, in milliseconds."""

    label: str
    style: str
    median: float
    p90: float | None
    p99: float | None


def latency_chart(rows: Sequence[Latency], *, ident: str) -> Markup:
    """Return bars from zero to the medians, with lines to the 90th percentile and ticks at the 99th.

    The axis ends at 2.5 times the longest bar at most: a line that goes beyond it ends in an arrow instead of a tick.
    """
    longest = max(value for row in rows for value in (row.median, row.p90, row.p99) if value is not None)
    longest = min(longest, _LONGEST_TAIL * max(row.median for row in rows))
    row_height, top = 44, 4
    x = Scale(0.0, longest or 1.0, 1, 366)
    pieces = []
    for position, row in enumerate(rows):
        text, middle = top + row_height * position + 13, top + row_height * position + 27
        shape = (
            '<text class="label" x="0" y="{}">{}</text><rect class="fill {}" x="1" y="{}" width="{}" height="12"/>'
            '<text class="value" x="{}" y="{}">{}</text>'
        )
        end = x(next(value for value in (row.p99, row.p90, row.median) if value is not None))
        bar_top = middle - 6
        label = svg_name(row.label, 44)
        value = milliseconds(row.median)
        pieces.append(
            Markup(shape).format(text, label, row.style, bar_top, x(row.median) - 1, end + 8, middle + 4, value)
        )
        if row.p90 is not None:
            line = '<line class="whisker" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
            pieces.append(Markup(line).format(x(row.median), x(row.p90), middle))
        if row.p99 is not None:
            line = '<line class="whisker thin" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
            pieces.append(Markup(line).format(x(row.median), x(row.p99), middle))
            tick = '<polyline class="whisker thin" points="{0},{2} {1},{3} {0},{4}"/>'
            back = 5 if row.p99 > longest else 0
            pieces.append(Markup(tick).format(x(row.p99) - back, x(row.p99), middle - 4, middle, middle + 4))
    frame = Markup('<svg class="chart" viewBox="0 0 440 {}" role="img" aria-labelledby="{}">{}</svg>')
    return frame.format(top + row_height * len(rows), ident, Markup("").join(pieces))
