"""Both languages say the same, and what the pages name exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from benchmarks import speed_page, tables
from danlu import verbs
from danlu.core.settings import Settings
from danlu.models import MODELS
from danlu.train.settings import TrainConfig
from docs import verb_pages
from proof import page as zoo
from proof.__main__ import pending

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.name for path in (ROOT / "docs/en").glob("*.md"))
PAIRS = [("README.md", "README.zh-CN.md"), *((f"docs/en/{name}", f"docs/zh/{name}") for name in PAGES)]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def skeleton(text: str) -> list[str]:
    """Return what a translation keeps: heading levels, code without comments, first cells of tables."""
    kept, in_code = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            in_code = not in_code
            kept.append("```")
        elif in_code:
            kept.append(re.split(r"\s{2,}", line.split("#")[0].strip())[0])
        elif line.startswith("#"):
            kept.append(line.split()[0])
        elif line.startswith(("|", "- ")):
            kept.append(line[0])
    return kept


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_languages_have_the_same_skeleton(english: str, chinese: str) -> None:
    assert skeleton(read(english)) == skeleton(read(chinese))


def test_every_verb_is_in_the_table_of_both_languages() -> None:
    for language in ("en", "zh"):
        page = read(f"docs/{language}/verbs.md")
        for name in verbs.VERBS:
            assert re.search(rf"`danlu {name}\b", page), f"{name} is not in docs/{language}/verbs.md"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_python_functions_of_the_table_exist(language: str) -> None:
    found = re.findall(r"`(danlu(?:\.\w+)+)", read(f"docs/{language}/verbs.md"))
    assert len(found) > 15
    for dotted in found:
        module, _, name = dotted.rpartition(".")
        assert hasattr(importlib.import_module(module), name), dotted


@pytest.mark.parametrize("name", [name for pair in PAIRS for name in pair] + ["CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", read(name)):
        assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


@pytest.mark.parametrize("readme", sorted(tables.TEXT))
def test_the_figures_of_the_readme_are_the_measured_ones(readme: str) -> None:
    """Run `python -m benchmarks.tables` when this fails."""
    assert read(readme) == tables.with_figures(readme)


@pytest.mark.parametrize("language", speed_page.LANGUAGES)
def test_the_page_of_measured_speed_is_current(language: str) -> None:
    """Run `python -m benchmarks.speed_page` when this fails."""
    assert read(f"docs/{language}/measured.md") == speed_page.page(language)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_proofs_of_the_fault_table_exist(language: str) -> None:
    named = re.findall(r"`(tests/[^`]+)::(\w+)`", read(f"docs/{language}/faults.md"))
    assert len(named) >= 20
    for path, test in named:
        assert f"def {test}(" in read(path), f"{path}::{test}"


@pytest.mark.parametrize("language", zoo.LANGUAGES)
def test_the_page_of_networks_is_of_the_recorded_proofs(language: str) -> None:
    """Run `make proof` (or `python -m proof.page`) when this fails."""
    text = read(f"docs/{language}/zoo.md")
    assert text == zoo.page(language)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(MODELS.names())
    for row in rows:
        assert all(cell.strip() for cell in row.strip("|").split("|")), f"an empty cell: {row}"
        name = row.split("`")[1]
        assert (zoo.TEXT[language]["unproven"] in row) == (name in pending())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_training_setting_is_on_the_page(language: str) -> None:
    page = read(f"docs/{language}/training.md")
    for name, field in TrainConfig.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            for inner in annotation.model_fields:
                assert f"`{name}.{inner}`" in page, f"{name}.{inner}"
        else:
            assert re.search(rf"`{name}(\.name)?`", page), name


def test_the_pages_of_the_verbs_are_what_help_says() -> None:
    """Run `python -m docs.verb_pages` when this fails."""
    pages = verb_pages.pages()
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, path
    for language in verb_pages.WORDS:
        folder = ROOT / "docs" / language / "verbs"
        assert set(folder.glob("*.md")) == {path for path in pages if path.parent == folder}


@pytest.mark.parametrize("room", ["benchmarks", "proof"])
def test_what_stands_outside_the_package_imports_what_there_is(room: str) -> None:
    """Benchmarks and proofs run rarely: a name that was moved would be missed only then."""
    missing = []
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("danlu", room):
                module = importlib.import_module(str(node.module))
                for name in (alias.name for alias in node.names):
                    if not hasattr(module, name) and importlib.util.find_spec(f"{node.module}.{name}") is None:
                        missing.append(f"{file.name}: {node.module}.{name}")
    assert missing == []
