"""The strings: both languages for each, the same placeholders, none unused."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import danlu.report
from danlu.report import build_report
from danlu.report.text import TEXT, both, both_svg, plain
from tests.report.runs import write_bare_run

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


def test_every_event_of_a_training_has_its_words() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (FOLDER.parent / "train").rglob("*.py"))
    kinds = set(re.findall(r'what="([^"]+)"', sources))
    assert {"diverged", "out of memory", "left out", "resume", "stop"} <= kinds
    assert {kind for kind in kinds if f"event_{kind.replace(' ', '_')}" not in TEXT} == set()


def test_events_show_all_that_was_recorded(tmp_path: Path) -> None:
    run = write_bare_run(tmp_path / "run")
    run.append_log(kind="event", what="stop", epoch=0, step=2, signal=15)
    run.append_log(kind="event", what="out of memory", epoch=0, step=1, parts=4)
    page = build_report(run).read_text(encoding="utf-8")
    assert "SIGTERM" in page
    assert "a batch is computed in 4 parts from now on" in page
    assert "此后每个批次分 4 部分计算" in page


def test_values_are_escaped() -> None:
    shown = both("not_run_hint", command="<b>&")
    assert "<b>&" not in shown
    assert shown.count("&lt;b&gt;&amp;") == 2
    assert shown.count("<code>") == 2
    assert both_svg("epoch").startswith('<tspan class="en"')
    assert plain("language", "zh") == "语言"
    assert both("f1") == "F1"
