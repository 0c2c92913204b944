"""A package that can be called like the function it is named after.

``danlu.train`` is a room of the house and, for users, a function. Importing the room binds the module to that name, so
the module itself takes calls and hands them to its function; attribute access stays as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["make_callable"]


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(module_name: str) -> None:
    """Let the module ``a.b`` be called: ``a.b(…)`` is ``a.b.b(…)``. Call it at the module's end."""
    sys.modules[module_name].__class__ = _CallableModule
