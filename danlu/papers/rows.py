"""What a paper's folder holds: its rows as settings that are checked, and our results of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from danlu.core.errors import InputError, nearest_names
from danlu.core.files import read_json
from danlu.core.records import SCHEMA, check_schema
from danlu.core.settings import Settings, make_settings

__all__ = ["FOLDER", "METRICS", "Paper", "Row", "find_paper", "find_row", "list_papers", "read_results"]

FOLDER = Path(__file__).parent

# Metric -> which direction is better.
METRICS = {
    "test error %": "lower",
    "test errors": "lower",
    "test accuracy %": "higher",
    "test accuracy": "higher",
    "compression ratio": "higher",
    "parameters kept": "lower",
    "learns": "same",
    "ratio of epochs": "higher",
    "parameters": "same",
    "multiply-adds": "same",
    "stage shapes": "same",
    "receptive field": "same",
}


class Row(Settings):
    """One published value and how it is measured again.

    Attributes:
        id: what ``--row`` calls it.
        title: what a person calls it.
        kind: ``analytic`` counts on a network without values; ``training`` trains by a recipe and measures the test
            split; ``method`` calls a function of the paper's folder.
        metric: one of :data:`METRICS`.
        published: the value, in the metric's unit; text for counts (``"25.6 M"``) and shapes.
        table: where it stands in the source.
        source: what it was read in.
        verified: whether it was read there; a value from memory is shown as *unverified*.
        tolerance: how much worse still counts as the same.
        seeds: how many the verdict needs.
        data: the data set.
        model: the network.
        recipe: the training recipe its settings begin with.
        overrides: settings by dotted key on top of it.
        tta: views of each test picture, see ``danlu eval --tta``.
        function: of the folder's ``method.py``.
        arguments: what it is called with.
        cost: what one seed takes.
        hardware: on what.
        note: what has to be known to read the figure.
        reason: why it was not run, or not with all seeds.
    """

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    kind: Literal["analytic", "training", "method"]
    metric: str
    published: float | str
    table: str
    source: str
    verified: bool
    tolerance: float = Field(default=0.0, ge=0.0)
    seeds: int = Field(default=1, ge=1)
    data: str | None = None
    model: str | None = None
    recipe: str | None = None
    overrides: dict[str, Any] = Field(default={})
    tta: str | None = None
    function: str | None = None
    arguments: dict[str, Any] = Field(default={})
    cost: str = ""
    hardware: str = ""
    note: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _agree(self) -> Row:
        if self.metric not in METRICS:
            raise ValueError(f"row {self.id}: metric {self.metric!r} is none of {', '.join(METRICS)}")
        needed = {"analytic": ("model",), "training": ("data", "model", "recipe"), "method": ("function",)}[self.kind]
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"row {self.id} of kind {self.kind} has no {name}")
        if self.kind != "analytic" and not (self.cost and self.hardware):
            raise ValueError(f"row {self.id} does not say its cost and hardware")
        return self

    @property
    def better(self) -> str:
        """Which direction of the metric is better: ``lower``, ``higher`` or ``same``."""
        return METRICS[self.metric]


class Paper(Settings):
    """A paper and its rows, as ``expected.json`` has them.

    Attributes:
        id: the folder's name.
        title: of the paper.
        authors: its authors.
        year: of publication.
        link: where it can be read.
        rows: in the order of its tables.
    """

    id: str
    title: str
    authors: str
    year: int
    link: str
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _unique(self) -> Paper:
        names = [row.id for row in self.rows]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows stand twice: {', '.join(doubled)}")
        return self

    @property
    def folder(self) -> Path:
        """Where it lies in the package."""
        return FOLDER / self.id


def list_papers() -> list[str]:
    """Return the folders that hold a paper, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/expected.json"))


@cache
def find_paper(name: str) -> Paper:
    """Return the paper called ``name``.

    Raises:
        InputError: there is none (with the nearest names), or its ``expected.json`` is damaged.
    """
    known = list_papers()
    if name not in known:
        raise InputError(f"unknown paper {name!r}", nearest=nearest_names(name, known), allowed=known)
    file = FOLDER / name / "expected.json"
    document = check_schema(read_json(file), str(file))
    values = {key: value for key, value in document.items() if key != "schema"}
    return make_settings(Paper, {"id": name, **values}, str(file))


def find_row(paper: Paper, name: str) -> Row:
    """Return the row called ``name``.

    Raises:
        InputError: the paper has none (with the nearest names).
    """
    found = {row.id: row for row in paper.rows}
    if name not in found:
        raise InputError(f"{paper.id} has no row {name!r}", nearest=nearest_names(name, found), allowed=list(found))
    return found[name]


def read_results(folder: Path) -> dict[str, Any]:
    """Return ``result.json`` of a folder: ``{"schema", "environments": {…}, "rows": {…}}``, empty where there is none.

    Raises:
        InputError: it is damaged or of a newer version.
    """
    file = folder / "result.json"
    if not file.exists():
        return {"schema": SCHEMA, "environments": {}, "rows": {}}
    document = check_schema(read_json(file), str(file))
    for key in ("environments", "rows"):
        if not isinstance(document.get(key), dict):
            raise InputError(f"has no section {key!r}", where=str(file))
    return document
