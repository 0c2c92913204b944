"""Telemetry is off before the first import of what would send it, wherever that import stands."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from danlu.core.silence import silence

SOURCES = sorted((Path(__file__).parents[2] / "danlu").rglob("*.py"))
TALKATIVE = {"openvino", "nncf"}


def loud_imports(text: str) -> list[int]:
    """Return the lines of imports of OpenVINO or NNCF that no call of ``silence`` precedes in the same function."""
    tree = ast.parse(text)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    for scope in [*functions, tree]:
        nodes = [node for node in ast.walk(scope) if scope is not tree or id(node) not in inner]
        calls = [n.lineno for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "silence"]
        for node in nodes:
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {(node.module or "").partition(".")[0]}
            else:
                continue
            if names & TALKATIVE and id(node) not in typing_only and not any(line < node.lineno for line in calls):
                found.append(node.lineno)
    return sorted(set(found))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_whoever_imports_openvino_or_nncf_is_silent_first(path: Path) -> None:
    assert loud_imports(path.read_text(encoding="utf-8")) == []


def test_the_reader_of_sources_sees_what_it_must() -> None:
    assert loud_imports("import openvino") == [1]
    assert loud_imports("def f():\n    import nncf.quantization\n    silence()") == [2]
    assert loud_imports("def f():\n    silence()\n    from openvino import Core") == []
    assert loud_imports("silence()\ndef f():\n    import openvino") == [3]
    assert loud_imports("from danlu.deploy import openvino\nif TYPE_CHECKING:\n    import nncf") == []


def test_silence_hides_the_reporter_and_keeps_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    silence()
    with pytest.raises(ImportError):
        __import__("openvino_telemetry")
    there = object()
    monkeypatch.setitem(sys.modules, "openvino_telemetry", there)  # type: ignore[arg-type]
    silence()
    assert sys.modules["openvino_telemetry"] is there  # type: ignore[comparison-overlap]
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    silence()
    import os

    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "0"
