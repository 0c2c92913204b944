from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from danlu.core.errors import InputError
from danlu.core.registry import PACKAGES, Registry, index_text


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_index_is_not_stale(package: str) -> None:
    """Run `make index` when this fails."""
    registry = getattr(importlib.import_module(package), PACKAGES[package])
    assert registry.index_path.read_text(encoding="utf-8") == index_text(registry.build_index())


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    package = tmp_path / "shapes_for_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from danlu.core.registry import Registry\nSHAPES = Registry('shape', 'shapes_for_test')\n"
    )
    (package / "round.py").write_text(
        "from shapes_for_test import SHAPES\nSHAPES.register('circle', 1, __name__, sides=0)\n"
    )
    (package / "index.json").write_text('{"circle": {"module": "shapes_for_test.round", "sides": 0}}')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shapes_for_test", raising=False)
    monkeypatch.delitem(sys.modules, "shapes_for_test.round", raising=False)
    registry: Registry[object] = importlib.import_module("shapes_for_test").SHAPES
    return registry


def test_names_need_no_import(shapes: Registry[object]) -> None:
    assert shapes.names() == ["circle"]
    assert "shapes_for_test.round" not in sys.modules
    assert shapes.get("circle") == 1
    assert shapes.index["circle"]["sides"] == 0


def test_unknown_names_get_the_nearest(shapes: Registry[object]) -> None:
    with pytest.raises(InputError, match=r"unknown shape 'circel'\n  did you mean: circle\?"):
        shapes.get("circel")


def test_duplicates_are_refused(shapes: Registry[object]) -> None:
    shapes.get("circle")
    with pytest.raises(ValueError, match="is registered by"):
        shapes.register("circle", 2, "elsewhere")
    with pytest.raises(ValueError, match="registered twice"):
        shapes.register("circle", 2, "shapes_for_test.round")


def test_build_index_finds_the_folder(shapes: Registry[object]) -> None:
    assert shapes.build_index() == {"circle": {"module": "shapes_for_test.round", "sides": 0}}
