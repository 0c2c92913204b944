"""A cache of its own for each test; the real one only where a test asks for a real data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.core.files import cache_home

REAL_HOME = cache_home()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what tests remember and fetch away from the user's cache."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("DANLU_HOME", str(home))
    return home


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that gives the name back if that data set is on this machine, and skips the test if not."""
    from danlu.data import catalog

    def present(name: str) -> str:
        monkeypatch.setenv("DANLU_HOME", str(REAL_HOME))
        if not catalog.is_present(name):
            pytest.skip(f"{name} is not on this machine: danlu data get {name}")
        return name

    return present
