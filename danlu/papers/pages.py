"""Write the ledger's pages: one of all rows, one of each paper, an excerpt in both READMEs, the log in both languages.

python -m danlu.papers.pages

What is written follows from the papers' folders and ``docs/log.md`` alone; a test says when a page is stale.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from danlu.core.files import write_whole
from danlu.papers.rows import FOLDER, Paper, find_paper, list_papers, read_results
from danlu.papers.states import State, table
from danlu.papers.verdict import VERDICTS
from danlu.papers.words import LANGUAGES, TEXT, reason_in, translated

__all__ = ["ROOT", "excerpt", "ledger_page", "log_page", "main", "navigation", "pages", "paper_page", "with_excerpt"]

ROOT = FOLDER.parent.parent
BEGIN, END = "<!-- ledger:begin (python -m danlu.papers.pages) -->", "<!-- ledger:end -->"
READMES = {"en": "README.md", "zh": "README.zh-CN.md"}
_NAV_BEGIN, _NAV_END = "  # papers:begin (python -m danlu.papers.pages)", "  # papers:end"


@cache
def _states() -> list[State]:
    return table()


def pages() -> dict[Path, str]:
    """Return every generated page and its text."""
    found: dict[Path, str] = {}
    for language in LANGUAGES:
        folder = ROOT / "docs" / language
        found[folder / "ledger.md"] = ledger_page(language)
        found[folder / "log.md"] = log_page(language)
        for name in list_papers():
            found[folder / "papers" / f"{name}.md"] = paper_page(find_paper(name), language)
        found[ROOT / "docs" / f"zensical.{language}.toml"] = navigation(language)
        found[ROOT / READMES[language]] = with_excerpt(language)
    return found


def _number(value: float | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else f"{value:.4g}"


def _ours(state: State, language: str) -> str:
    """Return the mean with its deviation and the number of seeds."""
    if state.ours is None:
        return "–"
    if state.kind == "analytic":
        return _number(state.ours)
    digits = 4 if state.metric == "test accuracy" else 2
    text = f"{state.ours:.{digits}f}"
    if state.std is not None:
        text += f" ± {state.std:.{digits}f}"
    words = TEXT[language]
    return f"{text} ({words['seed'] if state.n == 1 else words['seeds'].format(n=state.n)})"


def _verdict(state: State, language: str) -> str:
    words = TEXT[language]
    notes = []
    if state.partial:
        notes.append(words["partial"].format(n=state.n, seeds=state.seeds))
    if state.stale:
        notes.append(words["stale"].format(what=", ".join(reason_in(one, language) for one in state.stale)))
    text = words[state.verdict]
    if state.verdict in ("better", "missed"):
        text = f"**{text}**"
    if notes:
        text += f" ({'; '.join(notes)})"
    if state.verdict == "not run" and state.why:
        text += ("：" if language == "zh" else ": ") + reason_in(state.why, language)
    return text


def _published(state: State, language: str) -> str:
    text = _number(state.published)
    return text if state.verified else f"{text} *{TEXT[language]['unverified']}*"


def _rows(states: Iterable[State], language: str) -> list[str]:
    lines = [TEXT[language]["rows_head"], "|---|---|---|---:|---:|---|"]
    for state in states:
        lines.append(
            f"| `{state.row}` | {state.title} | {translated(state.metric, language)} "
            f"| {_published(state, language)} | {_ours(state, language)} | {_verdict(state, language)} |"
        )
    return lines


def _counted(states: Iterable[State]) -> Counter[str]:
    return Counter(state.verdict for state in states)


def ledger_page(language: str) -> str:
    """Return the page of all rows."""
    words = TEXT[language]
    states = _states()
    worked = [state for state in states if state.kind != "analytic"]
    analytic = [state for state in states if state.kind == "analytic"]
    lines = [words["title"], "", words["intro"], "", words["rule_title"], "", words["rule"], ""]
    lines += [words["summary_title"], "", words["summary_head"], "|---|" + "---:|" * 6]
    for label, some in ((words["trained"], worked), (words["counted"], analytic)):
        counts = _counted(some)
        lines.append("| " + " | ".join([label, *(str(counts[name]) for name in VERDICTS), str(len(some))]) + " |")
    run = [state for state in states if state.n]
    notes = {
        "partial": sum(state.partial for state in run),
        "stale": sum(bool(state.stale) for state in run),
        "unverified": sum(not state.verified for state in states),
    }
    lines += ["", words["notes"].format(**notes), "", words["rows_title"]]
    for name in list_papers():
        some = [state for state in worked if state.paper == name]
        if some:
            lines += ["", f"### [{find_paper(name).title}](papers/{name}.md)", "", f"`danlu reproduce run {name}`", ""]
            lines += _rows(some, language)
    lines += ["", words["counts_title"], "", words["counts_head"], "|---|---:|---:|---:|---:|"]
    for name in list_papers():
        counts = _counted(state for state in analytic if state.paper == name)
        if total := sum(counts.values()):
            figures = (total, counts["reproduced"], counts["missed"], counts["not run"])
            lines.append(f"| [`{name}`](papers/{name}.md) | " + " | ".join(map(str, figures)) + " |")
    return "\n".join(lines) + "\n"


def paper_page(paper: Paper, language: str) -> str:
    """Return the page of one paper: its README in the language, and all of its rows."""
    words = TEXT[language]
    english, _, chinese = (paper.folder / "README.md").read_text(encoding="utf-8").partition("\n## 中文\n")
    head = english.splitlines()[:4]
    lines = [english.strip()] if language == "en" else ["\n".join(head).strip(), "", chinese.strip()]
    states = [state for state in _states() if state.paper == paper.id]
    lines += ["", words["table_title"], "", words["command"].format(id=paper.id)]
    if machines := _machines(paper):
        lines += ["", words["machine"].format(machines="; ".join(machines))]
    worked = [state for state in states if state.kind != "analytic"]
    if worked:
        lines += ["", *_rows(worked, language)]
    analytic = [state for state in states if state.kind == "analytic"]
    if analytic:
        lines += ["", words["analytic_head"], "|---|---|---:|---:|---|"]
    for state in analytic:
        lines.append(
            f"| `{state.row}` | {translated(state.metric, language)} | {_published(state, language)} "
            f"| {_ours(state, language)} | {_verdict(state, language)} |"
        )
    notes = [f"- `{row.id}`: {row.note}" for row in paper.rows if row.note]
    if notes and language == "en":
        lines += ["", words["notes_title"], "", *notes]
    return "\n".join(lines) + "\n"


def _machines(paper: Paper) -> list[str]:
    """Return the machines that ran something of a paper, in words."""
    found = read_results(paper.folder)["environments"].values()
    return sorted(
        {
            f"{one['processor'] if one['device'] == 'cpu' else one['device']}, {one['cores']} cores, "
            f"torch {one['torch']}"
            for one in found
            if not one["device"].startswith("none")
        }
    )


def log_page(language: str) -> str:
    """Return the log of what did not pay, for one language's site; it is kept in English."""
    title, _, rest = (ROOT / "docs" / "log.md").read_text(encoding="utf-8").partition("\n\n")
    return f"{title}\n\n{TEXT[language]['log_note']}{rest}"


def excerpt(language: str) -> str:
    """Return what stands of the ledger in a README: sums, and the rows that were trained or run."""
    words = TEXT[language]
    states = _states()
    analytic = [state for state in states if state.kind == "analytic"]
    worked = [state for state in states if state.kind != "analytic"]
    counts = _counted(worked)
    join = "、" if language == "zh" else ", "
    lines = [words["readme_title"], ""]
    lines.append(
        words["readme"].format(
            all=len(states),
            papers=len(list_papers()),
            counts=join.join(f"{counts[name]} {words[name]}" for name in VERDICTS),
            agree=_counted(analytic)["reproduced"],
            analytic=len(analytic),
        )
    )
    lines += ["", words["readme_head"], "|---|---|---:|---:|---|"]
    for state in worked:
        if state.n:
            lines.append(
                f"| `{state.command}` | {translated(state.metric, language)} | {_published(state, language)} "
                f"| {_ours(state, language)} | {_verdict(state, language)} |"
            )
    return "\n".join(lines)


def with_excerpt(language: str) -> str:
    """Return a README's text with its excerpt made anew."""
    return _between(ROOT / READMES[language], BEGIN, END, excerpt(language))


def navigation(language: str) -> str:
    """Return the site's settings with the list of papers made anew."""
    entries = []
    for name in list_papers():
        title = re.sub(r'[\\"]', "", find_paper(name).title)
        entries.append(f'    {{ "{title}" = "papers/{name}.md" }},')
    return _between(ROOT / "docs" / f"zensical.{language}.toml", _NAV_BEGIN, _NAV_END, "\n".join(entries))


def _between(file: Path, begin: str, end: str, text: str) -> str:
    before, rest = file.read_text(encoding="utf-8").split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)


if __name__ == "__main__":
    main()
