"""Accuracy of networks trained to be rounded, at 8, 4 and 2 bits, beside the float network and rounding alone.

    python -m benchmarks.qat RUN [RUN2 ...] [--epochs 2] [--ranges lsq] [--out benchmarks/qat.json]

Each RUN is opened, compressed by ``danlu compress qat``, and its coded file evaluated on the test split, which nothing
was chosen by. Small budgets, one seed: the record says so.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from danlu.compress import compress
from danlu.evaluate import evaluate
from danlu.single import data_of
from danlu.tasks.trained import open_trained


def main() -> None:
    """Measure and write the record; rows of runs that are in it already are replaced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--ranges", default="lsq")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    for run in given.runs:
        for bits in given.bits:
            _keep(given.out, _row(run, bits, given))


def _row(run: Path, bits: int, given: Any) -> dict[str, Any]:
    trained = open_trained(run)
    data = data_of(trained.run)
    settings = {"bits": bits, "ranges": given.ranges, "epochs": given.epochs, "frozen": min(1, given.epochs - 1)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qat.dlz"
        done = compress(trained, "qat", overrides=settings, out=path, data=data, threads=1)
        accuracy = {
            name: evaluate(open_trained(where), data, "test")["results"]["test"]["accuracy"]["value"]
            for name, where in (("float", run), ("rounded", path))
        }
    pairs = " ".join(f"--set {key}={value}" for key, value in settings.items())
    return {
        "command": f"danlu compress qat {run.name} {pairs}",
        "status": "not run at full budget: one seed, a short training",
        "network": trained.model_name,
        "data": data.name,
        "bits": bits,
        "ranges": given.ranges,
        "test": accuracy,
        "validation": {key: done["validation"][key]["accuracy"] for key in ("before", "after")},
        "validation_rounded_only": done["report"]["accuracy_rounded_only"],
        "bytes": done["bytes"],
        "dense_bytes": done["dense_bytes"],
        "seconds": done["seconds"],
    }


def _keep(path: Path, row: dict[str, Any]) -> None:
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    same = ("network", "data", "bits", "ranges")
    rows = [old for old in rows if [old[key] for key in same] != [row[key] for key in same]]
    path.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
