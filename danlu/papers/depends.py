"""What a recorded value depends on, so that a result whose recipe or code has changed since is called stale.

Of a row: what says how it is run. Of a training: its effective settings, key by key, so that a setting new since
then does not matter while every one in force then does. Of the code: the files that make the figure, by hash.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from danlu.core.files import sha256_bytes
from danlu.papers.rows import Paper, Row

__all__ = ["changes", "dependencies", "effective_settings"]

_ROOT = Path(__file__).parent.parent.parent

# What every training passes through. Speed, messages and files are not in it: they change no figure.
_TRAINING = (
    "danlu.data.splits",
    "danlu.metrics.accuracy",
    "danlu.tasks.classification",
    "danlu.tasks.losses",
    "danlu.tasks.preprocess",
    "danlu.train.batches",
    "danlu.train.ema",
    "danlu.train.gradients",
    "danlu.train.initialise",
    "danlu.train.loop",
    "danlu.train.optimizers",
    "danlu.train.schedule",
    "danlu.train.step",
)
# What runs rows and writes them down: the tests hold what it does, and its changes change no figure.
_RUNNING = {f"danlu.papers.{name}" for name in ("depends", "kinds", "rows")}
# Settings that change no figure.
_NEUTRAL = {
    "budget", "checkpoint_seconds", "compile", "kernels", "keep", "parallel", "rank_timeout", "recompute",
    "sync_batch_norm", "trackers",
}  # fmt: skip
# A training split is what the catalogue's leaves after a tenth for validation; only `default` looks at the number.
_SAMPLES = {"mnist": 54_000, "fashion-mnist": 54_000, "cifar10": 45_000, "cifar100": 45_000, "digits": 1_259}


def dependencies(paper: Paper, row: Row) -> dict[str, Any]:
    """Return ``{"row": hash, "code": hash, "settings": {…} or None}`` of what the row's figure depends on."""
    how = {key: getattr(row, key) for key in ("kind", "metric", "data", "model", "tta", "function", "arguments")}
    modules: set[str] = set()
    if row.model is not None:
        from danlu.models import MODELS

        modules |= _closure([MODELS.index[_small_form(row)]["module"]], "danlu.models.")
    if row.kind == "training":
        modules |= {*_TRAINING, *_augmentations(row)}
    if row.kind == "method":
        modules |= _closure([f"danlu.papers.{paper.id}.method"], "danlu.papers.") - _RUNNING
        if "danlu.papers.compressing" in modules:
            modules |= {*_TRAINING, *_closure(["danlu.compress.deep", "danlu.compress.dlz"], "danlu.compress.")}
    if row.kind == "analytic":
        modules |= {"danlu.analyze.counting", "danlu.papers.analytic"}
    return {
        "row": sha256_bytes(repr(sorted(how.items())).encode())[:16],
        "code": sha256_bytes(b"\0".join(_text(module) for module in sorted(modules)))[:16],
        "settings": effective_settings(row) if row.recipe is not None else None,
    }


def _small_form(row: Row) -> str:
    """Return the network that is really trained: its form for small pictures where there is one."""
    from danlu.models import MODELS

    name = MODELS.check(str(row.model), "model")
    small = f"{name}_cifar"
    return small if row.kind == "training" and small in MODELS.index else name


def effective_settings(row: Row) -> dict[str, Any]:
    """Return the settings a training row trains with, without those that change no figure."""
    import json

    from danlu.core.settings import apply_overrides
    from danlu.train.recipes import RECIPES

    config = RECIPES.get(str(row.recipe))(_SAMPLES[str(row.data)])
    document = apply_overrides(config, row.overrides, f"row {row.id}").model_dump()
    found: dict[str, Any] = json.loads(json.dumps({k: v for k, v in document.items() if k not in _NEUTRAL}))
    return found


def changes(recorded: dict[str, Any], paper: Paper, row: Row) -> list[str]:
    """Return what has changed since a result was recorded, in words; nothing where it is of today."""
    today = dependencies(paper, row)
    found = []
    if recorded.get("row") != today["row"]:
        found.append("what the row measures")
    found += _settings_changes(recorded.get("settings"), today["settings"])
    if recorded.get("code") != today["code"]:
        found.append("the code")
    return found


def _settings_changes(old: Any, new: Any, key: str = "") -> list[str]:
    """Return the keys of ``old`` whose values differ; what only ``new`` has came later."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for name, value in old.items():
            found += _settings_changes(value, new.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if old == new else [key or "the settings"]


def _augmentations(row: Row) -> list[str]:
    from danlu.augment import AUGMENTATIONS

    names = {str(one["name"]) for one in effective_settings(row)["augment"]}
    return ["danlu.augment.chain", *(AUGMENTATIONS.index[name]["module"] for name in names)]


def _file(module: str) -> Path:
    path = _ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _text(module: str) -> bytes:
    return _file(module).read_bytes().replace(b"\r\n", b"\n")


@cache
def _imports(module: str, inside: str) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(_text(module))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    files = (one for one in found if one.startswith(inside) and _file(one).is_file())
    # A package's own file only joins its modules together.
    return frozenset(one for one in files if _file(one).name != "__init__.py")


def _closure(modules: Iterable[str], inside: str) -> set[str]:
    """Return the modules and all they import from the package ``inside``."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imports(module, inside)
    return found
