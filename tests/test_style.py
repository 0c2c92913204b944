"""The house rules a machine can read: sizes, docstrings, exact ``__all__``, no torch on the way to ``--help``."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "danlu").rglob("*.py"))
FILE_LINES, FUNCTION_LINES, FORWARD_LINES, ARGUMENTS = 400, 60, 40, 10

# What is longer than the rule, and why.
EXCEPTIONS: dict[str, str] = {}

# Rooms and modules that people import to predict, serve, read formats or ask for help: they must not wait for torch.
TORCH_FREE = [
    "danlu",
    "danlu.cli",
    "danlu.verbs",
    "danlu.core.fetch",
    "danlu.core.records",
    "danlu.core.registry",
    "danlu.core.settings",
    "danlu.data.decode",
    "danlu.data.formats",
    "danlu.data.load",
    "danlu.report",
    "danlu.deploy.folder",
    "danlu.deploy.foreign",
    "danlu.deploy.hostile",
    "danlu.deploy.runtimes.ncnn",
    "danlu.deploy.runtimes.onnxruntime",
    "danlu.deploy.runtimes.openvino",
    "danlu.deploy.web",
    "danlu.deploy.predict",
    "danlu.deploy.serve.app",
    "danlu.deploy.serve.server",
    "danlu.train.settings",
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sizes_and_docstrings(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    assert text.count("\n") <= FILE_LINES or name_of(path) in EXCEPTIONS
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        place = f"{name_of(path)}:{node.name}"
        if not isinstance(node, ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES or place in EXCEPTIONS, place
        if not isinstance(node, ast.ClassDef) and "danlu/models/" in name_of(path):
            if node.name == "__init__":
                arguments = node.args.args + node.args.kwonlyargs
                assert len(arguments) - 1 <= ARGUMENTS, f"{place} takes {len(arguments) - 1} arguments"
            if node.name == "forward":
                assert (node.end_lineno or 0) - node.lineno < FORWARD_LINES, place
        public = not node.name.startswith("_") and node in tree.body
        assert not public or ast.get_docstring(node), f"{place} is public and has no docstring"


def test_no_exception_is_stale() -> None:
    for place in EXCEPTIONS:
        path, _, function = place.partition(":")
        text = (ROOT / path).read_text(encoding="utf-8")
        if not function:
            assert text.count("\n") > FILE_LINES
            continue
        nodes = [n for n in ast.walk(ast.parse(text)) if getattr(n, "name", "") == function]
        assert any((n.end_lineno or 0) - n.lineno >= FUNCTION_LINES for n in nodes)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_all_is_exact(path: Path) -> None:
    """``__all__`` names every public class and function the module defines, and nothing it lacks."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if not defined:
        return
    listed = importlib.import_module(module).__all__
    assert list(listed) == sorted(listed, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert defined - {"main", "index_text"} <= set(listed)
    for name in listed:
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_no_torch_at_import(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version_stands_once() -> None:
    import danlu

    stands = [path for path in SOURCES if f'"{danlu.__version__}"' in path.read_text(encoding="utf-8")]
    assert [name_of(path) for path in stands] == ["danlu/core/version.py"]


def test_the_public_functions_are_exact() -> None:
    import danlu

    assert sorted(danlu.__all__) == sorted(["__version__", *danlu._FUNCTIONS])
    for name in danlu._FUNCTIONS:
        assert callable(getattr(danlu, name))


def test_records_are_json_everywhere() -> None:
    for path in (ROOT / "danlu").rglob("index.json"):
        assert isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
