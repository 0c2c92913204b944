"""A data set written in another on-disk format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.data.doctor import Report, check_corrupt_share
from danlu.data.folders import check_new_folder
from danlu.data.formats import FORMATS
from danlu.data.names import quoted, text_of
from danlu.data.open import open_source, path_of

__all__ = ["convert"]

_NAMED_BY_PICTURES = ("image_folder", "labels_csv")


def convert(source: str | Path, target: Path, to: str) -> dict[str, Any]:
    """Write the data set ``source`` into the new folder ``target`` in the format ``to``; splits stay as they are given.

    Returns:
        what was written: ``{"source", "target", "format", "pictures": {split: n}, "left_out": n}``.

    Raises:
        InputError: unknown names, a target that holds something or lies inside the source, broken pictures, or
            pictures the format cannot hold.
    """
    form = FORMATS.get(to, "--to")
    check_new_folder(target)
    opened = open_source(source)
    if opened.entry is None and target.resolve().is_relative_to(path_of(source).resolve()):
        what = "lies inside the data set: what is written would be part of it"
        raise InputError(what, where=text_of(target), mend="give a folder outside it")
    report = opened.findings.report
    if to != "labels_csv" and any(part.labels.ndim == 2 for part in opened.findings.splits.values()):
        what = f"has pictures with several labels or none, which {to} cannot hold"
        raise InputError(what, where=opened.source, mend="convert to labels_csv")
    check_corrupt_share(report.corrupt, report.pictures + len(report.corrupt), opened.source)
    form.write(opened.findings.splits, target)
    if to in _NAMED_BY_PICTURES and (lost := _without_pictures(report)):
        shown = ", ".join(quoted(name) for name in lost[:10]) + (", …" if len(lost) > 10 else "")
        logger.warning("%s names classes by their pictures; those without any are gone: %s", to, shown)
    return {
        "source": opened.source,
        "target": text_of(target),
        "format": to,
        "pictures": {part: len(dataset) for part, dataset in opened.findings.splits.items()},
        "left_out": len(report.corrupt) + len(report.others),
    }


def _without_pictures(report: Report) -> list[str]:
    """Return the classes that no split has a picture of."""
    counts = zip(*report.counts.values(), strict=True)
    return [name for name, found in zip(report.classes, counts, strict=True) if not any(found)]
