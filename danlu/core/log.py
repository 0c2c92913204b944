"""Progress and messages: what people read goes to standard error, through the ``danlu`` logger or a progress bar."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["Advance", "configure", "logger", "progress"]

logger = logging.getLogger("danlu")
logger.addHandler(logging.NullHandler())

# advance(done, text): done = units finished so far, text = figures worth showing beside the bar.
Advance = Callable[[int, str], None]

_SECONDS_BETWEEN_LINES = 5.0


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the library's messages to standard error, as the command line does.

    Args:
        quiet: warnings and errors only, no progress.
        debug: also messages of level DEBUG.
    """
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


def _is_shown() -> bool:
    return logger.isEnabledFor(logging.INFO) and any(type(h) is logging.StreamHandler for h in logger.handlers)


def _silent(done: int, text: str = "") -> None:
    """Advance nothing: nobody asked to see progress."""


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "") -> Iterator[Advance]:
    """Show a bar with rate and remaining time on a terminal, a plain line every few seconds elsewhere.

    Args:
        title: what is being done.
        total: units of work in all.
        unit: what a unit is called, e.g. ``"pictures"``.

    Yields:
        a function to call with the units finished so far and a short text.
    """
    if not _is_shown():
        yield _silent
        return
    if not sys.stderr.isatty():
        with _plain_progress(title, total, unit) as advance:
            yield advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    begin = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(title, total=total, text="", rate="")

        def advance(done: int, text: str = "") -> None:
            rate = done / max(time.monotonic() - begin, 1e-9)
            bar.update(task, completed=done, text=text, rate=f"{rate:,.0f} {unit}/s" if unit else "")

        yield advance


@contextlib.contextmanager
def _plain_progress(title: str, total: int, unit: str) -> Iterator[Advance]:
    begin = last = time.monotonic()

    def advance(done: int, text: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        rate = done / max(now - begin, 1e-9)
        remaining = (total - done) / rate if rate else 0.0
        per_second = f", {rate:,.0f} {unit}/s" if unit else ""
        figures = f", {text}" if text else ""
        logger.info("%s: %d/%d%s, %.0f s left%s", title, done, total, per_second, remaining, figures)

    yield advance
