"""Run a notebook's code cells in order in a fresh process, without Jupyter.

python examples/run.py NOTEBOOK…            run each in an empty folder of its own; exit 1 where a cell fails
python examples/run.py --write NOTEBOOK…    and keep what the cells print as their outputs
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MARK = "\x1e"
# Each cell is compiled and run in one namespace; a mark between them says which cell printed what.
CHILD = """
import json, sys
names = {"__name__": "__main__"}
for number, source in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))):
    exec(compile(source, f"cell {number + 1}", "exec"), names)
    print(end="\\x1e", flush=True)
"""


def run(notebook: Path) -> tuple[list[str], str]:
    """Return what each code cell printed, and the error that ended it (empty where none did)."""
    document: dict[str, Any] = json.loads(notebook.read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    with tempfile.TemporaryDirectory() as folder:
        cells = Path(folder, "cells.json")
        cells.write_text(json.dumps(sources), encoding="utf-8")
        found = subprocess.run(
            [sys.executable, "-c", CHILD, str(cells)],
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            env={**os.environ, "PYTHONUTF8": "1"},
        )
    return found.stdout.split(MARK)[: len(sources)], found.stderr if found.returncode else ""


def write(notebook: Path, printed: list[str]) -> None:
    """Keep what the cells printed as their outputs."""
    document = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    for number, (cell, text) in enumerate(zip(code, printed, strict=True), start=1):
        lines = text.splitlines(keepends=True)
        cell["execution_count"] = number
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": lines}] if lines else []
    notebook.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Run the notebooks of the command line."""
    words = sys.argv[1:]
    failed = False
    for name in (word for word in words if word != "--write"):
        printed, error = run(Path(name))
        sys.stdout.write(f"{name}: {'failed' if error else 'ran'}\n{error}")
        failed |= bool(error)
        if "--write" in words and not error:
            write(Path(name), printed)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
