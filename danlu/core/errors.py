"""Errors a user can act on: what is wrong, where, what is allowed, the nearest name, how to mend it.

Exit codes of the command line: 0 done; 1 a check failed; 2 bad input; 70 internal error; 130 and 143 stopped by SIGINT
and SIGTERM.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["CheckFailed", "DanluError", "InputError", "Stopped", "nearest_names"]


class DanluError(Exception):
    """Base of all errors that are reported as one message instead of a traceback."""

    exit_code = 70


class InputError(DanluError, ValueError):
    """Bad input: a name, path, file or setting the user can correct (exit code 2).

    Args:
        what: what is wrong, with the offending value.
        where: file, line, key or option it was found in.
        allowed: the allowed values; long lists are shortened in the message.
        nearest: names close to the one given (see :func:`nearest_names`).
        mend: what to do about it.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        allowed: Iterable[object] | None = None,
        nearest: Iterable[str] = (),
        mend: str | None = None,
    ) -> None:
        self.what, self.where, self.mend = what, where, mend
        self.allowed = None if allowed is None else [str(value) for value in allowed]
        self.nearest = list(nearest)
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.what if self.where is None else f"{self.where}: {self.what}"]
        if self.nearest:
            lines.append("  did you mean: " + ", ".join(self.nearest) + "?")
        if self.allowed is not None:
            shown = self.allowed[:20]
            rest = f", … ({len(self.allowed) - 20} more)" if len(self.allowed) > 20 else ""
            lines.append("  allowed: " + (", ".join(shown) + rest if shown else "nothing"))
        if self.mend:
            lines.append("  mend: " + self.mend)
        return "\n".join(lines)


class CheckFailed(DanluError):
    """A check the user asked for did not hold, e.g. an export out of tolerance (exit code 1)."""

    exit_code = 1


class Stopped(DanluError):
    """Work ended early by a signal, after its state was saved (exit code 128 + signal number)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def nearest_names(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to ``limit`` of ``names`` that are spelt like ``name``, nearest first."""
    by_folded = {candidate.lower().replace("_", "-"): candidate for candidate in names}
    folded = name.lower().replace("_", "-")
    return [by_folded[key] for key in difflib.get_close_matches(folded, by_folded, n=limit, cutoff=0.55)]
