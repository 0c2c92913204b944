"""Prove every variant of every network: ``make proof``, or ``python -m proof [NAME…]`` for some.

Rows whose source has not changed since are kept, ``--all`` proves them again, ``--every 0/2`` takes every second one
(for two processes side by side). ``--fewer-exports`` exports one narrow twin for each class and code path instead of
every variant at its full size; the rows name it.

Each row goes into ``proof/models.json`` as soon as it is proven, with the hash of the source it proves; what ``models
show`` needs of it goes into the package. ``tests/test_recorded_proofs.py`` says which rows are stale.
"""

from __future__ import annotations

import ast
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import filelock

from danlu.core.environment import describe_environment
from danlu.core.files import read_json, sha256_bytes, write_json
from danlu.models import MODELS, list_models

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("models.json")
SHIPPED = ROOT / "danlu/proof/recorded.json"
# Networks whose proof is still to run, one a line; the page says so of each.
PENDING = Path(__file__).with_name("pending.txt")
COMMON = ("danlu.models.base", "danlu.proof.checks", "danlu.proof.learning", "danlu.proof.parity")


def source_hash(name: str) -> str:
    """Return the hash of what the proof of a variant depends on: its file, what that imports, the proof itself."""
    modules = _closure((MODELS.index[name]["module"], *COMMON))
    builder = _builder(name)
    if builder.startswith("proof.references."):
        modules |= _closure((builder.partition(":")[0],))
    return sha256_bytes(b"\0".join(_file(module).read_bytes() for module in sorted(modules)))


def _builder(name: str) -> str:
    mapping = MODELS.get(name).mapping
    return mapping.builder if mapping else ""


def _file(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


@cache
def _imports(module: str) -> frozenset[str]:
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    inside = (one for one in found if one.startswith(("danlu.models.", "proof.references.")))
    return frozenset(one for one in inside if _file(one).is_file())


def _closure(modules: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imports(module)
    return found


def recorded() -> dict[str, Any]:
    """Return the recorded rows by variant."""
    rows: dict[str, Any] = read_json(RESULTS)["rows"] if RESULTS.exists() else {}
    return rows


def pending() -> list[str]:
    """Return the networks whose proof is still to run."""
    return PENDING.read_text(encoding="utf-8").split() if PENDING.exists() else []


def tidy() -> None:
    """Keep only rows that hold for today's source; list the others as pending."""
    rows = {name: row for name, row in recorded().items() if name in MODELS.index and is_proven(name)}
    write_json(RESULTS, {"schema": 1, "environment": describe_environment(), "rows": rows})
    write_json(SHIPPED, shipped(rows))
    PENDING.write_text("".join(f"{name}\n" for name in MODELS.names() if name not in rows), encoding="utf-8")


def shipped(rows: dict[str, Any]) -> dict[str, Any]:
    """Return what the package says of the recorded rows: parity, learning, ONNX."""
    return {
        "schema": 1,
        "rows": {
            name: {
                "ok": row["ok"],
                "parity": row["measured"].get("parity"),
                "learns": row["measured"].get("learns"),
                "onnx": row["measured"].get("onnx"),
            }
            for name, row in sorted(rows.items())
        },
    }


def save(new: dict[str, Any]) -> None:
    """Add rows to both records; rows of networks that are gone are dropped."""
    with filelock.FileLock(RESULTS.with_suffix(".lock")):
        rows = {**recorded(), **new}
        rows = {name: rows[name] for name in sorted(rows) if name in MODELS.index}
        write_json(RESULTS, {"schema": 1, "environment": describe_environment(), "rows": rows})
        write_json(SHIPPED, shipped(rows))


def is_proven(name: str, *, fewer_exports: bool = True) -> bool:
    """Return whether the recorded row of a variant holds for today's source; the export of a twin may not be enough."""
    row = recorded().get(name)
    if row is None or not row["ok"] or row["source_hash"] != source_hash(name):
        return False
    return fewer_exports or "as" not in row["measured"]["onnx"]


def exported_instead(name: str) -> str:
    """Return the variant that is exported in place of ``name``: itself, or the representative of its class."""
    variant = MODELS.get(name)
    if variant.representative:
        return name
    module = MODELS.index[name]["module"]
    same = [
        one
        for one in list_models()
        if MODELS.get(one).representative and MODELS.get(one).model.__qualname__ == variant.model.__qualname__
    ]
    return next((one for one in same if MODELS.index[one]["module"] == module), same[0])


@cache
def exported_twin(name: str) -> dict[str, Any]:
    """Return what the check of the export measured on the narrow twin of a variant, or ``why`` it failed."""
    from danlu.proof.checks import CHECKS

    try:
        return CHECKS["onnx"](MODELS.get(name).twin()) or {}
    except Exception as error:  # the row says how
        return {"why": f"{type(error).__name__}: {error}"}


def prove(name: str, *, fewer_exports: bool) -> dict[str, Any]:
    """Run all checks on a variant; return its row with the hash of the source as it was before."""
    from danlu.proof import check_variant

    before, instead = source_hash(name), exported_instead(name)
    row = check_variant(MODELS.get(name), skip=("onnx",) if fewer_exports else ())
    if fewer_exports:
        other = exported_twin(instead)
        row["checks"]["onnx"] = why = other.get("why", "ok")
        row["measured"]["onnx"] = {**other, "as": instead}
        row["ok"] = row["ok"] and why == "ok"
        row["why"] = row["why"] or ("" if why == "ok" else f"onnx: {why}")
    return {**row, "source_hash": before}


def main(words: list[str]) -> None:
    """Prove what is stale, or what is named; exit 1 when one fails."""
    from danlu.core.log import progress
    from proof import page

    fewer = "--fewer-exports" in words
    begin, step = 0, 1
    if "--every" in words:
        at = words.index("--every")
        begin, step = map(int, words[at + 1].split("/"))
        words = words[:at] + words[at + 2 :]
    names = [MODELS.check(word) for word in words if not word.startswith("--")] or list_models()
    names.sort(key=lambda name: not MODELS.get(name).representative)  # what others borrow from comes first
    stale = [name for name in names if "--all" in words or not is_proven(name, fewer_exports=fewer)][begin::step]
    failed = []
    with progress("prove", len(stale), "models") as advance:
        for done, name in enumerate(stale):
            advance(done, name)
            row = prove(name, fewer_exports=fewer)
            skipped = [what for what, found in row["measured"].items() if "skipped" in found]
            if not row["ok"] or skipped:
                failed.append(f"{name}: {row['why'] or 'not at hand for ' + ', '.join(skipped)}")
            save({name: row})
        advance(len(stale), "")
    save({})
    tidy()
    page.main()
    if failed:
        sys.exit("not proven:\n" + "\n".join(failed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
