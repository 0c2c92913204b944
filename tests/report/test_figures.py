"""Numbers and names: units, digits, separators, escaping."""

from __future__ import annotations

import pytest

from danlu.report import figures
from danlu.report.figures import clean, name, shorten, svg_name


@pytest.mark.parametrize(
    ("value", "n", "text"),
    [
        (0.98611, 360, "98.6 %"),
        (0.99121, 10_000, "99.12 %"),
        (59_999 / 60_000, 60_000, "99.998 %"),
        (9_999 / 10_000, 10_000, "99.99 %"),
        (1.0, 360, "100.0 %"),
        (0.0, 20, "0.0 %"),
        (None, 20, "–"),
    ],
)
def test_percent(value: float | None, n: int, text: str) -> None:
    assert figures.percent(value, n).replace("\u202f", " ") == text


@pytest.mark.parametrize("n", [2, 10, 99, 100, 1_000, 1_797, 10_000, 60_000, 10**6])
def test_one_sample_is_never_rounded_away(n: int) -> None:
    assert figures.percent((n - 1) / n, n) != figures.percent(1.0, n)
    assert figures.percent(1 / n, n) != figures.percent(0.0, n)


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        ("count", 1_234_567, "1,234,567"),
        ("size", 812, "812 B"),
        ("size", 253_120, "253 kB"),
        ("size", 999_900, "1.00 MB"),
        ("size", 1_080_004, "1.08 MB"),
        ("size", 5.2e12, "5,200 GB"),
        ("milliseconds", 0.0612, "0.0612 ms"),
        ("milliseconds", 2023.4, "2,020 ms"),
        ("duration", 0.412, "0.41 s"),
        ("duration", 59.97, "1 min 00 s"),
        ("duration", 192.4, "3 min 12 s"),
        ("duration", 3_899.0, "1 h 04 min"),
        ("ratio", 3.4187, "3.42×"),
        ("ratio", 0.9961, "0.996×"),
        ("significant", 9.996, "10.0"),
        ("significant", 0.0, "0"),
        ("error_size", 3.14e-7, "3.1 × 10⁻⁷"),
        ("error_size", 0.41, "0.41"),
        ("power_of_ten", 1e-5, "10⁻⁵"),
        ("power_of_ten", 2e-5, "2 × 10⁻⁵"),
        ("power_of_ten", 0.05, "0.05"),
        ("share", 0.9999, ">99 %"),
        ("share", 0.0001, "<1 %"),
        ("share", 1, "100 %"),
        ("share", 0.472, "47 %"),
        ("shape", [1, 6, 28, 28], "1 × 6 × 28 × 28"),
        ("plain", [8, 8], "8, 8"),
        ("plain", 0.0005, "0.0005"),
        ("plain", True, "true"),
    ],
)
def test_units(function: str, value: object, text: str) -> None:
    assert getattr(figures, function)(value).replace("\u202f", " ") == text


@pytest.mark.parametrize(
    "function", ["count", "size", "milliseconds", "duration", "ratio", "significant", "error_size"]
)
def test_nothing_is_a_dash(function: str) -> None:
    assert getattr(figures, function)(None) == "–"


def test_points_carry_their_sign() -> None:
    assert figures.points(-0.0035, 288) == "−0.35"
    assert figures.points(0.0035, 288) == "+0.35"
    assert figures.points(-1e-9, 288) == "0.00"


def test_shorten_counts_columns() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
    assert figures.width(shorten("一个非常长的名称", 7)) <= 7
    assert shorten("一个非常长的名称", 7) == "一个非…"
    assert shorten("e\u0301" * 4, 4) == "e\u0301" * 4
    assert not shorten("🧑\u200d🚀 abc", 4).endswith("\u200d…")


@pytest.mark.parametrize("letter", ["\x00", "\x07", "\x1b", "\u202e", "\u2066", "\u200f", "\ud800", "\x9b"])
def test_hidden_letters_become_visible(letter: str) -> None:
    assert clean(f"a{letter}b") == "a�b"


def test_line_ends_become_spaces() -> None:
    assert clean("a\r\n\tb") == "a   b"


def test_names_are_escaped_and_cut() -> None:
    assert name("<script>&") == "<bdi>&lt;script&gt;&amp;</bdi>"
    long = name("x" * 10_000, 20)
    assert len(long) < 1_200
    assert 'title="xxxx' in long
    assert "(10,000)" in long
    assert name('" onmouseover="alert(1)" ' * 5, 10).count('"') == 2
    assert name("") == '<bdi>""</bdi>'.replace('""', "&#34;&#34;")
    assert svg_name("<b>" * 9, 8) == "&lt;b&gt;&lt;b&gt;&lt;…<title>" + "&lt;b&gt;" * 9 + "</title>"
