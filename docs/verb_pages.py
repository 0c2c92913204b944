"""Write one page a verb in both languages from what `--help` says, and list them in the navigation.

python -m docs.verb_pages

The text of the options is that of the command line, which speaks English in both languages.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from danlu.verbs import VERBS

FOLDER = Path(__file__).parent
BEGIN, END = "  # verbs:begin (python -m docs.verb_pages)", "  # verbs:end"
WORDS = {
    "en": {
        "head": "| word | |",
        "also": "Options of every verb, and the Python functions: [The verbs](../verbs.md).",
        "none": "Takes nothing of its own.",
        "note": "",
    },
    "zh": {
        "head": "| 词 | |",
        "also": "所有命令共有的选项以及对应的 Python 函数：[命令](../verbs.md)。",
        "none": "没有自己的选项。",
        "note": "说明与 `--help` 相同，保留英文。",
    },
}


def page(name: str, verb: Callable[..., Any], language: str) -> str:
    """Return the page of one verb."""
    words = WORDS[language]
    summary, options = _read(inspect.getdoc(verb) or "")
    kinds = inspect.signature(verb).parameters
    takes = []
    usage = [f"danlu {name}"]
    for option, text in options.items():
        kind = kinds[option].kind
        if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
            word = option.upper() + ("…" if kind is inspect.Parameter.VAR_POSITIONAL else "")
            usage.append(word if kinds[option].default is inspect.Parameter.empty else f"[{word}]")
        else:
            word = "--" + option.replace("_", "-")
        cell = text.replace("|", "\\|")
        takes.append(f"| `{word}` | {cell} |")
    lines = [f"# danlu {name}", "", "```", " ".join(usage), "```", "", summary, ""]
    lines += [words["note"], ""] if words["note"] else []
    lines += [words["head"], "|---|---|", *takes] if takes else [words["none"]]
    return "\n".join([*lines, "", words["also"]]) + "\n"


def _read(text: str) -> tuple[str, dict[str, str]]:
    """Return a docstring's first paragraph, and name -> text of its parameters."""
    summary, _, rest = text.partition("\n\nParameters\n----------\n")
    found = re.findall(r"^(\w+)\n((?:    .*\n?)+)", rest, re.MULTILINE)
    return " ".join(summary.split()), {name: " ".join(lines.split()) for name, lines in found}


def pages() -> dict[Path, str]:
    """Return every page and its text, and the settings of both sites with the pages listed."""
    found = {}
    for language in WORDS:
        for name, verb in VERBS.items():
            found[FOLDER / language / "verbs" / f"{_file(name)}.md"] = page(name, verb, language)
        entries = [f'    {{ "{name}" = "verbs/{_file(name)}.md" }},' for name in VERBS]
        settings = FOLDER / f"zensical.{language}.toml"
        before, rest = settings.read_text(encoding="utf-8").split(BEGIN)
        found[settings] = "\n".join([f"{before}{BEGIN}", *entries, END]) + rest.split(END)[1]
    return found


def _file(name: str) -> str:
    return name.replace(" ", "-")


def main() -> None:
    """Write every page; one of a verb that is gone is removed."""
    written = pages()
    for language in WORDS:
        (FOLDER / language / "verbs").mkdir(exist_ok=True)
        for path in (FOLDER / language / "verbs").glob("*.md"):
            if path not in written:
                path.unlink()
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
