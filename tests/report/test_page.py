"""The page: made from records alone, escaped, whole in itself, honest about what was not run."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import InputError
from danlu.core.files import read_json, write_json
from danlu.core.records import RunFolder
from danlu.report import build_report
from danlu.report.view_deploy import parity_view
from tests.report.runs import HOSTILE, write_bare_run, write_full_run, write_nasty_run, write_png

FOLDER = Path(sys.modules["danlu.report"].__file__ or "").parent
VOID = {"meta", "img", "br", "link", "input", "hr", "line", "rect", "circle", "polyline"}


class Page(HTMLParser):
    """Collects elements, attributes and visible text; notes tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.errors: list[str] = []
        self.words: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)
        self.close()
        self.errors.extend(f"<{tag}> stays open" for tag in self.open)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.errors.append(f"<{tag}> repeats an attribute")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]].append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[\s\u202f]+", " ", " ".join(self.words)).replace("\u2060", "")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(write_full_run(tmp_path_factory.mktemp("report") / "full")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(write_nasty_run(tmp_path_factory.mktemp("report") / "nasty")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(write_bare_run(tmp_path_factory.mktemp("report") / "bare")).read_text(encoding="utf-8")


@pytest.fixture(params=["full", "nasty", "bare"])
def page(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def rebuilt(run: RunFolder, **sections: Any) -> Page:
    run.update_record(**sections)
    return Page(build_report(run).read_text(encoding="utf-8"))


def test_elements_nest_and_ids_are_unique(page: str) -> None:
    parsed = Page(page)
    assert parsed.errors == []
    ids = Counter(attributes["id"] for _, attributes in parsed.elements if "id" in attributes)
    assert [ident for ident, times in ids.items() if times > 1] == []
    named = {attributes["aria-labelledby"] for _, attributes in parsed.elements if "aria-labelledby" in attributes}
    assert named <= set(ids)


def test_nothing_is_loaded(page: str) -> None:
    for tag, attributes in Page(page).elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "audio", "video", "use", "image"}
        for key in ("src", "srcset", "xlink:href", "data", "poster", "action", "background"):
            assert (attributes.get(key) or "data:").startswith("data:image/png;base64,") or key not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert "style" not in attributes, "the security policy would drop it"
        assert not [key for key in attributes if key.startswith("on")]
    assert not re.search(r"@import|url\(", (FOLDER / "style.css").read_text(encoding="utf-8"))
    assert not re.search(
        r"fetch\(|XMLHttp|WebSocket|import\(|innerHTML|eval\(", (FOLDER / "script.js").read_text("utf-8")
    )


def test_the_policy_allows_exactly_this_style_and_script(page: str) -> None:
    parsed = Page(page)
    policy = next(a["content"] or "" for tag, a in parsed.elements if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        digest = b64encode(hashlib.sha256("".join(parsed.raw[kind]).encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert sum(tag == "script" for tag, _ in parsed.elements) == 1


@pytest.mark.parametrize("name", [name for name in HOSTILE if len(name) < 40 and name.isprintable() and name])
def test_hostile_names_are_text(nasty: str, name: str) -> None:
    parsed = Page(nasty)
    assert re.sub(r"\s+", " ", name) in parsed.text, "shown as it is"
    if re.search(r"[<>&\"]", name):
        assert name not in nasty, "but never as markup"


def test_nothing_hostile_gets_through(nasty: str) -> None:
    parsed = Page(nasty)
    assert "onerror" not in {key for _, attributes in parsed.elements for key in attributes}
    assert {tag for tag, _ in parsed.elements} & {"b:evil", "jpeg"} == set()
    assert "\u202e" not in nasty
    assert "\x07" not in nasty
    assert "x" * 1_001 not in nasty, "10,000 letters are cut"
    assert "(10,000)" in nasty
    assert "49" not in [word for word in parsed.text.split() if word == "{{"]
    assert "{{ 7 * 7 }}{% raw %}" in parsed.text
    assert "alert(5)" in parsed.text
    assert sum("alert" in script for script in parsed.raw["script"]) == 0


def test_figures_of_a_full_run(full: str) -> None:
    text = Page(full).text
    for expected in (
        "345 of 354 test pictures are classified correctly: 97.5 % (95 % interval 95.2–98.7 %)",
        "danlu run digits --seed 0 --set epochs=20",
        "79.4 kB",
        "0.0388 ms",
        "61,706",
        "416,520",
        "E. Alpaydin",
        "CC BY 4.0",
        "no picture stands in two splits",
        "2026-01-31 09:05 UTC",
        "2 threads were the fastest of 1, 2 in a short measurement",
        "onnxruntime 1.24.1",
        "7.6 × 10⁻⁶",
        "10.6×",
        "onnxruntime int8 against pytorch eager",
        "图片",
    ):
        assert expected.lower() in text.lower(), expected
    assert "not run" not in text.lower()
    assert "nan" not in re.findall(r"\w+", text.lower())


def test_epochs_are_counted_from_one(full: str) -> None:
    assert "weights of epoch 17" in Page(full).text
    data = [json.loads(a["data-chart"] or "") for _, a in Page(full).elements if "data-chart" in a]
    assert data[0]["head"][0] == "1"
    assert data[0]["head"][-1] == "20"


def test_missing_sections_say_so(bare: str) -> None:
    text = Page(bare).text
    assert text.count("Not run.") == 8
    assert "danlu bench RUN" in text
    assert "This run has no test result yet." in text


def test_many_classes_become_pairs_and_a_thumbnail(nasty: str, full: str) -> None:
    parsed, few = Page(nasty), Page(full)
    assert not [a for _, a in parsed.elements if "data-tip" in a]
    assert sum("thumbnail" in (a.get("class") or "") for _, a in parsed.elements) == 1
    assert sum("data-tip" in a for _, a in few.elements) == 100


def test_pictures_outside_the_run_stay_outside(nasty: str, tmp_path: Path) -> None:
    assert Page(nasty).text.count("picture missing") == 3
    run = write_bare_run(tmp_path / "run")
    write_png(tmp_path / "secret.png", "?", 28, seed=0)
    write_png(run.path / "inside.png", "?", 28, seed=0)
    (run.path / "linked.png").symlink_to(tmp_path / "secret.png")
    places = ["../secret.png", str(tmp_path / "secret.png"), "linked.png", "inside.png"]
    worst = [{"id": str(i), "true": "a", "predicted": "b", "picture": place} for i, place in enumerate(places)]
    page = rebuilt(run, evaluation={"worst": worst})
    assert page.text.count("picture missing") == 3
    assert sum(tag == "img" for tag, _ in page.elements) == 1


def test_hidden_letters_are_shown_everywhere(tmp_path: Path) -> None:
    hidden = "a\u202eb\x1b[31m"
    page = rebuilt(write_bare_run(tmp_path / "run"), data={"licence": hidden, "citation": hidden, "source": hidden})
    assert page.text.count("a�b�[31m") == 3


@pytest.mark.parametrize("section", ["data", "train", "results", "evaluation", "analysis", "artifacts", "parity",
                                     "benchmark", "environment", "stages"])  # fmt: skip
@pytest.mark.parametrize("value", [None, {}, [], "text", {"rows": [{}], "classes": [None], "fp32": {"test": {}}}])
def test_any_section_may_be_absent_or_odd(tmp_path: Path, section: str, value: object) -> None:
    run = write_bare_run(tmp_path / "run")
    assert rebuilt(run, **{section: value}).errors == []


def test_each_section_alone_may_be_absent(tmp_path: Path) -> None:
    run = write_full_run(tmp_path / "run")
    record = read_json(run.record_path)
    for section in [key for key in record if key != "schema"]:
        write_json(run.record_path, {key: value for key, value in record.items() if key != section})
        assert Page(build_report(run).read_text(encoding="utf-8")).errors == [], section


def test_failed_parity_comes_first(tmp_path: Path) -> None:
    run = write_full_run(tmp_path / "run")
    parity = read_json(run.record_path)["parity"]
    parity["fp32"]["validation"]["passed"] = False
    parity["fp32"]["first_bad_stage"] = "conv2"
    nothing = {"file": None, "bytes": None, "sha256": None}
    left_out = {"delivered": False, "reason": "float32 is out of tolerance"}
    page = rebuilt(run, parity={**parity, "int8": left_out}, artifacts={"fp32": nothing, "int8": nothing}, benchmark={})
    assert "no artifact was delivered. First stage that differs: conv2." in page.text
    assert page.text.count("✕ fails") == 2
    assert "INT8 ✕ withheld" in page.text


def test_the_limit_drawn_is_the_one_recorded(tmp_path: Path) -> None:
    run = write_full_run(tmp_path / "run")
    record = read_json(run.record_path)

    def drawn(**export: object) -> tuple[int, int]:
        view = parity_view({**record, "export": export})
        assert view is not None
        assert view.fp32 is not None
        chart = str(view.fp32.stages)
        return chart.count('class="limit"'), chart.count('class="dot bad"')

    assert drawn(tolerance=1e-4) == (1, 0)
    assert drawn(tolerance=2e-7) == (1, 3)  # all stages but the first lie beyond it
    assert drawn() == (0, 0)
    # Pixels are held to levels of grey: a step that passes is not marked, one that does not is.
    stages = record["parity"]["fp32"]["stages"]
    stages.insert(0, {"stage": "resize", "relative": 4e-3})
    assert drawn(tolerance=1e-4) == (1, 0)
    record["parity"]["fp32"]["first_bad_stage"] = "resize"
    assert drawn(tolerance=1e-4) == (1, 1)


def test_a_busy_machine_is_told_beside_the_times(tmp_path: Path) -> None:
    run = write_full_run(tmp_path / "run")
    record = read_json(run.record_path)

    def told(**settings: object) -> bool:
        benchmark = {**record["benchmark"], "threads": 1}
        benchmark["settings"] = {**benchmark["settings"], **settings}
        page = rebuilt(run, benchmark=benchmark, environment={**record["environment"], "cores": 2})
        found = "Other work ran on this machine meanwhile" in page.text
        assert found == ("on a busy machine" in page.text)
        return found

    assert not told(load=0.9, other_cores=1.1)
    assert told(load=1.6, other_cores=0.1)
    assert told(load=0.5, other_cores=1.4)
    assert not told(load=None, other_cores=None)


def test_a_percentile_of_too_few_calls_is_a_dash(tmp_path: Path) -> None:
    run = write_full_run(tmp_path / "run")
    benchmark = read_json(run.record_path)["benchmark"]
    for row in benchmark["rows"]:
        row |= {"p90_ms": None, "p99_ms": None, "calls": 7}
    benchmark["rows"][0] |= {"median_ms": 4.56, "pictures_per_second": 219.0}
    page = rebuilt(run, benchmark=benchmark)
    assert page.errors == []
    assert "4.56 – – 7 219" in page.text


def test_int8_not_asked_for(tmp_path: Path) -> None:
    run = write_full_run(tmp_path / "run")
    record = read_json(run.record_path)
    page = rebuilt(run, parity={"fp32": record["parity"]["fp32"]}, artifacts={"fp32": record["artifacts"]["fp32"]})
    assert "INT8 was not asked for." in page.text
    assert "253 kB FP32 file" in page.text


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    run = write_bare_run(tmp_path / "run")
    run.append_log(kind="step", step=1, epoch=0, loss=2.3, lr=0.1)
    run.append_log(kind="event", what="diverged", epoch=0, step=2, reason="loss is inf", ids=["<b>a</b>.png"] * 20)
    page = Page(build_report(run).read_text(encoding="utf-8"))
    assert "Training was stopped because it diverged: loss is inf · <b>a</b>.png" in page.text
    assert "This training has no closing record" in page.text


def test_settings_say_who_set_them(full: str) -> None:
    text = Page(full).text
    assert re.search(r"train\.epochs 20 set by the user", text)
    assert re.search(r"seed 0 set by the user", text)
    assert "precision – bf16 the processor multiplies" in text, "what took effect, not the setting left open"
    assert not re.search(r"machine\.device cpu set by the user", text)
    assert not re.search(r"set\.epochs|download", text), "said once, and only what was asked for"
    assert "name=pad_crop padding=1" in text


@pytest.mark.parametrize(("asked", "language", "fixed"), [(None, "en", False), ("zh", "zh", True), ("en", "en", True)])
def test_language_asked_for(tmp_path: Path, asked: str | None, language: str, fixed: bool) -> None:
    run = write_bare_run(tmp_path / "run")
    write_json(run.config_path, {"schema": 1, "requested": {"lang": asked}, "effective": {}})
    tag, attributes = Page(build_report(run).read_text(encoding="utf-8")).elements[0]
    assert (tag, attributes["data-lang"], "data-fixed" in attributes) == ("html", language, fixed)


def test_record_command_is_quoted(tmp_path: Path) -> None:
    run = write_bare_run(tmp_path / "run")
    assert "danlu run 'my pictures'" in rebuilt(run, command=["danlu", "run", "my pictures"]).text


def test_lone_surrogates_do_not_break_the_file(tmp_path: Path) -> None:
    run = write_bare_run(tmp_path / "run")
    run.record_path.write_text('{"schema": 1, "data": {"name": "a\\ud800b", "classes": ["\\udcff"]}}', encoding="utf-8")
    assert "a�b" in Page(build_report(run).read_text(encoding="utf-8")).text


def test_the_report_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_bare_run(tmp_path / "run")
    run.report_path.write_text("old", encoding="utf-8")
    run.record_path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is not JSON"):
        build_report(run)
    assert run.report_path.read_text(encoding="utf-8") == "old"


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    run = write_nasty_run(tmp_path / "run")
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first


def test_a_thousand_classes(tmp_path: Path) -> None:
    run = write_bare_run(tmp_path / "run")
    names = [f"n{i:08d}" for i in range(1000)]
    matrix = [[50 if i == j else 1 if (i * 7 + j) % 499 == 0 else 0 for j in range(1000)] for i in range(1000)]
    rows = [{"class": n, "precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 50, "predicted": 50} for n in names]
    evaluation = {"split": "test", "classes": names, "confusion": matrix, "per_class": rows, "worst": []}
    run.record_path.write_text(json.dumps({"schema": 1, "evaluation": evaluation}), encoding="utf-8")
    assert build_report(run).stat().st_size < 2_000_000


def test_no_torch_and_no_jinja_before_it_is_needed() -> None:
    code = "import sys, danlu.report; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'jinja2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_are_legible(theme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (FOLDER / "style.css").read_text(encoding="utf-8"), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[theme]))

    def contrast(a: str, b: str) -> float:
        bright, dim = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (bright + 0.05) / (dim + 0.05)

    for text in ("ink", "soft", "accent", "warn", "train", "validation", "extra", "good", "bad"):
        assert contrast(text, "paper") >= 4.5, text
    for text in ("ink", "soft"):
        assert contrast(text, "panel") >= 4.5, text
    assert contrast("good", "good-tint") >= 4.5
    assert contrast("bad", "bad-tint") >= 4.5
    assert contrast("on", "correct") >= 4.5
