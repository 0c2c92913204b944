"""What every registered model promises: each check of ``danlu models check``.

What computes is checked for each variant with a code path of its own, as the narrow twin it is shown to learn as;
counts and parity at full width; ONNX and that it learns, the dearest of all, once for each file and not for the deepest
graphs. ``make proof`` does everything for all variants, and ``tests/test_recorded_proofs.py`` says of which one the
proof is older than its source.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from danlu.models import MODELS, list_models
from danlu.models.base import Variant, VisionModel
from danlu.proof.checks import CHECKS, COUNTS
from proof.__main__ import pending

REPRESENTATIVES = [name for name in list_models() if MODELS.index[name]["representative"] and name not in pending()]
# The first of each file, in its form for small pictures where it has one.
_ORDERED = [*(n for n in REPRESENTATIVES if n.endswith("_cifar")), *REPRESENTATIVES]
_FIRST = {MODELS.index[name]["module"].rpartition(".")[2]: name for name in reversed(_ORDERED)}
# Ten files that took a third of the time of all 49.
_DEEP = {
    "facenet_nn2", "googlenet", "inception_resnet_v1", "inception_resnet_v2", "inception_v3", "inception_v4", "nasnet",
    "nfnet", "residual_attention", "residual_attention_cifar",
}  # fmt: skip
LEARNERS = [name for module, name in _FIRST.items() if module not in _DEEP]
COMPUTED = [name for name in CHECKS if name not in (*COUNTS, "parity", "learns", "onnx")]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_counts_shapes_and_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every check builds the network without values anew; here one does for all of them.
    monkeypatch.setattr(Variant, "build", built := _once(Variant.build))
    for check in COUNTS.values():
        check(MODELS.get(name))
    assert built.built


def _once(build: Callable[..., VisionModel]) -> Any:
    def kept(variant: Variant, **given: Any) -> VisionModel:
        assert torch.get_default_device().type == "meta"
        key = json.dumps(given, sort_keys=True)
        if key not in kept.built:
            kept.built[key] = build(variant, **given)
        return kept.built[key]

    kept.built = {}  # type: ignore[attr-defined]
    return kept


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_computed(name: str) -> None:
    torch.manual_seed(0)
    twin: Variant = MODELS.get(name).twin()
    for check in COMPUTED:
        CHECKS[check](twin)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_parity(name: str) -> None:
    variant = MODELS.get(name)
    measured = CHECKS["parity"](variant)
    if measured is None:
        assert variant.oracle
    else:
        assert "skipped" not in measured, f"{measured['reference']}: {measured['skipped']}"
        assert max(measured["eval"], measured["train"]) <= measured["tolerance"]
        assert measured["tolerance"] <= 1e-5 or (variant.mapping is not None and variant.mapping.reason)


@pytest.mark.parametrize("name", LEARNERS)
def test_onnx(name: str) -> None:
    torch.manual_seed(0)
    CHECKS["onnx"](MODELS.get(name).twin())


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns(name: str) -> None:
    measured = CHECKS["learns"](MODELS.get(name))
    assert measured is not None
    if "skipped" in measured:
        pytest.skip(measured["skipped"])
    assert measured["accuracy"] >= 0.95
    assert measured["steps"] <= measured["limit"]


def test_every_class_has_a_representative() -> None:
    classes = {MODELS.get(name).model.__qualname__ for name in list_models()}
    shown = {MODELS.get(name).model.__qualname__ for name in list_models() if MODELS.index[name]["representative"]}
    assert sorted(classes - shown) == []


@pytest.mark.parametrize("name", list_models())
def test_facts_of_the_index(name: str) -> None:
    variant = MODELS.get(name)
    facts = {key: value for key, value in MODELS.index[name].items() if key != "module"}
    assert facts == variant.facts()
    assert facts["paper"].endswith(str(facts["year"]))
    assert facts["link"].startswith("https://")
    assert variant.published.source
    assert all(0 < value <= 100 for value in variant.published.accuracy.values())
