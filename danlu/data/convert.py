"""A data set written in another on-disk format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.core.errors import InputError
from danlu.data.doctor import check_corrupt_share
from danlu.data.folders import check_new_folder
from danlu.data.formats import FORMATS
from danlu.data.names import text_of
from danlu.data.open import open_source

__all__ = ["convert"]


def convert(source: str | Path, target: Path, to: str) -> dict[str, Any]:
    """Write the data set ``source`` into the new folder ``target`` in the format ``to``; splits stay as they are given.

    Returns:
        what was written: ``{"source", "target", "format", "pictures": {split: n}, "left_out": n}``.

    Raises:
        InputError: unknown names, a target that holds something, broken pictures, or pictures the format cannot hold.
    """
    form = FORMATS.get(to, "--to")
    check_new_folder(target)
    opened = open_source(source)
    report = opened.findings.report
    if to != "labels_csv" and any(part.labels.ndim == 2 for part in opened.findings.splits.values()):
        what = f"has pictures with several labels or none, which {to} cannot hold"
        raise InputError(what, where=opened.source, mend="convert to labels_csv")
    check_corrupt_share(report.corrupt, report.pictures + len(report.corrupt), opened.source)
    form.write(opened.findings.splits, target)
    return {
        "source": opened.source,
        "target": text_of(target),
        "format": to,
        "pictures": {part: len(dataset) for part, dataset in opened.findings.splits.items()},
        "left_out": len(report.corrupt) + len(report.others),
    }
