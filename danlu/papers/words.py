"""The words of the ledger's pages in both languages, from ``words.json``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["LANGUAGES", "TEXT", "reason_in", "translated"]

LANGUAGES = ("en", "zh")

_FILE: dict[str, Any] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
TEXT: dict[str, dict[str, str]] = {language: _FILE[language] for language in LANGUAGES}


def translated(metric: str, language: str) -> str:
    """Return a metric's name in a language."""
    return str(_FILE["metrics"].get(metric, metric)) if language == "zh" else metric


def reason_in(text: str, language: str) -> str:
    """Return why a row was not run, or what changed, in a language; what has no translation stays."""
    if language == "en":
        return text
    # Reasons come from few sources, each of one form.
    for pattern, words in _FILE["reasons"]:
        if re.fullmatch(pattern, text):
            return re.sub(pattern, words, text)
    return str(_FILE["changes"].get(text, text))
