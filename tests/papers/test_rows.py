"""What every shipped row keeps: it can be run, or says why not; and what was recorded holds together."""

from __future__ import annotations

import importlib
import inspect
import re
import statistics
import tomllib
from pathlib import Path

import pytest

from danlu.augment.chain import make_chain
from danlu.core.errors import InputError
from danlu.data.catalog import CATALOG
from danlu.models import MODELS
from danlu.papers.depends import changes, effective_settings
from danlu.papers.pages import ROOT, pages
from danlu.papers.rows import Paper, Row, find_paper, find_row, list_papers, read_results
from danlu.papers.states import State, table
from danlu.papers.verdict import VERDICTS
from danlu.papers.words import LANGUAGES
from danlu.train.recipes import RECIPES

PAPERS = list_papers()
ROWS = [(name, row.id) for name in PAPERS for row in find_paper(name).rows]

# What the ledger has to hold, by paper.
HELD = {
    "lenet": "linear linear_deskewed knn lenet_300_100 lenet5 lenet5_distorted",
    "pruning": "lenet_300_100_before lenet_300_100 lenet5",
    "dropout": "logistic dropout_relu dropout_max_norm",
    "distillation": "teacher student soft without_3",
    "deep_compression": "lenet_300_100 lenet5",
    "fashion_mnist": "mlp two_conv_100k two_conv_113k two_conv_three_linear hog_svm googlenet vgg16 resnet18 mobilenet "
    "densenet_bc",
    "hysts": "fashion fashion_cutout16 fashion_mixup cifar10_smoothing batch4096_cosine",
    "he_init": "glorot he",
    "alexnet": "without_lrn with_lrn relu_against_tanh",
    "airbench": "airbench94 airbench94_parameters airbench95 airbench96",
    "resnet": "resnet20 resnet32 resnet44 resnet56 resnet110",
    "preact_resnet": "preact_resnet110 preact_resnet164 order_original order_bn_after_add order_relu_before_add "
    "order_relu_only order_full",
    "nin": "augmented plain",
    "wide_resnet": "wrn_28_10 wrn_16_8",
    "resnext": "resnext29_8x64d",
    "densenet": "bc_100_12 bc_100_12_augmented",
    "cutout": "resnet18_cutout",
    "mixup": "preact_resnet18_mixup",
    "cutmix": "cifar10_cutmix",
    "autoaugment": "wrn_28_10",
    "randaugment": "wrn_28_10",
    "sgdr": "t_0_10",
    "stochastic_depth": "resnet110",
    "sequences": "rnn lstm gru",
}


def the(name: str, row: str) -> tuple[Paper, Row]:
    paper = find_paper(name)
    return paper, find_row(paper, row)


@pytest.mark.parametrize("name", sorted(HELD))
def test_the_rows_that_have_to_be_there_are(name: str) -> None:
    held = {row.id for row in find_paper(name).rows}
    assert set(HELD[name].split()) <= held


def test_the_table_of_43_networks() -> None:
    rows = [row for row in find_paper("cifar100_zoo").rows if row.kind == "training"]
    assert len(rows) == 43
    assert {row.recipe for row in rows} == {"cifar100-table"}


def test_every_network_that_has_published_counts_is_in_the_ledger() -> None:
    counted = {row.model for name in PAPERS for row in find_paper(name).rows if row.kind == "analytic"}
    for name in MODELS.names():
        published = MODELS.get(name).published
        if (published.parameters, published.macs) != ("none published", "none published"):
            assert name in counted


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_row_can_be_run_or_says_why_not(name: str, row: str) -> None:
    _, found = the(name, row)
    if found.model is not None and found.model not in {*MODELS.index, *MODELS.aliases}:
        assert found.reason.startswith("the zoo has no")
        return
    if found.data is not None:
        assert found.data in CATALOG
    if found.recipe is not None:
        assert found.recipe in RECIPES.names()
        make_chain(effective_settings(found)["augment"])
    if found.kind == "method":
        function = getattr(importlib.import_module(f"danlu.papers.{name}.method"), str(found.function))
        inspect.signature(function).bind(object(), **found.arguments)
    if found.kind == "analytic":
        assert isinstance(found.published, str)
    assert found.source


@pytest.mark.parametrize("name", PAPERS)
def test_the_readme_has_its_sections(name: str) -> None:
    text = (find_paper(name).folder / "README.md").read_text(encoding="utf-8")
    wanted = ["## What it claims", "## What was new", "## Our deviations", "## What we learned", "## 中文"]
    assert re.findall(r"^## .*", text, re.MULTILINE) == wanted
    assert text.startswith(f"# {find_paper(name).title}\n")
    for part in re.split(r"^## .*", text, flags=re.MULTILINE)[1:]:
        assert len(part.strip()) > 3


def test_a_wrong_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.papers.papers import make_paper, row

    wrong = {"metric": "tset error %"}, {"seeds": 0}, {"recipe": None}, {"cost": ""}, {"colour": "red"}
    try:
        for place, given in enumerate(wrong):
            with pytest.raises(InputError) as error:
                make_paper(tmp_path / str(place), monkeypatch, row("first", **given))
            assert "expected.json" in str(error.value)
        with pytest.raises(InputError, match="stand twice"):
            make_paper(tmp_path / "twice", monkeypatch, row("first"), row("first"))
    finally:
        find_paper.cache_clear()


# What was recorded.

STATES = table()
RECORDED = [state for state in STATES if state.n]


def test_every_row_has_a_verdict_or_a_reason() -> None:
    assert len(STATES) == len(ROWS)
    for state in STATES:
        assert state.verdict in VERDICTS
        assert state.verdict != "not run" or state.why


@pytest.mark.parametrize("state", RECORDED, ids=lambda state: f"{state.paper}-{state.row}")
def test_what_is_recorded_holds_together(state: State) -> None:
    results = read_results(find_paper(state.paper).folder)
    entry = results["rows"][state.row]
    seeds = [run["seed"] for run in entry["runs"]]
    assert len(set(seeds)) == len(seeds) == entry["n"]
    for run in entry["runs"]:
        assert run["environment"] in results["environments"]
        assert run["commit"]
        assert run["seconds"] >= 0
        assert state.kind == "analytic" or len(run["data_hash"]) == 64
    values = [run["value"] for run in entry["runs"]]
    if not isinstance(values[0], str):
        assert entry["mean"] == pytest.approx(statistics.fmean(values), abs=1e-5)
        assert entry.get("std", 0.0) == pytest.approx(statistics.stdev(values) if len(values) > 1 else 0.0, abs=1e-5)


def test_no_result_is_of_a_row_that_is_gone() -> None:
    for name in PAPERS:
        rows = {row.id for row in find_paper(name).rows}
        assert set(read_results(find_paper(name).folder)["rows"]) <= rows


def test_the_pages_are_of_what_was_recorded() -> None:
    """Run `python -m danlu.papers.pages` when this fails; what is stale is then marked as such."""
    for path, text in pages().items():
        assert path.read_text(encoding="utf-8") == text, path


def test_a_stale_result_is_marked_on_its_page() -> None:
    stale = [state for state in RECORDED if state.stale]
    page = (ROOT / "docs/en/ledger.md").read_text(encoding="utf-8")
    marked = sum("stale: " in line for line in page.splitlines() if line.startswith("| `"))
    assert marked == sum(state.kind != "analytic" for state in stale)
    for state in stale:
        paper, row = the(state.paper, state.row)
        recorded = read_results(paper.folder)["rows"][row.id]["dependencies"]
        assert changes(recorded, paper, row) == list(state.stale)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_navigation_holds_every_page(language: str) -> None:
    folder = ROOT / "docs" / language
    settings = tomllib.loads((ROOT / f"docs/zensical.{language}.toml").read_text(encoding="utf-8"))

    def targets(entries: object) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        assert isinstance(entries, list | dict)
        inner = entries if isinstance(entries, list) else list(entries.values())
        return [target for one in inner for target in targets(one)]

    listed = targets(settings["project"]["nav"])
    assert len(set(listed)) == len(listed)
    assert set(listed) == {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}


def test_chinese_pages_translate_every_reason() -> None:
    from danlu.papers.words import reason_in

    for state in STATES:
        if state.why:
            assert re.search("[一-鿿]", reason_in(state.why, "zh")), state.why
