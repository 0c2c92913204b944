"""A paper of its own in a folder of its own: two rows that train LeNet-5 on the digits, and a counted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.papers import rows, running
from danlu.papers.rows import Paper, find_paper

TINY: dict[str, Any] = {"epochs": 2, "batch_size": 64, "precision": "fp32", "kernels": "library"}


def row(name: str, **given: Any) -> dict[str, Any]:
    return {
        "id": name,
        "title": "LeNet-5 on the digits",
        "kind": "training",
        "metric": "test error %",
        "published": 5.0,
        "table": "table 1",
        "source": "the test",
        "verified": True,
        "tolerance": 100.0,
        "seeds": 2,
        "data": "digits",
        "model": "lenet5",
        "recipe": "digits-lenet5",
        "overrides": TINY,
        "cost": "seconds",
        "hardware": "one core",
        **given,
    }


COUNTED = {
    "id": "counted",
    "title": "LeNet-5, parameters",
    "kind": "analytic",
    "metric": "parameters",
    "published": "62 K",
    "table": "table 1",
    "source": "the test",
    "verified": False,
    "model": "lenet5",
}


def make_paper(folder: Path, monkeypatch: pytest.MonkeyPatch, *given: dict[str, Any]) -> Paper:
    """Write a paper into ``folder`` and let the ledger find its papers there."""
    (folder / "some").mkdir(parents=True, exist_ok=True)
    document = {"schema": 1, "title": "Some paper", "authors": "Somebody", "year": 2020, "link": "https://example.org"}
    text = json.dumps({**document, "rows": list(given) or [row("first"), COUNTED]})
    (folder / "some" / "expected.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(rows, "FOLDER", folder)
    monkeypatch.setattr(running, "FOLDER", folder)
    find_paper.cache_clear()
    return find_paper("some")
