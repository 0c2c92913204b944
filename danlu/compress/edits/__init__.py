"""What compression changes in a network's structure, as data: a registered name and plain JSON arguments.

A coded file names the network as ``create_model`` knows it and the edits that follow, in order. Each edit is a function
``(model, **arguments)`` that changes a freshly created network in place, looks at no weights, and refuses arguments
that do not fit with :class:`danlu.core.errors.InputError`. One edit a file; files hold names only, never code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from danlu.core.errors import InputError
from danlu.core.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EDITS", "Edit", "apply_edits"]

EDITS: Registry[Callable[..., None]] = Registry("edit", "danlu.compress.edits")


@dataclass(frozen=True)
class Edit:
    """One change of structure: the name of a registered edit, and its arguments as plain JSON values."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        """Return ``[name, arguments]``."""
        return [self.name, dict(self.arguments)]

    @classmethod
    def from_json(cls, document: Any, where: str) -> Edit:
        """Return the edit that :meth:`to_json` wrote.

        Raises:
            InputError: it is none, or of an unknown name.
        """
        match document:
            case [str(name), dict(arguments)]:
                return cls(EDITS.check(name, where), arguments)
        raise InputError(f"{str(document)[:80]!r} is no edit [name, arguments]", where=where)


def apply_edits(model: nn.Module, edits: Iterable[Edit], where: str = "edits") -> None:
    """Apply ``edits`` to ``model`` in their order.

    Raises:
        InputError: an edit does not fit the network.
    """
    for edit in edits:
        change = EDITS.get(edit.name, where)
        try:
            change(model, **edit.arguments)
        except InputError as error:
            raise InputError(f"edit {edit.name}: {error.what}", where=error.where or where) from error
        except (TypeError, AttributeError, KeyError, IndexError, ValueError, RuntimeError, ArithmeticError) as error:
            raise InputError(f"edit {edit.name} does not fit {type(model).__name__}: {error}", where=where) from error
