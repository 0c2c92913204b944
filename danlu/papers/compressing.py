"""Rows of the compression papers: train a network, compress it by a registered method, measure the coded file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from danlu.compress import METHODS
from danlu.core.files import read_json, sha256_bytes
from danlu.papers.depends import dependencies
from danlu.papers.kinds import Attempt, Measured, NotRunnable, figure_of, train_or_resume

__all__ = ["compressed"]


def compressed(attempt: Attempt, method: str, settings: Mapping[str, Any]) -> Measured:
    """Return the compression ratio or the test figure of the coded file, whichever the row's metric is.

    The trained network and the coded file are shared by all rows of the paper that ask for the same.

    Args:
        attempt: the seed; its row names network, recipe and overrides of the training before.
        method: one of ``danlu compress``.
        settings: of the method, by dotted key.

    Raises:
        NotRunnable: this version has no such method.
    """
    if method not in METHODS.index:
        raise NotRunnable(f"waits for the method: `danlu compress {method}` is not part of this version")
    from danlu.evaluate import evaluate

    data, row = attempt.data(), attempt.row
    # What the folder is called after says what it depends on; rows that agree in it share it.
    depends = dependencies(attempt.paper, row)
    mark = sha256_bytes(repr((row.overrides, sorted(settings.items()), depends["settings"], depends["code"])).encode())
    shared = attempt.folder.parent.parent / f"{row.model}-{attempt.seed}-{mark[:8]}"
    run = train_or_resume(attempt, data, str(row.model), str(row.recipe), row.overrides, shared)
    attempt.check_time()
    file = shared / f"{method}.dlz"
    # The report is written last: a coded file without one is what a kill has left.
    if not file.with_suffix(".json").exists():
        # The function of the room, looked up when it is needed: the room may be older than this row.
        compress = importlib.import_module("danlu.compress").compress
        where = {"device": attempt.device, "threads": attempt.threads}
        compress(run.path, method, overrides=dict(settings), out=file, data=data, seed=attempt.seed, **where)
    document = read_json(file.with_suffix(".json"))
    found = evaluate(file, data, "test", write=False)["results"]["test"]["accuracy"]
    before = evaluate(run.path, data, "test", write=False)["results"]["test"]["accuracy"]
    kept = sum(layer["kept"] for layer in document["layers"]) / sum(layer["weights"] for layer in document["layers"])
    facts = {
        "bytes": document["bytes"],
        "ratio": round(document["ratio"], 3),
        "kept": round(kept, 5),
        "error_before": figure_of("test error %", before["value"], before["n"]),
        "error_after": figure_of("test error %", found["value"], found["n"]),
    }
    value = facts["ratio"] if attempt.row.metric == "compression ratio" else facts["error_after"]
    return Measured(value, data.hash, facts)
