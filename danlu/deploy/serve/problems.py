"""What is wrong with a request, as one kind of error and one kind of document (RFC 9457). Standard library only."""

from __future__ import annotations

import http
import json
import math
from typing import Any

from danlu.core.errors import InputError

__all__ = ["CONTENT_TYPE", "Problem", "problem_of", "unexpected"]

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """A request that is answered with an error document.

    Args:
        status: of the answer.
        detail: what is wrong, with the offending value.
        where: header, field or picture it was found in.
        allowed: the allowed values.
        mend: what to do about it.
        retry_after: seconds after which the same request may be let in.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        where: str | None = None,
        allowed: list[str] | None = None,
        mend: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.where, self.allowed, self.mend = status, detail, where, allowed, mend
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))

    def document(self) -> dict[str, Any]:
        """Return the error document: ``type``, ``title``, ``status``, ``detail``, and what is known beside them."""
        told = {"where": self.where, "allowed": self.allowed, "mend": self.mend}
        title = http.HTTPStatus(self.status).phrase
        document: dict[str, Any] = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
        return document | {key: value for key, value in told.items() if value is not None}

    def body(self) -> bytes:
        """Return the error document as JSON."""
        # Plain ASCII, so that no name, however strange, can be read as anything but text.
        return json.dumps(self.document(), allow_nan=False).encode("ascii")


def unexpected(error: Exception) -> Problem:
    """Return what a client is told of an error of ours: its kind, and nothing of what it says."""
    return Problem(500, f"internal error ({type(error).__name__})")


def problem_of(error: InputError, status: int = 400) -> Problem:
    """Return bad input as a problem of the request."""
    return Problem(status, error.what, where=error.where, allowed=error.allowed, mend=error.mend)
