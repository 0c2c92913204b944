"""The strings: both languages for each, the same placeholders, none unused."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import danlu.report
from danlu.report.text import TEXT, both, both_svg, plain

FOLDER = Path(danlu.report.__file__).parent
# The same in both languages: names, not words.
NEUTRAL = {"f1", "pytorch", "onnx_fp32", "onnx_int8", "hash"}
# Keys made from a record's words.
FROM_RECORDS = re.compile(r"(stage|event|resize)_\w+|(rate|speed)_curve")


def placeholders(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}


@pytest.mark.parametrize("key", TEXT)
def test_both_languages(key: str) -> None:
    english, chinese = TEXT[key]
    assert english.strip()
    assert chinese.strip()
    assert placeholders(english) == placeholders(chinese)
    assert not re.search(r"[\u4e00-\u9fff]", english)
    assert key in NEUTRAL or re.search(r"[\u4e00-\u9fff]", chinese), f"{key} is not translated"


def test_no_string_is_unused() -> None:
    files = [*FOLDER.glob("*.html"), *(path for path in FOLDER.glob("*.py") if path.name != "text.py")]
    used = set(re.findall(r"[\"'](\w+)[\"']", "\n".join(path.read_text(encoding="utf-8") for path in files)))
    assert {key for key in TEXT if key not in used and not FROM_RECORDS.fullmatch(key)} == set()


def test_values_are_escaped() -> None:
    shown = both("not_run_hint", command="<b>&")
    assert "<b>&" not in shown
    assert shown.count("&lt;b&gt;&amp;") == 2
    assert shown.count("<code>") == 2
    assert both_svg("epoch").startswith('<tspan class="en"')
    assert plain("language", "zh") == "语言"
    assert both("f1") == "F1"
