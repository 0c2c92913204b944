"""The verbs of the ledger: every published table with command, seeds, spread and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu import terminal
from danlu.verbs.common import Common, Flag, Output, Training, WholeOrNone

__all__ = ["reproduce_list", "reproduce_run", "reproduce_table"]


def reproduce_list(paper: str | None = None, /, *, common: Common | None = None) -> Output:
    """List the papers with the number of their rows, or the rows of one with what they cost.

    Parameters
    ----------
    paper
        A paper's name.
    """
    from danlu.papers.rows import find_paper, list_papers

    if paper is not None:
        rows = [_offered(row) for row in find_paper(paper).rows]
        return Output(rows, terminal.rows(rows))
    rows = []
    for name in list_papers():
        found = find_paper(name)
        kinds = [row.kind for row in found.rows]
        counts = {kind: kinds.count(kind) for kind in ("analytic", "training", "method")}
        rows.append({"paper": name, "year": str(found.year), **counts, "title": found.title})
    return Output(rows, terminal.rows(rows))


def _offered(row: Any) -> dict[str, Any]:
    unverified = "" if row.verified else " (unverified)"
    return {
        "row": row.id,
        "kind": row.kind,
        "metric": row.metric,
        "published": f"{row.published}{unverified}",
        "seeds": row.seeds,
        "cost": row.cost or "seconds",
        "title": row.title,
    }


def reproduce_run(
    paper: str,
    /,
    *,
    row: str | None = None,
    seeds: WholeOrNone = None,
    budget: str | None = None,
    data: Path | None = None,
    record: Flag = False,
    common: Training | None = None,
) -> Output:
    """Run a paper's rows and compare. The same command again goes on: seed by seed, and inside a training.

    Parameters
    ----------
    paper
        A paper's name (see: danlu reproduce list).
    row
        One of its rows; all when not given.
    seeds
        How many; by default as many as the verdict needs. --seed is the first.
    budget
        Begin nothing new after this time, e.g. 10min; a training pauses at the end of its epoch.
    data
        A folder that holds the data set in its own format.
    record
        Keep the results as those that are shipped; for maintainers.
    """
    from danlu.core.settings import parse_duration
    from danlu.papers.running import reproduce

    common = common or Training()
    found = reproduce(
        paper,
        row=row,
        seeds=seeds,
        seed=common.seed,
        device=common.device,
        threads=common.threads,
        budget=parse_duration(budget) if budget else None,
        out=common.out,
        data=data,
        record=record,
    )
    lines = [_told(document) for document in found]
    failed = any(document["verdict"] in ("missed", "not run") for document in found)
    return Output(found, "\n".join(lines), exit_code=1 if failed else 0)


def _told(document: dict[str, Any]) -> str:
    ours = "–" if document["ours"] is None else terminal.figure(document["ours"])
    if document["std"] is not None:
        ours += f" ± {terminal.figure(document['std'])}"
    text = f"{document['row']}: {document['metric']} {ours}, published {document['published']}: {document['words']}"
    if document["inside"] is not None:
        low, high = (terminal.figure(value) for value in document["prediction_interval"])
        text += f"; {'inside' if document['inside'] else 'OUTSIDE'} of what the shipped seeds predict ({low} to {high})"
    return text


def reproduce_table(paper: str | None = None, /, *, out: Path | None = None, common: Common | None = None) -> Output:
    """Show every row with its verdict, or why there is none.

    Parameters
    ----------
    paper
        Only this one's.
    out
        A folder of your own results instead of those shipped.
    """
    from danlu.papers.states import table

    states = table(None if paper is None else [paper], out)
    rows = [
        {
            "paper": state.paper,
            "row": state.row,
            "metric": state.metric,
            "published": state.published,
            "ours": state.ours,
            "std": state.std,
            "n": state.n,
            "verdict": state.words,
        }
        for state in states
    ]
    return Output([state.to_json() for state in states], terminal.rows(rows))
