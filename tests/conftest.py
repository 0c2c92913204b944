"""Shared by all tests: bounded threads, no network by surprise, real data sets where this machine has them."""

from __future__ import annotations

import os

# Before torch is imported anywhere: one thread a test process, as `make test` runs two of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Their fixtures train, serve or open a browser: such a file stays with one worker. (`xdist_group` would say so in the
# file itself; with pytest 9.2 and xdist 3.8 it has no effect.)
WHOLE = (
    "tests/deploy/serve/",
    "tests/deploy/test_planted_faults.py",
    "tests/deploy/test_web.py",
    "tests/report/test_browser.py",
    "tests/test_main_job.py",
    "tests/test_several_labels.py",
    "tests/train/test_distributed.py",
)


class _Whole(LoadScopeScheduling):
    """Gives a worker the files of ``WHOLE`` as they are, and of all others test by test."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(WHOLE) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Whole:
    return _Whole(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="rewrite the golden curves in tests/golden")


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that ./runs of a test is its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
