"""The doctor: what is in a data set and what is wrong with it, found by reading every byte and changing none.

``report = check("pictures/")``, then ``report.ok``, ``report.text()``, ``report.to_record()``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError
from danlu.core.log import progress
from danlu.data.arrays import data_hash, picture_digests
from danlu.data.decode import SUFFIXES
from danlu.data.examine import FileFacts, examine
from danlu.data.findings import Duplicates, Problem, Report, find_duplicates
from danlu.data.formats.image_folder import scan
from danlu.data.formats.labels_csv import unnamed_pictures
from danlu.data.formats.shards import ShardDataset
from danlu.data.names import case_clashes, name_warnings, quoted, text_of
from danlu.data.sample import ArrayDataset, Dataset, FileDataset, class_counts

__all__ = [
    "CORRUPT_SHARE",
    "Findings",
    "Problem",
    "Report",
    "check",
    "check_corrupt_share",
    "inspect_arrays",
    "inspect_files",
    "inspect_folder",
    "inspect_shards",
    "inspect_table",
]

CORRUPT_SHARE = 0.05
_SHOWN = 10
_CHUNK = 64


@dataclass
class Findings:
    """A checked data set: the report, the usable samples of each split, and the SHA-256 of each in the same order.

    ``facts`` holds what was found in each file; it is empty for pictures in memory.
    """

    report: Report
    splits: dict[str, Dataset]
    digests: dict[str, list[str]]
    facts: dict[str, list[FileFacts]]


def check_corrupt_share(corrupt: Sequence[Problem], total: int, where: str) -> None:
    """Stop when more than 5 % of the pictures cannot be used.

    Raises:
        InputError: with the number, the first ones and how to go on.
    """
    if not corrupt or len(corrupt) <= CORRUPT_SHARE * total:
        return
    shown = "".join(f"\n  {problem.text()}" for problem in corrupt[:_SHOWN])
    more = f"\n  … {len(corrupt) - _SHOWN:,} more" if len(corrupt) > _SHOWN else ""
    raise InputError(
        f"{len(corrupt):,} of {total:,} pictures cannot be used, more than {CORRUPT_SHARE:.0%}:{shown}{more}",
        where=where,
        mend="repair these files or move them out of the folder (`danlu data check PATH` lists them all)",
    )


def _file_warnings(ident: str, path: Path, facts: FileFacts) -> list[Problem]:
    found = []
    expected = SUFFIXES.get(path.suffix.lower())
    if expected is not None and facts.format != expected:
        found.append(Problem(ident, f"wrong suffix {path.suffix}: the content is {facts.format}; it is read as that"))
    if facts.frames > 1:
        found.append(Problem(ident, f"animation or several pages ({facts.frames} frames): the first one is used"))
    return found


def _name_problems(classes: Sequence[str], ids: Sequence[str]) -> list[Problem]:
    """Return what is unusual about class names, file names, and names that become one on some systems."""
    found = [Problem(name, f"class name {reason}") for name, reason in name_warnings(classes)]
    found += [Problem(name, f"class name {reason}") for name, reason in case_clashes(classes)]
    for ident in ids:
        found += [Problem(ident, f"file name {reason}") for _, reason in name_warnings([ident.rpartition("/")[2]])]
    return found + [Problem(ident, f"path {reason}") for ident, reason in case_clashes(ids)]


def _contrary(duplicates: Duplicates) -> Iterable[Problem]:
    for first, second in duplicates.contrary:
        yield Problem(second, f"the same picture as {quoted(first)}, which is in another class")


def inspect_folder(root: Path, *, threads: int | None = None) -> Findings:
    """Read and decode every picture of a folder of class folders.

    Raises:
        InputError: no such folder, or it holds no class folders. Broken pictures raise nothing here.
    """
    found = scan(root)
    classes = found.classes
    splits = {}
    for part, by_class in found.pictures.items():
        paths = [path for name in classes for path in by_class.get(name, [])]
        labels = [label for label, name in enumerate(classes) for _ in by_class.get(name, [])]
        splits[part] = FileDataset(root, paths, labels, classes, [text_of(path) for path in paths])
    findings = inspect_files(text_of(root), "image_folder", splits, threads=threads)
    findings.report.others = [Problem(ident, reason) for ident, reason in found.others]
    return findings


def inspect_table(source: str, splits: Mapping[str, FileDataset], *, threads: int | None = None) -> Findings:
    """Read and decode every picture a table of labels names, and list those of its folder that it does not name."""
    findings = inspect_files(source, "labels_csv", splits, threads=threads)
    findings.report.others = [Problem(ident, reason) for ident, reason in unnamed_pictures(splits)]
    return findings


def inspect_files(source: str, form: str, splits: Mapping[str, FileDataset], *, threads: int | None = None) -> Findings:
    """Read and decode every picture of data sets of files below one folder; broken ones are listed and left out."""
    rows = [(part, index) for part, dataset in splits.items() for index in range(len(dataset))]
    first = next(iter(splits.values()))
    paths, ids = ([getattr(splits[part], what)[i] for part, i in rows] for what in ("paths", "ids"))
    every = examine(first.root, paths, threads=threads)
    corrupt, warnings = list[Problem](), _name_problems(first.classes, ids)
    kept: dict[str, list[int]] = {part: [] for part in splits}
    facts_of: dict[str, list[FileFacts]] = {part: [] for part in splits}
    for ident, path, (part, index), facts in zip(ids, paths, rows, every, strict=True):
        if facts.fault is not None:
            corrupt.append(Problem(ident, facts.fault))
            continue
        warnings += _file_warnings(ident, path, facts)
        kept[part].append(index)
        facts_of[part].append(facts)
    usable: dict[str, Dataset] = {
        part: splits[part].take(np.array(chosen, dtype=np.int64)) for part, chosen in kept.items()
    }
    digests = {part: [facts.sha256 for facts in facts_of[part]] for part in kept}
    report = _report(source, form, usable, digests)
    report.sizes = Counter((facts.height, facts.width) for chosen in facts_of.values() for facts in chosen)
    report.modes = Counter(facts.mode for chosen in facts_of.values() for facts in chosen)
    report.corrupt = corrupt
    report.warnings = warnings + report.warnings
    return Findings(report, usable, digests, facts_of)


def _report(source: str, form: str, splits: Mapping[str, Dataset], digests: Mapping[str, list[str]]) -> Report:
    """Return the part of the report that needs samples and digests only."""
    labels = {part: dataset.labels.tolist() for part, dataset in splits.items()}
    duplicates = find_duplicates({part: (splits[part].ids, digests[part], labels[part]) for part in splits})
    named = {part: _names(form, part, dataset) for part, dataset in splits.items()}
    rows = [row for part in splits for row in zip(named[part], digests[part], labels[part], strict=True)]
    return Report(
        source=source,
        format=form,
        classes=next(iter(splits.values())).classes,
        counts={part: class_counts(dataset) for part, dataset in splits.items()},
        totals={part: len(dataset) for part, dataset in splits.items()},
        warnings=list(_contrary(duplicates)),
        duplicates=duplicates,
        hash=data_hash(rows),
    )


def _names(form: str, part: str, dataset: Dataset) -> Sequence[str]:
    """Return what samples are called in the data hash: their ids, which tell the split, but not those of a table."""
    if form != "labels_csv" or part == "all":
        return dataset.ids
    return [f"{part}\0{ident}" for ident in dataset.ids]


def inspect_arrays(source: str, form: str, splits: Mapping[str, ArrayDataset]) -> Findings:
    """Describe pictures in memory: hash, duplicates, balance, names."""
    digests = {part: picture_digests(dataset.pictures) for part, dataset in splits.items()}
    report = _report(source, form, splits, digests)
    for dataset in splits.values():
        _, height, width, channels = dataset.pictures.shape
        report.sizes[height, width] += len(dataset)
        report.modes["L" if channels == 1 else "RGB"] += len(dataset)
    report.warnings = _name_problems(report.classes, []) + report.warnings
    return Findings(report, dict(splits), digests, {})


def inspect_shards(source: str, splits: Mapping[str, ShardDataset]) -> Findings:
    """Describe packed pictures by their index: each was decoded when it was packed, and is verified when it is read."""
    digests = {part: dataset.digests() for part, dataset in splits.items()}
    facts = {
        part: [
            FileFacts(digest, height=height, width=width, channels=channels, mode="L" if channels == 1 else "RGB")
            for digest, height, width, channels in zip(
                digests[part], *(dataset.rows[name].tolist() for name in ("height", "width", "channels")), strict=True
            )
        ]
        for part, dataset in splits.items()
    }
    report = _report(source, "shards", splits, digests)
    report.sizes = Counter((one.height, one.width) for found in facts.values() for one in found)
    report.modes = Counter(one.mode for found in facts.values() for one in found)
    report.warnings = _name_problems(report.classes, []) + report.warnings
    return Findings(report, dict(splits), digests, facts)


def check(source: str | Path) -> Report:
    """Check a named data set or a folder: read all, decode all, compare all; nothing is changed.

    Packed pictures, which training reads when it needs them, are all read here as well.

    Raises:
        InputError: no such data set, or a folder that holds none.
    """
    from danlu.data.open import open_source

    findings = open_source(source).findings
    for part, dataset in findings.splits.items():
        if isinstance(dataset, ShardDataset):
            _read_all(findings.report, part, dataset)
    return findings.report


def _read_all(report: Report, part: str, dataset: ShardDataset) -> None:
    """Read and decode every packed picture; what cannot be used is listed and no longer counted as usable."""
    chunks = [range(begin, min(begin + _CHUNK, len(dataset))) for begin in range(0, len(dataset), _CHUNK)]
    title = f"read {part} pictures"
    with progress(title, len(dataset), "pictures") as advance, ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for chunk, faults in zip(chunks, pool.map(partial(_faults, dataset), chunks), strict=True):
                for index, problem in faults:
                    report.corrupt.append(problem)
                    report.counts[part][int(dataset.labels[index])] -= 1
                    report.totals[part] -= 1
                advance(chunk.stop, "")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _faults(dataset: ShardDataset, chunk: range) -> list[tuple[int, Problem]]:
    """Return (index, why it cannot be used) of those pictures of a chunk that cannot."""
    found = []
    for index in chunk:
        try:
            dataset[index]
        except InputError as error:
            found.append((index, Problem(dataset.ids[index], f"{error.what} ({error.where})")))
    return found
