"""Shared by all tests: bounded threads, no network by surprise, real data sets where this machine has them."""

from __future__ import annotations

import os

# Before torch is imported anywhere: one thread a test process, as `make test` runs two of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="rewrite the golden curves in tests/golden")


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that ./runs of a test is its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
