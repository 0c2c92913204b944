"""Golden short runs: a refactoring gives the same loss curve. Rewritten only with ``pytest --accept``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.helpers import curve, run_tiny

FOLDER = Path(__file__).parent
RUNS: dict[str, dict[str, Any]] = {
    "digits-lenet5": {"model": "lenet5", "overrides": {"epochs": 3}},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_loss_curve_is_the_kept_one(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """float32, one thread, not compiled; relative tolerance 1e-3, as other processors round otherwise."""
    run = run_tiny(tmp_path / "run", **RUNS[name])
    found = {
        "losses": [entry["loss"] for entry in curve(run) if entry["kind"] == "step"],
        "lr": [entry["lr"] for entry in curve(run) if entry["kind"] == "step"],
        "validation": [entry["validation"]["loss"] for entry in curve(run) if entry["kind"] == "epoch"],
        "accuracy": [entry["validation"]["accuracy"] for entry in curve(run) if entry["kind"] == "epoch"],
    }
    path = FOLDER / f"{name}.json"
    if request.config.getoption("--accept"):
        path.write_text(json.dumps({"schema": 1, **found}, indent=1) + "\n", encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert len(found["losses"]) == len(kept["losses"]) == 57
    for key in ("losses", "lr", "validation"):
        assert found[key] == pytest.approx(kept[key], rel=1e-3), key
    assert found["accuracy"] == pytest.approx(kept["accuracy"], abs=0.012)
