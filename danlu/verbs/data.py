"""The verbs of data: list, get, check, convert."""

from __future__ import annotations

from pathlib import Path

from danlu import terminal
from danlu.verbs.common import Common, Output

__all__ = ["data_check", "data_convert", "data_get", "data_list"]


def data_list(*, common: Common | None = None) -> Output:
    """List the named data sets and whether they are on this machine."""
    from danlu.data import catalog

    rows = [
        {
            "name": entry.name,
            "title": entry.title,
            "pictures": sum(entry.counts.values()),
            "classes": len(entry.classes),
            "size": "×".join(map(str, (entry.channels, *entry.size))),
            "present": catalog.is_present(entry.name),
            "licence": entry.licence,
        }
        for entry in catalog.CATALOG.values()
    ]
    return Output(rows, terminal.rows(rows))


def data_get(name: str, /, *, common: Common | None = None) -> Output:
    """Fetch a named data set from the first source that answers, and verify its pixels and labels.

    Parameters
    ----------
    name
        A named data set (see: danlu data list).
    """
    from danlu.data import catalog

    path = catalog.get(name)
    return Output({"name": name, "path": str(path)}, f"{name}: {path}")


def data_check(path: str, /, *, common: Common | None = None) -> Output:
    """Read every picture of a folder and list what is wrong with it; the folder is not touched.

    Parameters
    ----------
    path
        A named data set or a folder that holds one folder a class.
    """
    from danlu.data.doctor import check

    report = check(path)
    return Output(report.to_record(), report.text(), exit_code=0 if report.ok else 1)


def data_convert(source: str, target: Path, /, *, to: str, common: Common | None = None) -> Output:
    """Write a data set in another on-disk format.

    Parameters
    ----------
    source
        A named data set or a folder.
    target
        The folder to write; it must not exist.
    to
        The format's name, e.g. image_folder or idx.
    """
    from danlu.data.convert import convert

    document = convert(source, target, to)
    return Output(document, terminal.pairs(document))
