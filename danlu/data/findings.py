"""What a check found: problems, duplicates and the report that holds them, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from danlu.data.names import quoted, shown

__all__ = ["Duplicates", "Problem", "Report", "find_duplicates"]

_SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """One thing found: the sample or file it is about, and why."""

    id: str
    reason: str

    def to_record(self) -> dict[str, str]:
        """Return it as records hold it."""
        return {"id": self.id, "reason": self.reason}

    def text(self) -> str:
        """Return it as one line for people."""
        return f"{shown(self.id)}: {self.reason}"


@dataclass(frozen=True)
class Duplicates:
    """Pictures with exactly the same bytes, as pairs of ids; in each group every other one is paired with the first.

    ``across``: in different splits; ``within``: in one split; ``contrary``: under different classes.
    """

    across: list[tuple[str, str]] = field(default_factory=list)
    within: list[tuple[str, str]] = field(default_factory=list)
    contrary: list[tuple[str, str]] = field(default_factory=list)


def find_duplicates(parts: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[int]]]) -> Duplicates:
    """Find equal pictures in and across splits.

    Args:
        parts: split -> (ids, digests, labels), each of the split's length.
    """
    first: dict[str, list[tuple[str, str, int]]] = {}
    found = Duplicates()
    repeated = _repeated([digests for _, digests, _ in parts.values()])
    if not repeated:
        return found
    for part, (ids, digests, labels) in parts.items():
        for ident, digest, label in zip(ids, digests, labels, strict=True):
            if digest not in repeated:
                continue
            group = first.setdefault(digest, [])
            same = next((entry for entry in group if entry[0] == part), None)
            if same is not None:
                found.within.append((same[1], ident))
            else:
                if group:
                    found.across.append((group[0][1], ident))
                group.append((part, ident, label))
            if group[0][2] != label:
                found.contrary.append((group[0][1], ident))
    return found


def _repeated(lists: Sequence[Sequence[str]]) -> set[str]:
    """Return the digests that occur more than once."""
    every = [digest for digests in lists for digest in digests]
    if len(set(every)) == len(every):
        return set()
    return {digest for digest, count in Counter(every).items() if count > 1}


@dataclass
class Report:
    """What the doctor found.

    ``counts``: split -> usable pictures of each class, in the order of ``classes``; ``corrupt``: pictures that cannot
    be used; ``others``: files that are no pictures of the data set; ``warnings``: what is usable but unusual;
    ``totals``: split -> usable pictures; ``sizes`` and ``modes``: how often each (height × width) and each kind of
    pixel occurs.
    """

    source: str
    format: str
    classes: tuple[str, ...]
    counts: dict[str, list[int]]
    duplicates: Duplicates
    hash: str
    corrupt: list[Problem] = field(default_factory=list)
    others: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def pictures(self) -> int:
        """The number of usable pictures."""
        return sum(self.of(part) for part in self.counts)

    def of(self, part: str) -> int:
        """Return the number of usable pictures of a split; with several labels a picture it is not that of labels."""
        return self.totals.get(part, sum(self.counts[part]))

    @property
    def ok(self) -> bool:
        """Whether every picture can be used, and there are two classes or more, all with pictures to learn from."""
        return not self.corrupt and not self.empty_classes and len(self.classes) > 1

    @property
    def empty_classes(self) -> list[str]:
        """Classes without a usable picture to learn from."""
        counts = self.counts.get("train", self.counts.get("all", [0] * len(self.classes)))
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]

    def to_record(self) -> dict[str, Any]:
        """Return the whole report as a JSON document."""
        heights, widths = sorted(h for h, _ in self.sizes.elements()), sorted(w for _, w in self.sizes.elements())
        middle = len(heights) // 2
        size = {
            "different": len(self.sizes),
            "height": [heights[0], heights[middle], heights[-1]] if heights else [],
            "width": [widths[0], widths[middle], widths[-1]] if widths else [],
        }
        pairs = {"across": self.duplicates.across, "within": self.duplicates.within}
        return {
            "schema": 1,
            "source": self.source,
            "format": self.format,
            "ok": self.ok,
            "pictures": self.pictures,
            "classes": list(self.classes),
            "counts": self.counts,
            "empty_classes": self.empty_classes,
            "corrupt": [problem.to_record() for problem in self.corrupt],
            "others": [problem.to_record() for problem in self.others],
            "warnings": [problem.to_record() for problem in self.warnings],
            "duplicates": {kind: [list(pair) for pair in found] for kind, found in pairs.items()},
            "sizes_min_median_max": size,
            "modes": dict(self.modes),
            "hash": self.hash,
        }

    def text(self) -> str:
        """Return the report as text for people; long lists are cut and their length is said."""
        splits = ", ".join(f"{part} {self.of(part):,}" for part in self.counts)
        pictures = f"{self.pictures:,} usable pictures ({splits})"
        lines = [f"{shown(self.source)}: {self.format}, {pictures}, {len(self.classes)} classes"]
        sizes = [f"{h}×{w} ({count:,})" for (h, w), count in self.sizes.most_common(5)]
        more = f", … {len(self.sizes) - 5} more" if len(self.sizes) > 5 else ""
        lines.append(
            f"sizes: {', '.join(sizes)}{more}; modes: " + ", ".join(f"{m} ({n:,})" for m, n in self.modes.items())
        )
        totals = np.sum(list(self.counts.values()), axis=0).tolist()
        balance = sorted(zip(totals, self.classes, strict=True), reverse=True)
        if balance:
            (most, first), (least, last) = balance[0], balance[-1]
            lines.append(f"class balance: from {quoted(first)} with {most:,} to {quoted(last)} with {least:,} pictures")
        lines += _listed("pictures that cannot be used", [problem.text() for problem in self.corrupt])
        lines += _listed("classes without pictures", [shown(name) for name in self.empty_classes])
        lines += _listed("files that are no pictures of the data set", [problem.text() for problem in self.others])
        lines += _listed("equal pictures in different splits", _equal(self.duplicates.across))
        lines += _listed("equal pictures in one split", _equal(self.duplicates.within))
        if len(self.classes) < 2:
            count = f"{len(self.classes)} class{'es' * (not self.classes)}"
            lines.append(f"{count}: there is nothing to tell apart, two or more are needed")
        lines += _listed("warnings", [problem.text() for problem in self.warnings])
        lines.append(f"data hash: {self.hash}")
        lines.append("nothing is wrong" if self.ok else "something is wrong: see above")
        return "\n".join(lines)


def _equal(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{shown(first)} = {shown(second)}" for first, second in pairs]


def _listed(title: str, rows: Sequence[str]) -> list[str]:
    if not rows:
        return []
    more = [f"  … {len(rows) - _SHOWN:,} more (--json lists all)"] if len(rows) > _SHOWN else []
    return [f"{title}: {len(rows):,}", *(f"  {row}" for row in rows[:_SHOWN]), *more]
