"""Where each row stands: the published value beside ours, the verdict, what is partial, stale or not run, and why."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.papers.depends import changes
from danlu.papers.rows import Paper, Row, find_paper, list_papers, read_results
from danlu.papers.verdict import judge, spread, standard_error

__all__ = ["State", "state_of", "summary", "table"]


@dataclass(frozen=True)
class State:
    """One row of the ledger.

    Attributes:
        paper: the folder's name.
        row: the row's.
        title: what a person calls it.
        kind: ``analytic``, ``training`` or ``method``.
        metric: what is measured.
        published: what the paper says.
        verified: whether that was read in its source.
        ours: the mean over our seeds, or the count or text found; None where nothing was run.
        std: standard deviation of the seeds; None for fewer than two.
        n: seeds run.
        seeds: seeds the verdict needs.
        verdict: one of :data:`danlu.papers.verdict.VERDICTS`.
        partial: whether fewer seeds than needed were run, or one is unfinished.
        stale: what has changed since, in words.
        why: why it was not run, or what has to be known.
        command: what runs it.
    """

    paper: str
    row: str
    title: str
    kind: str
    metric: str
    published: float | str
    verified: bool
    ours: float | str | None
    std: float | None
    n: int
    seeds: int
    verdict: str
    partial: bool
    stale: tuple[str, ...]
    why: str
    command: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "stale": list(self.stale)}

    @property
    def words(self) -> str:
        """The verdict with what limits it, in one phrase."""
        notes = []
        if self.partial:
            notes.append(f"partial: {self.n} of {self.seeds} seeds")
        if self.stale:
            notes.append("stale: " + ", ".join(self.stale) + " changed since")
        if not self.verified:
            notes.append("unverified value")
        text = self.verdict + (f" ({'; '.join(notes)})" if notes else "")
        return f"{text}: {self.why}" if self.verdict == "not run" and self.why else text


def state_of(paper: Paper, row: Row, results: Mapping[str, Any]) -> State:
    """Return where a row stands by the results of one folder."""
    entry = results["rows"].get(row.id, {})
    runs = entry.get("runs", [])
    ours, std, verdict = _compared(row, [run["value"] for run in runs])
    unfinished = entry.get("unfinished")
    why = row.reason if verdict == "not run" or len(runs) < row.seeds else ""
    if unfinished and len(runs) < row.seeds:
        why = unfinished["why"]
    if verdict == "not run" and not why:
        why = "nobody has run it yet"
    return State(
        paper=paper.id,
        row=row.id,
        title=row.title,
        kind=row.kind,
        metric=row.metric,
        published=row.published,
        verified=row.verified,
        ours=ours,
        std=std,
        n=len(runs),
        seeds=row.seeds,
        verdict=verdict,
        partial=0 < len(runs) < row.seeds,
        stale=tuple(changes(entry["dependencies"], paper, row)) if runs else (),
        why=why,
        command=f"danlu reproduce run {paper.id} --row {row.id}",
    )


def _compared(row: Row, values: list[Any]) -> tuple[float | str | None, float | None, str]:
    """Return ours, its standard deviation and the verdict."""
    if not values:
        return None, None, "not run"
    if row.kind == "analytic":
        from danlu.papers.analytic import agrees

        return values[0], None, "reproduced" if agrees(row.published, values[0]) else "missed"
    assert not isinstance(row.published, str)
    verdict = judge(values, row.published, row.tolerance, row.better)
    return statistics.fmean(values), spread(values) if len(values) > 1 else None, verdict


def summary(values: list[Any]) -> dict[str, Any]:
    """Return what ``result.json`` keeps of a row beside its single runs."""
    if any(isinstance(value, str) for value in values):
        return {"n": len(values)}
    found = {"n": len(values), "mean": round(statistics.fmean(values), 6)}
    if len(values) > 1:
        found |= {"std": round(spread(values), 6), "standard_error": round(standard_error(values), 6)}
    return found


def table(papers: Iterable[str] | None = None, out: Path | None = None) -> list[State]:
    """Return every row of every paper, or of some, as it stands.

    Args:
        papers: which ones; all when not given.
        out: the folder of a user's own results; those shipped when not given.

    Raises:
        InputError: an unknown paper, or a damaged file.
    """
    states = []
    for name in list_papers() if papers is None else papers:
        paper = find_paper(name)
        results = read_results(paper.folder if out is None else out / name)
        states += [state_of(paper, row, results) for row in paper.rows]
    return states
