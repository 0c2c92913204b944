"""Sixty planted faults and two hundred clean pairs: ``python -m proof.parity``; recorded in ``proof/parity.json``.

A clean pair is two forms of one network that answer alike; none may raise an alarm. They are small networks that were
really trained, by seed, in colour and in grey, in every form that :func:`tests.deploy.planted.clean_forms` knows.
``--seconds N`` stops after N; the next call goes on, as long as the source is the same.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from danlu.core.environment import describe_environment
from danlu.core.files import read_json, sha256_bytes, write_json

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("parity.json")
PAIRS = 200
LEAST_PLACED = 58
SOURCES = (
    *(
        f"danlu/deploy/{name}.py"
        for name in ("parity", "finding", "culprit", "front", "foreign", "graph_diff", "program")
    ),
    "tests/deploy/planted.py",
    "tests/deploy/faults.py",
)


def source_hash() -> str:
    """Return the hash of what finds the faults, and of the faults."""
    trees = (ast.dump(ast.parse((ROOT / name).read_bytes())) for name in SOURCES)
    return sha256_bytes("\0".join(trees).encode())


def recorded() -> dict[str, Any]:
    """Return what was recorded, or nothing."""
    return dict(read_json(RESULTS)) if RESULTS.exists() else {}


def faults(folder: Path) -> dict[str, Any]:
    """Plant all faults; return how many were found, how many also placed, and what was missed."""
    from tests.deploy.faults import FAULTS
    from tests.deploy.planted import make_fixtures
    from tests.deploy.test_planted_faults import outcome

    fixtures = make_fixtures(folder)
    rows = {fault.name: outcome(fault, fixtures) for fault in FAULTS}
    return {
        "n": len(rows),
        "found": sum(found for found, _, _ in rows.values()),
        "placed": sum(found and placed for found, placed, _ in rows.values()),
        "missed": [name for name, (found, placed, _) in rows.items() if not (found and placed)],
    }


def clean(folder: Path, seed: int) -> dict[str, list[str]]:
    """Compare the clean forms of one network; return the name of each with its alarms, none if all is well."""
    from danlu.data.load import load_data
    from danlu.deploy.parity import parity
    from danlu.deploy.subjects import EagerSubject
    from tests.deploy.planted import clean_forms, trained, write_pictures

    channels = 3 if seed % 2 == 0 else 1
    write_pictures(folder / "pictures", 160)
    data = load_data(folder / "pictures", channels=channels)
    eager = EagerSubject(trained(folder / "network", data, channels=channels, seed=seed, steps=60))
    rows = {}
    for name, form in clean_forms(eager, data, folder / "forms", ncnn=True).items():
        found = parity(eager, form, data, threads=1)
        rows[name] = [] if found["passed"] and found["finding"] is None else [str(found["finding"] or "differs")]
    return rows


def main(words: list[str]) -> None:
    """Go on until all pairs are compared, or ``--seconds`` are over; exit 1 when the bar is missed."""
    seconds = float(words[words.index("--seconds") + 1]) if "--seconds" in words else float("inf")
    begin, today, document = time.monotonic(), source_hash(), recorded()
    if document.get("source_hash") != today:
        document = {"faults": None, "clean": {}}
    while time.monotonic() - begin < seconds:
        count = sum(len(rows) for rows in document["clean"].values())
        if document["faults"] and count >= PAIRS:
            break
        with tempfile.TemporaryDirectory(prefix="danlu-parity-") as folder:
            if document["faults"] is None:
                document["faults"] = faults(Path(folder))
            else:
                seed = len(document["clean"])
                document["clean"][str(seed)] = clean(Path(folder), seed)
        document |= {"schema": 1, "environment": describe_environment(), "source_hash": today}
        write_json(RESULTS, document)
    alarms = {seed: rows for seed, rows in document["clean"].items() if any(rows.values())}
    if (document["faults"] and document["faults"]["placed"] < LEAST_PLACED) or alarms:
        sys.exit(f"missed: {document['faults']['missed']}; alarms: {alarms}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
