"""Proof that a model is what its paper says: counts, shapes, gradients, independence, parity, learning, ONNX.

``danlu models check`` runs :func:`check_models`, ``danlu models show`` prints :func:`model_card`; the contract test
over every registered model runs the same checks one by one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from danlu.analyze.counting import stage_shapes
from danlu.core.errors import CheckFailed
from danlu.core.files import read_json, sha256_file
from danlu.core.log import progress
from danlu.models import MODELS, list_models
from danlu.models.base import Variant, VisionModel
from danlu.proof.checks import CHECKS, COUNTS, randomise, read_docstring

__all__ = [
    "CHECKS",
    "COUNTS",
    "check_models",
    "check_variant",
    "model_card",
    "randomise",
    "read_docstring",
    "recorded_proofs",
]


def check_models(names: Iterable[str] | None = None, *, skip: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Run every check on models and return one row each.

    Args:
        names: which ones; all when none is given.
        skip: names of checks to leave out.

    Returns:
        the rows of :func:`check_variant`.

    Raises:
        InputError: an unknown name.
    """
    chosen = [MODELS.check(name) for name in names or ()] or list_models()
    rows = []
    with progress("check models", len(chosen), "models") as advance:
        for done, name in enumerate(chosen):
            advance(done, name)
            rows.append(check_variant(MODELS.get(name), skip))
        advance(len(chosen), "")
    return rows


def check_variant(variant: Variant, skip: Iterable[str] = ()) -> dict[str, Any]:
    """Run every check but those in ``skip`` on one variant.

    Returns:
        ``{"model", "ok", "why", "parameters", "macs", "stages", "checks": {name: "ok" | why}, "measured": {name: …},
        "source_hash"}``; ``why`` joins what failed and is empty when nothing did.
    """
    checks: dict[str, str] = {}
    measured: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):  # building networks draws; the caller's generator stays as it is
        for name, check in CHECKS.items():
            if name in skip:
                continue
            torch.manual_seed(0)
            try:
                found = check(variant)
                checks[name] = "ok"
                if found is not None and name != "stages":
                    measured[name] = found
            except Exception as error:  # a model that crashes a check has failed it; the row says how
                checks[name] = str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
        stages = _stage_rows(variant)
    failed = {name: why for name, why in checks.items() if why != "ok"}
    return {
        "model": variant.name,
        "ok": not failed,
        "why": "; ".join(f"{name}: {why}" for name, why in failed.items()),
        "parameters": variant.parameters,
        "macs": variant.macs,
        "stages": stages,
        "checks": checks,
        "measured": measured,
        "source_hash": sha256_file(Path(str(_module(variant).__file__))),
    }


def _module(variant: Variant) -> Any:
    return importlib.import_module(MODELS.index[variant.name]["module"])


def _stage_rows(variant: Variant) -> list[dict[str, Any]]:
    with torch.device("meta"):
        model: VisionModel = variant.build()
    try:
        shapes = stage_shapes(model, (1, *variant.input))
    except Exception:  # the row of a broken model is still shown; the check `stages` says what is wrong
        shapes = {}
    return [{**vars(stage), "output": shapes.get(stage.name, [])} for stage in model.stages]


def model_card(name: str) -> dict[str, Any]:
    """Return what is to know of a model before it is used, as plain values.

    Returns:
        ``name title authors year link new table deviations`` (a list) from the docstring; ``task input fixed_input
        smallest classes parameters macs published accuracy source unverified reference aliases`` from the variant;
        ``summary`` the docstring's first line; ``stages`` with ``name channels stride output``; ``measured`` what the
        recorded proof found (None where it is not recorded): parity, learning, ONNX.

    Raises:
        InputError: an unknown name.
    """
    variant = MODELS.get(name)
    text = inspect.getdoc(_module(variant)) or ""
    fields = read_docstring(text)
    published = variant.published
    return {
        "name": variant.name,
        "aliases": list(variant.aliases),
        "summary": text.splitlines()[0],
        "title": fields["Title"],
        "authors": fields["Authors"],
        "year": variant.paper.year,
        "link": fields["Link"],
        "new": fields["New"],
        "table": fields["Table"],
        "deviations": [line.removeprefix("- ") for line in fields["Deviations"].splitlines()],
        "task": variant.task,
        "input": list(variant.input),
        "fixed_input": variant.fixed_input,
        "smallest": variant.smallest,
        "classes": variant.classes,
        "parameters": variant.parameters,
        "macs": variant.macs,
        "published": {"parameters": published.parameters, "macs": published.macs},
        "accuracy": dict(published.accuracy),
        "source": published.source,
        "unverified": list(published.unverified),
        "reference": variant.mapping.reference if variant.mapping else variant.oracle,
        "measured": recorded_proofs().get(variant.name),
        "stages": _stage_rows(variant),
    }


def recorded_proofs() -> dict[str, Any]:
    """Return what ``make proof`` found, by variant: ``ok``, ``parity``, ``learns``, ``onnx``."""
    path = Path(__file__).with_name("recorded.json")
    rows: dict[str, Any] = read_json(path)["rows"] if path.exists() else {}
    return rows
