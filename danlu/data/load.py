"""The one way to get data for training: opened, checked, split and described. ``load_data("digits")``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.data.decode import change_channels
from danlu.data.doctor import Findings, check_corrupt_share
from danlu.data.findings import Problem, find_duplicates
from danlu.data.names import case_clashes, quoted
from danlu.data.open import Opened, open_source
from danlu.data.sample import ArrayDataset, Dataset, FileDataset, Subset, class_counts
from danlu.data.splits import TEST_SHARE, VALIDATION_SHARE, draw_parts
from danlu.data.stats import Stats, array_stats, file_stats

__all__ = ["Data", "PictureInfo", "Problem", "check_seed", "load_data", "opened_data"]

_PROBLEMS_KEPT = 200
_PAIRS_KEPT = 50
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PictureInfo:
    """Size and channels of the training and validation pictures; medians where their sizes are not ``uniform``.

    Test pictures are brought to these; they have no part in them, so that nothing is chosen by what is tested on.
    """

    height: int
    width: int
    channels: int
    uniform: bool


@dataclass(frozen=True)
class Data:
    """A checked data set in three splits.

    ``problems`` are the files left out, each with its reason; ``warnings`` what is unusual but used; ``duplicates``
    pairs of ids of equal pictures in different splits; ``mean`` and ``std`` those of the training pictures per channel,
    as fractions of 255; ``test_given`` and ``validation_given`` whether these splits came with the data; ``seed`` that
    of the splits drawn.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: Dataset
    validation: Dataset
    test: Dataset
    picture: PictureInfo
    hash: str
    test_given: bool
    problems: list[Problem]
    licence: str | None
    citation: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    format: str = "image_folder"
    warnings: list[Problem] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    validation_given: bool = False

    @property
    def multilabel(self) -> bool:
        """Whether a picture can have several labels, or none."""
        return self.train.labels.ndim == 2

    def split(self, name: str) -> Dataset:
        """Return the split called ``train``, ``validation`` or ``test``.

        Raises:
            InputError: another name.
        """
        if name not in _SPLITS:
            raise InputError(f"unknown split {name!r}", allowed=_SPLITS)
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def check_unseen(
        self, split: str, who: str, trained_hash: str | None, trained_seed: int | None, trained_on: str = "train"
    ) -> None:
        """Refuse a split that holds pictures ``who`` was trained on: the same data by another seed, or all of it.

        Args:
            split: the split to be measured on.
            who: the network, as messages call it.
            trained_hash: of the data it was trained on; None where that is not known, and nothing is refused.
            trained_seed: of the split it was trained on, or None.
            trained_on: ``train``, or ``train+validation``.

        Raises:
            InputError: it says which seed or split to give.
        """
        if trained_hash == self.hash and split == "validation" and "validation" in trained_on:
            what = f"{who} was trained on train and validation: no figure of validation would stand"
            raise InputError(what, where=self.name, mend="give --split test")
        if trained_hash != self.hash or trained_seed in (None, self.seed):
            return
        given = {"validation": self.validation_given, "test": self.test_given}
        if given.get(split, all(given.values())):
            return
        raise InputError(
            f"is split by seed {self.seed}, {who} was trained on the split by seed {trained_seed}: "
            f"its {split} pictures were partly trained on",
            where=self.name,
            mend=f"give --seed {trained_seed}",
        )

    def check_batch(self, batch: int, where: str | None = None) -> None:
        """Refuse a batch that the training split cannot fill once.

        Raises:
            InputError: it is larger than the training split, or below one.
        """
        if not 1 <= batch <= len(self.train):
            what = f"batch size {batch} does not fit {len(self.train):,} training pictures"
            raise InputError(what, where=where, mend=f"use 1 to {len(self.train)}")

    def to_record(self) -> dict[str, Any]:
        """Return the description that records keep; long lists are cut and their length is kept."""
        splits = {name: self.split(name) for name in _SPLITS}
        return {
            "name": self.name,
            "source": self.source,
            "format": self.format,
            "classes": list(self.classes),
            "hash": self.hash,
            "sizes": {name: len(part) for name, part in splits.items()},
            "counts": {name: class_counts(part) for name, part in splits.items()},
            **({"multilabel": True} if self.multilabel else {}),
            "test_given": self.test_given,
            "seed": self.seed,
            "problems": _cut([problem.to_record() for problem in self.problems], _PROBLEMS_KEPT),
            "warnings": _cut([problem.to_record() for problem in self.warnings], _PROBLEMS_KEPT),
            "duplicates": _cut([list(pair) for pair in self.duplicates], _PAIRS_KEPT),
            "picture": {
                "height": self.picture.height,
                "width": self.picture.width,
                "channels": self.picture.channels,
                "uniform": self.picture.uniform,
            },
            "licence": self.licence,
            "citation": self.citation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def _cut(rows: list[Any], kept: int) -> dict[str, Any]:
    return {"count": len(rows), "first": rows[:kept]}


def load_data(source: str | Path, *, seed: int = 0, download: bool = False, channels: int | None = None) -> Data:
    """Open a named data set or a folder, check every picture, and split it.

    A split that is given is kept. Otherwise validation is 10 % of the training part; without a test split, 10 % and
    20 % of all are drawn for validation and test. Draws are stratified, seeded and leave each class at least one
    picture where that is possible. Broken pictures are left out and listed, up to 5 % of them.

    Args:
        source: a catalogue name or a path.
        seed: of the splits.
        download: fetch a catalogue data set that is not there.
        channels: 1 or 3; what the training and validation pictures have when not given (3 as soon as one is coloured).

    Raises:
        InputError: nothing to read, more than 5 % broken, fewer than two classes, or a split or class without pictures.
    """
    seed = check_seed(seed)
    if channels not in (None, 1, 3):
        raise InputError(f"channels are {channels}", allowed=[1, 3])
    opened = open_source(source, download=download)
    findings = opened.findings
    report = findings.report
    check_corrupt_share(report.corrupt, report.pictures + len(report.corrupt), opened.source)
    _check_classes(findings, opened.source)
    parts, drawn = _split(findings, seed, opened.source)
    datasets = {name: _part(findings.splits[origin], chosen) for name, (origin, chosen) in parts.items()}
    digests = {name: [findings.digests[o][i] for i in chosen.tolist()] for name, (o, chosen) in parts.items()}
    picture = _picture(findings, parts, channels)
    if not findings.facts:
        datasets = {name: _in_channels(dataset, picture.channels) for name, dataset in datasets.items()}
    mean, std = _stats(datasets["train"], digests["train"], picture.channels)
    pairs = find_duplicates({n: (d.ids, digests[n], d.labels.tolist()) for n, d in datasets.items()}).across
    data = Data(
        name=opened.name,
        source=opened.source,
        classes=report.classes,
        train=datasets["train"],
        validation=datasets["validation"],
        test=datasets["test"],
        picture=picture,
        hash=report.hash,
        test_given="test" not in drawn,
        problems=[*report.corrupt, *report.others],
        licence=opened.entry.licence if opened.entry else None,
        citation=opened.entry.citation if opened.entry else None,
        mean=mean,
        std=std,
        seed=seed,
        format=report.format,
        warnings=report.warnings,
        duplicates=pairs,
        validation_given="validation" not in drawn,
    )
    _say(data, opened)
    return data


def opened_data(data: Data | Path | str, seed: int | None = None) -> Data:
    """Return ``data``, or where it is a name or a folder what :func:`load_data` makes of it, split by ``seed`` or 0."""
    found: Any = load_data(data, seed=seed or 0) if isinstance(data, Path | str) else data
    if not isinstance(found, Data):
        mend = "give what danlu.load_data returns, a name or a folder"
        raise InputError(f"{type(data).__name__} is not data", where="data", mend=mend)
    return found


def check_seed(seed: int) -> int:
    """Return the seed as a plain integer.

    Raises:
        InputError: it is not an integer from 0 to 2**63 - 1.
    """
    given: Any = seed
    if isinstance(given, bool) or not isinstance(given, Integral) or not 0 <= int(given) < 2**63:
        raise InputError(f"seed = {seed!r}", where="data", allowed=["0 to 2**63 - 1"])
    return int(given)


def _check_classes(findings: Findings, where: str) -> None:
    """Refuse one class, classes nobody can learn, and pictures that no split would take."""
    report = findings.report
    if len(report.classes) < 2:
        held = f"one class only ({quoted(report.classes[0])})" if report.classes else "no classes"
        mend = "add a folder for another class"
        if report.format == "labels_csv":
            mend = "name the other class as well: where a picture has no label, write one such as other"
        raise InputError(f"holds {held}, a classifier needs two", where=where, mend=mend)
    if {"all", "train"} <= report.counts.keys():
        what = f"holds {report.of('all'):,} pictures without a split beside a train split"
        raise InputError(what, where=where, mend="put them into train, validation or test, or remove them")
    learnt = "train" if "train" in report.counts else "all"
    if learnt not in report.counts:
        held = " and ".join(report.counts)
        raise InputError(
            f"holds {held} but no train split", where=where, mend="add train/, or remove the split folders"
        )
    empty = [name for name, count in zip(report.classes, report.counts[learnt], strict=True) if not count]
    if empty:
        part = "" if learnt == "all" else " in train"
        names = ", ".join(quoted(name) for name in empty[:10]) + (", …" if len(empty) > 10 else "")
        full = [name for name in report.classes if name not in empty]
        clashes = [f"{quoted(name)} {how}" for name, how in case_clashes(full + empty) if name in empty]
        mend = f"give one name to both: {clashes[0]}" if clashes else "remove or fill them"
        raise InputError(f"classes without a usable picture{part}: {names}", where=where, mend=mend)
    bare = [part for part in report.counts if not report.of(part)]
    if bare:
        raise InputError(f"split {bare[0]} holds no usable picture", where=where, mend="fill it, or remove its folder")


Parts = dict[str, tuple[str, NDArray[np.int64]]]


def _split(findings: Findings, seed: int, where: str) -> tuple[Parts, set[str]]:
    """Return split -> (given split it is taken from, indices), and which splits were drawn here."""
    given = findings.splits
    learnt = "train" if "train" in given else "all"
    parts: Parts = {
        name: (name, np.arange(len(given[name]), dtype=np.int64)) for name in ("validation", "test") if name in given
    }
    missing = {"validation": VALIDATION_SHARE, "test": TEST_SHARE}
    drawn = {name: share for name, share in missing.items() if name not in parts}
    chosen = draw_parts(_strata(given[learnt].labels), tuple(drawn.values()), seed)
    parts["train"] = (learnt, chosen[0])
    parts.update({name: (learnt, indices) for name, indices in zip(drawn, chosen[1:], strict=True)})
    for name in drawn:
        if not len(parts[name][1]):
            what = f"too few pictures to draw a {name} split: every class has one"
            raise InputError(what, where=where, mend="give at least three pictures a class")
    return {name: parts[name] for name in _SPLITS}, set(drawn)


def _strata(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what pictures are drawn by [N]: the class, or of several the one that the fewest pictures have."""
    if labels.ndim == 1:
        return labels
    counts = np.where(labels.sum(axis=0) > 0, labels.sum(axis=0), len(labels) + 1)
    rarest = np.where(labels == 1, counts, len(labels) + 2).argmin(axis=1)
    return np.asarray(np.where(labels.any(axis=1), rarest, labels.shape[1]), dtype=np.int64)


def _part(dataset: Dataset, chosen: NDArray[np.int64]) -> Dataset:
    if len(chosen) == len(dataset):
        return dataset
    if isinstance(dataset, ArrayDataset | FileDataset):
        return dataset.take(chosen)
    return Subset(dataset, chosen)


def _in_channels(dataset: Dataset, channels: int) -> Dataset:
    if not isinstance(dataset, ArrayDataset) or dataset.pictures.shape[3] == channels:
        return dataset
    return ArrayDataset(change_channels(dataset.pictures, channels), dataset.labels, dataset.ids, dataset.classes)


def _picture(findings: Findings, parts: Parts, channels: int | None) -> PictureInfo:
    """Describe the pictures trained and validated on; medians where their sizes differ."""
    sizes: Counter[tuple[int, int]] = Counter()
    found = 1
    for origin, chosen in (parts[name] for name in _SPLITS if name != "test"):
        if findings.facts:
            facts = [findings.facts[origin][index] for index in chosen.tolist()]
            sizes.update((fact.height, fact.width) for fact in facts)
            found = max([found, *(fact.channels for fact in facts)])
            continue
        dataset = findings.splits[origin]
        assert isinstance(dataset, ArrayDataset)
        _, height, width, depth = dataset.pictures.shape
        sizes[height, width] += len(chosen)
        found = max(found, depth)
    if len(sizes) == 1:
        height, width = next(iter(sizes))
        return PictureInfo(height, width, channels or found, uniform=True)
    height, width = (int(np.median([size[axis] for size in sizes.elements()])) for axis in (0, 1))
    return PictureInfo(max(1, height), max(1, width), channels or found, uniform=False)


def _stats(train: Dataset, digests: list[str], channels: int) -> Stats:
    if isinstance(train, ArrayDataset):
        return array_stats(train)
    return file_stats(train, digests, channels, seed=0)


def _say(data: Data, opened: Opened) -> None:
    sizes = ", ".join(f"{name} {len(data.split(name)):,}" for name in _SPLITS)
    logger.info("%s: %d classes, %s pictures, data hash %s…", data.name, len(data.classes), sizes, data.hash[:12])
    _listed("left out", data.problems)
    _listed("used all the same", data.warnings)
    pairs = [Problem(second, f"equals {quoted(first)} of another split") for first, second in data.duplicates]
    _listed("equal pictures in different splits, so figures may flatter", pairs)
    for part, counts in opened.findings.report.counts.items():
        if absent := counts.count(0):
            logger.warning("%s: %d of %d classes have no picture in %s", data.name, absent, len(counts), part)


def _listed(title: str, problems: list[Problem], shown: int = 5) -> None:
    if not problems:
        return
    text = "".join(f"\n  {problem.text()}" for problem in problems[:shown])
    more = f"\n  … {len(problems) - shown:,} more" if len(problems) > shown else ""
    logger.warning("%s: %d%s%s", title, len(problems), text, more)
