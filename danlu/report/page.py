"""The page: templates, style and script joined into one file that loads nothing."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from danlu.core.files import write_whole
from danlu.core.records import RunFolder, open_run_folder
from danlu.report import figures
from danlu.report.text import TEXT, both, plain
from danlu.report.view import Report, make_view

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["build_report", "render"]

# Section id (and text key) -> the verb that adds it.
SECTIONS = {
    "data": "danlu run DATA",
    "training": "danlu train DATA",
    "evaluation": "danlu eval RUN DATA",
    "analysis": "danlu analyze RUN",
    "deployment": "danlu export RUN",
    "parity": "danlu export RUN",
    "benchmark": "danlu bench RUN",
    "environment": "danlu run DATA",
}


def build_report(run: RunFolder | Path | str) -> Path:
    """Write ``report.html`` of a run from its records alone and return its path.

    The file is whole in itself: style, script and pictures are inside, a security policy forbids every request, and all
    text from the records is escaped. A section whose record is absent says that it was not run.

    Raises:
        InputError: no run folder, a record cannot be read, or the report cannot be written.
    """
    folder = run if isinstance(run, RunFolder) else open_run_folder(run)
    write_whole(folder.report_path, render(make_view(folder)))
    return folder.report_path


def render(report: Report) -> str:
    """Return the page for ``report``."""
    style, script = _asset("style.css"), _asset("script.js")
    page = (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            sections=list(SECTIONS.items()),
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            language=report.language or "en",
        )
    )
    # JSON may spell lone surrogates, which UTF-8 cannot.
    return page.encode("utf-8", "replace").decode("utf-8")


def _policy(style: str, script: str) -> str:
    """Return the page's security policy: only the very style and script it was written with, and embedded pictures."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _asset(name: str) -> str:
    text = importlib.resources.files("danlu.report").joinpath(name).read_text(encoding="utf-8")
    if "</s" in text.lower():
        raise AssertionError(f"{name} would end its own element")
    return text.replace("\r\n", "\n")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str:
        return importlib.resources.files("danlu.report").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    for name in figures.__all__:
        if name.islower():
            environment.filters["figure_" + name] = getattr(figures, name)
    environment.globals.update(t=both, plain=plain, known=TEXT.__contains__)
    return environment


def _finalize(value: Any) -> Any:
    """Make control characters of every printed text visible; print nothing for ``None``."""
    if value is None:
        return ""
    return figures.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
