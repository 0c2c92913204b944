"""The notebooks run from top to bottom in a fresh process, and hold the outputs of such a run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from danlu import cli, verbs
from danlu.verbs.common import overrides_of
from examples.run import run, write

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    document = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def test_there_are_three() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    printed, error = run(notebook)
    assert error == ""
    kept = ["".join(line for out in cell["outputs"] for line in out["text"]) for cell in cells(notebook)]
    # Not word for word: other processors round otherwise. But the same cells speak, with as many lines.
    assert [len(text.splitlines()) for text in printed] == [len(text.splitlines()) for text in kept]


def test_a_failing_cell_fails_the_notebook(tmp_path: Path) -> None:
    code = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": []}
    sources = ["x = 1", "print(x)", "print(y)", "print('never')"]
    document = {"cells": [{**code, "source": [source]} for source in sources], "nbformat": 4, "nbformat_minor": 5}
    notebook = tmp_path / "broken.ipynb"
    notebook.write_text(json.dumps(document), encoding="utf-8")
    printed, error = run(notebook)
    assert "NameError: name 'y' is not defined" in error
    assert "never" not in "".join(printed)
    document["cells"] = document["cells"][:2]  # type: ignore[index]
    notebook.write_text(json.dumps(document), encoding="utf-8")
    printed, error = run(notebook)
    assert (printed, error) == (["", "1\n"], "")
    write(notebook, printed)
    assert cells(notebook)[1]["outputs"][0]["text"] == ["1\n"]


COMMANDS = [
    (page, word)
    for page in ("from-train-py.md", "life.md")
    for line in (ROOT / "docs/en" / page).read_text(encoding="utf-8").splitlines()
    for word in (line.split(" | ")[-1].rstrip(" |").strip("`") if line.startswith("| `") else line,)
    if word.startswith(("danlu ", "torchrun "))
]


def test_the_pages_of_commands_have_commands() -> None:
    counts = {page: sum(one == page for one, _ in COMMANDS) for page in ("from-train-py.md", "life.md")}
    assert counts["from-train-py.md"] >= 28
    assert counts["life.md"] >= 12


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_mapped_command_is_one_of_ours(page: str, command: str) -> None:
    assert command in (ROOT / "docs/zh" / page).read_text(encoding="utf-8")
    words = shlex.split(command)
    words = words[words.index("danlu") + 1 :]
    verb, bound, _ = cli._app().parse_args(words, exit_on_error=False, print_error=False)
    assert verb in verbs.VERBS.values()
    given = bound.arguments
    if pairs := given.get("set"):
        from danlu.augment.chain import make_chain
        from danlu.core.settings import apply_overrides
        from danlu.train.recipes import RECIPES

        config = RECIPES.get(given.get("recipe") or "default")(1000)
        make_chain(apply_overrides(config, overrides_of(pairs, None, None)).augment)
    if given.get("model") and verb in (verbs.VERBS["train"], verbs.VERBS["tune"]):
        from danlu.models import MODELS

        MODELS.check(given["model"])
