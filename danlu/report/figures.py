"""Numbers and names as people read them: units, thousands separators, no more digits than the sample supports."""

from __future__ import annotations

import math
import unicodedata

from markupsafe import Markup, escape

__all__ = [
    "DASH",
    "clean",
    "count",
    "decimals",
    "duration",
    "error_size",
    "milliseconds",
    "name",
    "percent",
    "percent_range",
    "plain",
    "points",
    "power_of_ten",
    "ratio",
    "shape",
    "share",
    "shorten",
    "significant",
    "size",
    "svg_name",
    "width",
]

DASH = "–"
_SPACE = "\u202f"  # narrow, unbreakable: a number and its unit stay together
_JOINER = "\u2060"  # no line break after the dash of an interval
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TITLE_LIMIT = 1000
# Overrides of the writing direction would let a name rearrange the text around it.
_DIRECTION = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}


def count(value: float | None) -> str:
    """Return ``12345`` as ``12,345``."""
    return DASH if value is None else f"{round(value):,}"


def significant(value: float | None, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant ones, never in exponent form: ``0.0612``, ``1.23``, ``1,234``."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{places}f}"


def decimals(n: float | None) -> int:
    """Return how many decimals a percentage of ``n`` samples can carry: one sample is never rounded away."""
    if n is None:
        return 2
    return max(1, math.ceil(math.log10(max(n, 1))) - 2)


def percent(value: float | None, n: float | None = None) -> str:
    """Return a share as per cent, e.g. ``98.6 %`` of 360 samples and ``99.12 %`` of 10,000."""
    return DASH if value is None else f"{100 * value:.{decimals(n)}f}{_SPACE}%"


def percent_range(low: float | None, high: float | None, n: float | None = None) -> str:
    """Return an interval of shares, e.g. ``96.8–99.4 %``."""
    if low is None or high is None:
        return DASH
    places = decimals(n)
    return f"{100 * low:.{places}f}–{_JOINER}{100 * high:.{places}f}{_SPACE}%"


def points(value: float | None, n: float | None = None) -> str:
    """Return a difference of two shares in percentage points with its sign, e.g. ``−0.14``."""
    if value is None:
        return DASH
    text = f"{100 * abs(value):.{max(2, decimals(n))}f}"
    return text if float(text) == 0 else ("−" if value < 0 else "+") + text


def size(value: float | None) -> str:
    """Return bytes in decimal units: ``812 B``, ``243 kB``, ``1.08 MB``."""
    if value is None:
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return f"{count(value) if unit == 'B' else significant(value)}{_SPACE}{unit}"
        value /= 1000
    raise AssertionError("unreachable")


def milliseconds(value: float | None) -> str:
    """Return milliseconds with their unit, e.g. ``0.0612 ms``."""
    return DASH if value is None else f"{significant(value)}{_SPACE}ms"


def duration(seconds: float | None) -> str:
    """Return seconds as ``8.4 s``, ``3 min 12 s`` or ``1 h 05 min``."""
    if seconds is None:
        return DASH
    if seconds < 59.95:
        return f"{significant(seconds, 2) if seconds < 10 else f'{seconds:.0f}'}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"


def ratio(value: float | None) -> str:
    """Return a ratio such as ``3.42×``."""
    return DASH if value is None else f"{significant(value)}×"


def error_size(value: float | None) -> str:
    """Return a small positive number in powers of ten, e.g. ``3.1 × 10⁻⁷``."""
    if value is None:
        return DASH
    if value == 0 or 0.01 <= abs(value) < 1000:
        return significant(value, 2)
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}{_SPACE}×{_SPACE}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def plain(value: object) -> str:
    """Return a value of a record as short text: numbers to four digits, lists joined, ``–`` for nothing."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "[]"
    if isinstance(value, dict):
        return " ".join(f"{key}={plain(item)}" for key, item in value.items()) or "{}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return str(value)


def share(value: float | None) -> str:
    """Return a share as whole per cent; what is neither nothing nor all never reads ``0 %`` or ``100 %``."""
    if value is None:
        return DASH
    if 0 < value < 0.005 or 0.995 <= value < 1:
        return f"{'<' if value < 0.5 else '>'}{1 if value < 0.5 else 99}{_SPACE}%"
    return f"{100 * value:.0f}{_SPACE}%"


def power_of_ten(value: float) -> str:
    """Return the label of a logarithmic axis: plain from 0.001 to 1000, else ``10⁻⁵``, or ``2 × 10⁻⁵``."""
    if 0.00099 < value < 1001:
        return significant(value, 1)
    mantissa, exponent = f"{value:.0e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if mantissa == "1" else f"{mantissa}{_SPACE}×{_SPACE}{power}"


def shape(values: object) -> str:
    """Return a tensor's shape as ``1 × 6 × 28 × 28``."""
    return " × ".join(str(value) for value in values) if isinstance(values, list | tuple) and values else DASH


def clean(text: str) -> str:
    """Return ``text`` in which each control character, direction override and lone surrogate is a visible ``�``;
    line ends and tabs become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if letter in "\t\n\r" else "�" if _is_hidden(letter) else letter for letter in text)


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs") or ord(letter) in _DIRECTION


def width(text: str) -> int:
    """Return how many columns ``text`` takes: 2 for a wide letter, 0 for a combining one."""
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def shorten(text: str, limit: int) -> str:
    """Return ``text`` cut to ``limit`` columns with ``…``; a letter keeps the marks that belong to it."""
    text = clean(text[: 20 * limit])
    if width(text) <= limit:
        return text
    used, end = 0, 0
    for position, letter in enumerate(text):
        used += _columns(letter)
        if used > limit - 1:
            break
        end = position + 1
    return text[:end].rstrip("\u200d ") + "…"


def name(text: object, limit: int = 40) -> Markup:
    """Return a name from outside as markup: escaped, isolated from the direction of the text around it, cut to
    ``limit`` columns with the whole name (up to 1,000 characters) as its title.
    """
    if text is None:
        return Markup(DASH)
    whole = str(text) or '""'
    short = shorten(whole, limit)
    if short == whole:
        return Markup("<bdi>{}</bdi>").format(short)
    title = clean(whole[:_TITLE_LIMIT]) + (f"… ({len(whole):,})" if len(whole) > _TITLE_LIMIT else "")
    return Markup('<bdi title="{}">{}</bdi>').format(title, escape(short))


def svg_name(text: str, limit: int) -> Markup:
    """Return a name for the inside of an SVG ``<text>``: as :func:`name`, with a ``<title>`` where it was cut."""
    short = shorten(text, limit)
    if short == text:
        return Markup("{}").format(short)
    return Markup("{}<title>{}</title>").format(short, clean(text[:_TITLE_LIMIT]))
