"""The page of augmentations, in both languages, lists what is registered with its settings and defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from danlu.augment import AUGMENTATIONS
from danlu.augment.chain import make_chain
from danlu.core.settings import parse_overrides

ROOT = Path(__file__).parents[2]
MOVES = {"en": ("no", "yes"), "zh": ("否", "是")}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_is_that_of_the_registry(language: str) -> None:
    text = (ROOT / f"docs/{language}/augment.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:3] == "| `"]
    assert [row[0].strip("`") for row in rows] == AUGMENTATIONS.names()
    for name, what, moves, settings in rows:
        facts = AUGMENTATIONS.index[name.strip("`")]
        assert what == facts["title"] or (language == "zh" and what)
        # What pastes or joins pictures moves what lies on them, too; what blends them does not.
        assert moves == MOVES[language][facts.get("geometric", facts.get("partners", 0) > 0)]
        defaults = AUGMENTATIONS.get(name.strip("`"))().model_dump(mode="json")
        assert settings == ", ".join(f"`{key}={json.dumps(value)}`" for key, value in defaults.items())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_commands_of_the_page_are_understood(language: str) -> None:
    text = (ROOT / f"docs/{language}/augment.md").read_text(encoding="utf-8")
    found = re.findall(r"--set '(augment=[^']+)'", text)
    assert len(found) == 3
    lengths = [len(make_chain(parse_overrides([one])["augment"]).augmentations) for one in found]
    assert lengths == [1, 3, 0]
