"""Registries that find things by their folder, refuse duplicates, and can be listed without importing what they hold.

A registry owns one package. Each module of that package registers its things when it is imported. An ``index.json``
beside the package's ``__init__`` says which module holds which name, with a few plain facts, so that ``list``, the
nearest names and ``--help`` need neither the modules nor torch. ``python -m danlu.core.registry`` writes the indexes;
a test says when one is stale. Entry points of the group named after the package add what users install.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from danlu.core.errors import InputError, nearest_names

__all__ = ["PACKAGES", "Registry"]

T = TypeVar("T")

# Package -> the name of its Registry object; what `python -m danlu.core.registry` indexes.
PACKAGES = {
    "danlu.data.formats": "FORMATS",
    "danlu.augment": "AUGMENTATIONS",
    "danlu.models": "MODELS",
    "danlu.metrics": "METRICS",
    "danlu.tasks": "TASKS",
    "danlu.train.recipes": "RECIPES",
    "danlu.compress": "METHODS",
    "danlu.compress.edits": "EDITS",
    "danlu.deploy.runtimes": "RUNTIMES",
}


class Registry(Generic[T]):
    """Named things of one kind, found in one package.

    Args:
        kind: what one thing is called in messages, e.g. ``"model"``.
        package: the package whose modules register, e.g. ``"danlu.models"``.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._things: dict[str, T] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    def register(self, name: str, thing: T, module: str, **facts: Any) -> T:
        """Add ``thing`` under ``name``; ``facts`` are plain values that go into the index.

        Raises:
            ValueError: the name is taken by another module.
        """
        if name in self._facts and self._facts[name]["module"] != module:
            raise ValueError(f"{self.kind} {name!r} is registered by {self._facts[name]['module']} and by {module}")
        if name in self._things and self._things[name] is not thing and not _reloaded(self._things[name], thing):
            raise ValueError(f"{self.kind} {name!r} is registered twice in {module}")
        self._things[name] = thing
        self._facts[name] = {"module": module, **facts}
        return thing

    @property
    def index_path(self) -> Path:
        """Where the index lies: ``index.json`` in the package's folder."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(f"{self.package} is no package")
        return Path(spec.submodule_search_locations[0]) / "index.json"

    @cached_property
    def index(self) -> dict[str, dict[str, Any]]:
        """Name -> ``{"module": …, facts…}`` of everything shipped and installed, sorted; imports none of it."""
        import importlib.metadata  # costs as much as Pillow, and a prediction asks for no name

        found: dict[str, dict[str, Any]] = json.loads(self.index_path.read_text(encoding="utf-8"))
        for point in importlib.metadata.entry_points(group=self.package):
            if point.name in found:
                raise ValueError(f"{self.kind} {point.name!r} of {point.value} is already taken by {self.package}")
            found[point.name] = {"module": point.value.partition(":")[0]}
        return {**found, **{name: facts for name, facts in self._facts.items() if name not in found}}

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self.index)

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Other name -> name, of what has other names."""
        found: dict[str, str] = {}
        for name, facts in self.index.items():
            for alias in facts.get("aliases", ()):
                if alias in self.index or alias in found:
                    raise ValueError(f"{self.kind} {name!r} has the other name {alias!r}, which is taken")
                found[alias] = name
        return found

    def check(self, name: str, where: str | None = None) -> str:
        """Return the name of what is called ``name``, which may be one of its other names.

        Raises:
            InputError: it is not; the message holds the nearest and the allowed names.
        """
        if name not in self.index and name not in self.aliases:
            raise InputError(
                f"unknown {self.kind} {name!r}",
                where=where,
                nearest=nearest_names(name, [*self.index, *self.aliases]),
                allowed=self.names(),
            )
        return self.aliases.get(name, name)

    def get(self, name: str, where: str | None = None) -> T:
        """Return the thing called ``name``, importing its module.

        Raises:
            InputError: the name is unknown.
        """
        name = self.check(name, where) if name not in self._things else name
        if name not in self._things:
            importlib.import_module(self.index[name]["module"])
        return self._things[name]

    def build_index(self) -> dict[str, dict[str, Any]]:
        """Import every module of the package and return the index of what they registered."""
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, self.package + "."):
            importlib.import_module(module.name)
        shipped = {n: f for n, f in self._facts.items() if f["module"].startswith(self.package + ".")}
        return {name: shipped[name] for name in sorted(shipped)}


def _reloaded(old: object, new: object) -> bool:
    return getattr(old, "__qualname__", None) == getattr(new, "__qualname__", "")


def index_text(index: dict[str, dict[str, Any]]) -> str:
    """Return the text of an ``index.json``: one line a name, so that changes read well."""
    rows = [f"  {json.dumps(name)}: {json.dumps(facts, ensure_ascii=False)}" for name, facts in index.items()]
    return "{\n" + ",\n".join(rows) + "\n}\n" if rows else "{}\n"


def main() -> None:
    """Write the index of every package in :data:`PACKAGES`."""
    for package, attribute in PACKAGES.items():
        registry: Registry[Any] = getattr(importlib.import_module(package), attribute)
        registry.index_path.write_text(index_text(registry.build_index()), encoding="utf-8")


if __name__ == "__main__":
    main()
