"""The web page's own files, read once; a path that is none of them leads nowhere. Standard library only."""

from __future__ import annotations

import hashlib
import importlib.resources
from dataclasses import dataclass

__all__ = ["Asset", "Site", "language_of"]

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_ENGLISH, _CHINESE = '<html lang="en" data-lang="en">', '<html lang="zh-Hans" data-lang="zh">'


@dataclass(frozen=True)
class Asset:
    """A file of the page: its bytes, content type and entity tag."""

    data: bytes
    kind: str
    tag: str


class Site:
    """All files of the page, in memory."""

    def __init__(self) -> None:
        self._assets: dict[tuple[str, str], Asset] = {}
        for path, (name, kind) in _FILES.items():
            data = importlib.resources.files(__package__).joinpath("page", name).read_bytes()
            self._assets[path, "en"] = self._assets[path, "zh"] = _asset(data, kind)
            if path == "/":
                if _ENGLISH.encode() not in data:
                    raise AssertionError("the page does not say its language")
                self._assets[path, "zh"] = _asset(data.replace(_ENGLISH.encode(), _CHINESE.encode()), kind)

    @property
    def paths(self) -> list[str]:
        """The paths the page's files stand under."""
        return list(_FILES)

    def asset(self, path: str, accept_language: str | None) -> Asset:
        """Return a file; the page itself in the language the reader prefers."""
        return self._assets[path, language_of(accept_language)]


def _asset(data: bytes, kind: str) -> Asset:
    return Asset(data, kind, f'"{hashlib.sha256(data).hexdigest()[:16]}"')


def language_of(header: str | None) -> str:
    """Return ``zh`` where ``Accept-Language`` prefers Chinese to English, else ``en``."""
    best: dict[str, float] = {}
    for part in (header or "").lower().split(",")[:20]:
        tag, _, weight = part.partition(";q=")
        name = tag.strip().partition("-")[0]
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            value = 0.0
        if name in ("zh", "en"):
            best[name] = max(value, best.get(name, 0.0))
    return "zh" if best.get("zh", 0.0) > best.get("en", 0.0) else "en"
