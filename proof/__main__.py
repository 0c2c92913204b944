"""Prove every variant of every network and write ``proof/models.json``: ``make proof``.

Each row carries the hash of the source it proves; ``tests/test_proof.py`` says which rows are stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from danlu.core.environment import describe_environment
from danlu.core.files import read_json, sha256_bytes, write_json
from danlu.models import MODELS

RESULTS = Path(__file__).with_name("models.json")
ROOT = Path(__file__).parent.parent


def source_hash(name: str) -> str:
    """Return the hash of what the proof of a variant depends on: its file, the base classes, the proof itself."""
    module = ROOT.joinpath(*MODELS.index[name]["module"].split(".")).with_suffix(".py")
    parts = [module, ROOT / "danlu/models/base.py", ROOT / "danlu/proof.py"]
    return sha256_bytes(b"\0".join(part.read_bytes() for part in parts))


def recorded() -> dict[str, Any]:
    """Return the recorded rows by variant."""
    rows: dict[str, Any] = read_json(RESULTS)["rows"]
    return rows


def main() -> None:
    """Prove all variants; exit 1 when one fails."""
    from danlu.proof import check_models

    rows = {row["model"]: {**row, "source_hash": source_hash(row["model"])} for row in check_models()}
    write_json(RESULTS, {"schema": 1, "environment": describe_environment(), "rows": rows})
    failed = [name for name, row in rows.items() if not row["ok"]]
    if failed:
        sys.exit("not proven: " + ", ".join(failed))


if __name__ == "__main__":
    main()
