"""Charts: round ticks, points where they belong, well-formed SVG with escaped names."""

from __future__ import annotations

import json
import math
import random
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from danlu.report.axes import Scale, log_ticks, tick_labels, ticks, whole_ticks
from danlu.report.charts import Latency, Series, dot_chart, latency_chart, line_chart, thinned
from danlu.report.figures import significant
from danlu.report.heatmap import confused_pairs, heat_map, read_matrix, thumbnail
from danlu.report.marks import bar, interval, profile, spot, stacked_bar

HOSTILE = '<script>alert("1")</script>&'


def parsed(markup: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{markup}</div>")


def having(root: ElementTree.Element, tag: str, style: str) -> list[ElementTree.Element]:
    return [element for element in root.iter(tag) if style in element.get("class", "").split()]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.3, 2.31, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0.981, 0.9896, [0.98, 0.982, 0.984, 0.986, 0.988, 0.99]),
        (5.0, 5.0, [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
        (0.0, 0.0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_enclose_and_are_few() -> None:
    draw = random.Random(3)
    for _ in range(500):
        low = draw.uniform(-1, 1) * 10 ** draw.uniform(-6, 6)
        high = low + 10 ** draw.uniform(-6, 6)
        found = ticks(low, high)
        slack = 1e-6 * (found[1] - found[0])
        assert found[0] <= low + slack
        assert found[-1] >= high - slack
        assert 2 <= len(found) <= 8


def test_log_ticks() -> None:
    assert log_ticks(0.05, 2.3) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2, 5])
    assert log_ticks(1e-7, 1e-4, decades=True) == pytest.approx([1e-7, 1e-6, 1e-5, 1e-4])
    assert len(log_ticks(1e-12, 1e3)) <= 9
    assert log_ticks(3.0, 3.0)[0] <= 3.0 <= log_ticks(3.0, 3.0)[-1]
    with pytest.raises(ValueError, match="0 < low"):
        log_ticks(0.0, 1.0)


def test_epoch_ticks_are_whole() -> None:
    assert whole_ticks(1, 20) == [1, 5, 10, 15, 20]
    assert whole_ticks(0, 3) == [0, 1, 2, 3]
    assert whole_ticks(1, 1) == [1]
    assert len(whole_ticks(1, 997)) <= 8


def test_tick_labels_agree_in_decimals() -> None:
    assert tick_labels([0.0, 0.05, 0.1]) == ["0", "0.05", "0.10"]
    assert tick_labels([0.0, 1000.0, 2000.0]) == ["0", "1,000", "2,000"]


def test_scale() -> None:
    scale = Scale(1.0, 100.0, 0.0, 200.0, log=True)
    assert [scale(1.0), scale(10.0), scale(100.0), scale(1000.0), scale(0.0)] == [0.0, 100.0, 200.0, 200.0, 0.0]


def test_thinned_keeps_the_mean() -> None:
    points = [(float(i), float(i % 7)) for i in range(12_345)]
    few = thinned(points, 400)
    assert len(few) == 400
    assert [x for x, _ in few] == sorted(x for x, _ in few)
    assert sum(y for _, y in few) / 400 == pytest.approx(sum(y for _, y in points) / len(points), rel=0.01)


def test_line_chart_places_points() -> None:
    falling = [(float(i), 2.0 - 0.1 * i) for i in range(1, 11)]
    flat = [(float(i), 0.5) for i in range(1, 11)]
    markup = line_chart(
        [Series("train", "train", falling), Series("validation", "validation", flat)], significant, ident="c", best=7.0
    )
    root = parsed(markup)
    lines = [element.get("points", "").split() for element in having(root, "polyline", "line")]
    assert [len(line) for line in lines] == [10, 10]
    xs, ys = zip(*(map(float, point.split(",")) for point in lines[0]), strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys), "a falling value goes down the page"
    labels = [element.text for element in having(root, "text", "tick")]
    assert {"0.5", "1.0", "1.5", "2.0"} <= set(labels)
    ends = having(root, "text", "end")
    assert {end.text for end in ends} == {"1.00", "0.500"}
    assert "best" in "".join(root.itertext())
    assert "最佳" in "".join(root.itertext())


def test_line_chart_reads_out_every_epoch() -> None:
    points = [(1.0, 0.9), (2.0, 0.5), (3.0, 0.25)]
    root = parsed(line_chart([Series("train", "train", points)], significant, ident="c"))
    svg = next(element for element in root.iter("svg") if element.get("data-chart"))
    data = json.loads(svg.attrib["data-chart"])
    assert data["head"] == ["1", "2", "3"]
    assert data["rows"][0]["text"] == ["0.900", "0.500", "0.250"]
    assert len(data["x"]) == len(data["rows"][0]["y"]) == 3


def test_end_labels_do_not_overlap() -> None:
    series = [Series(key, key, [(1.0, 0.5), (2.0, 0.99 - i * 1e-4)]) for i, key in enumerate(("train", "validation"))]
    ends = having(parsed(line_chart(series, significant, ident="c")), "text", "end")
    heights = sorted(float(end.attrib["y"]) for end in ends)
    assert heights[1] - heights[0] >= 14


def test_one_epoch_is_a_dot() -> None:
    root = parsed(line_chart([Series("train", "train", [(1.0, 0.5)])], significant, ident="c"))
    assert len(having(root, "circle", "dot")) == 1
    assert not list(root.iter("polyline"))


def test_logarithmic_lines() -> None:
    halving = [(float(i), 2.0**-i) for i in range(8)]
    root = parsed(line_chart([Series("train", "train", halving)], significant, ident="c", log=True))
    points = having(root, "polyline", "line")[0].attrib["points"].split()
    steps = np.diff([float(point.split(",")[1]) for point in points])
    assert np.ptp(steps) < 0.3, "equal factors are equal steps"


def test_dot_chart_marks_what_is_beyond() -> None:
    root = parsed(
        dot_chart(
            [("a", 1e-7, False), ("b", 1e-3, True), (HOSTILE, 0.0, False), ("d", None, True)], limit=1e-4, ident="c"
        )
    )
    assert [dot.attrib["class"] for dot in root.iter("circle")] == ["dot train", "dot bad", "dot train"]
    assert "not finite" in "".join(root.itertext())
    xs = [float(dot.attrib["cx"]) for dot in root.iter("circle")]
    limit = float(having(root, "line", "limit")[0].attrib["x1"])
    assert xs[2] < xs[0] + 1e-9 < limit < xs[1]


def test_latency_bars_are_in_proportion() -> None:
    rows = [Latency("eager", "rate", 4.0, 4.5, 8.0), Latency(HOSTILE, "train", 1.0, None, None)]
    root = parsed(latency_chart(rows, ident="c"))
    wide = [float(rect.attrib["width"]) for rect in root.iter("rect")]
    assert wide[0] / wide[1] == pytest.approx(4.0, abs=0.05)
    assert {"4.00\u202fms", "1.00\u202fms"} <= {text.text for text in root.iter("text")}


def test_a_long_tail_does_not_hide_the_bars() -> None:
    root = parsed(
        latency_chart([Latency("a", "rate", 1.0, 6.0, 90.0), Latency("b", "train", 0.5, 0.6, 0.7)], ident="c")
    )
    assert float(next(root.iter("rect")).attrib["width"]) > 140
    tails = [tick.attrib["points"].split() for tick in root.iter("polyline")]
    tip = [float(point.split(",")[0]) for point in tails[0]]
    assert tip[0] == tip[1] - 5, "an arrow"
    assert len({point.split(",")[0] for point in tails[1]}) == 1, "a tick"


def test_small_marks() -> None:
    assert 'width="25.0"' in bar(0.25)
    assert 'width="0.0"' in bar(None)
    assert 'width="100.0"' in bar(7.0)
    parts = [float(rect.attrib["width"]) for rect in parsed(stacked_bar([("a", 30), ("b", 10)], 80)).iter("rect")]
    assert parts == [37.5, 12.5]
    assert not list(parsed(stacked_bar([("a", 0)], 0)).iter("line"))
    columns = [float(rect.attrib["height"]) for rect in parsed(profile([1, 4, 2])).iter("rect")]
    assert columns == sorted(columns, reverse=True)
    assert spot(None, 0.9) == ""
    assert {text.text for text in parsed(interval(0.986, 0.968, 0.994)).iter("text")} == {"95", "100"}
    assert {text.text for text in parsed(interval(0.1, 0.05, 0.2)).iter("text")} == {"0", "100"}


def test_heat_map_cells() -> None:
    matrix = np.array([[9, 1, 0], [0, 10, 0], [5, 0, 5]])
    names = ["cat", HOSTILE, "狗"]
    root = parsed(heat_map(matrix, names, ident="c"))
    cells = having(root, "rect", "cell")
    strength = np.array([float(cell.attrib["fill-opacity"]) for cell in cells]).reshape(3, 3)
    assert strength[1, 1] == 1.0
    assert strength[0, 2] == 0.0
    assert strength[2, 0] > strength[0, 1] > 0.2
    assert [text.text for text in having(root, "text", "count")] == ["9", "1", "10", "5", "5"]
    assert cells[6].attrib["data-tip"] == "狗 → cat: 5 (50.00\u202f%)"
    assert HOSTILE not in str(heat_map(matrix, names, ident="c"))


@pytest.mark.parametrize("place", [0, 8, 9])
def test_no_column_name_leaves_the_heat_map(place: int) -> None:
    names = [f"c{i}" for i in range(10)]
    names[place] = "eastern grey kangaroo"
    root = parsed(heat_map(np.eye(10, dtype=np.int64), names, ident="c"))
    (svg,) = having(root, "svg", "matrix")
    for text in having(root, "text", "start"):
        start = float(re.findall(r"[\d.]+", text.attrib["transform"])[0])
        assert start + 4.6 * len(text.text or "") <= float(svg.attrib["width"]), text.text
    cells_end = float(having(root, "rect", "cell")[-1].attrib["x"]) + 37.5
    assert (float(svg.attrib["width"]) < cells_end + 20) == (place == 0), "no room is left where none is needed"


def test_confused_pairs_largest_first() -> None:
    matrix = np.array([[9, 1, 0], [3, 90, 7], [7, 0, 3]])
    found = [(pair.true, pair.predicted, pair.count) for pair in confused_pairs(matrix, ["a", "b", "c"], 3)]
    assert found == [("c", "a", 7), ("b", "c", 7), ("b", "a", 3)]
    assert confused_pairs(np.eye(3, dtype=np.int64), ["a", "b", "c"], 3) == []


@pytest.mark.parametrize("classes", [2, 31, 240, 241, 1000])
def test_thumbnail(classes: int) -> None:
    import base64
    import io

    matrix = np.eye(classes, dtype=np.int64) * 50
    matrix[0, classes - 1] = 50
    uri, side = thumbnail(matrix)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))
    assert picture.shape == (side, side, 4)
    assert side == min(classes, 240)
    assert (picture[np.arange(side), np.arange(side), 3] > 100).all(), "the diagonal shows"
    assert picture[0, -1, 3] > 100, "a single confusion survives the pooling"
    assert math.isclose(float((picture[..., 3] > 0).sum()), side + 1)


@pytest.mark.parametrize("value", [None, [], [[1]], [[1, 2], [3]], [[1, -2], [3, 4]], [[1, "x"], [3, 4]], [[1], 2]])
def test_no_matrix_is_no_matrix(value: object) -> None:
    assert read_matrix(value, ["a", "b"]) is None
