"""What executes an artifact: one runtime a file. Each loads, predicts and says which precision was really executed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from danlu.core.registry import Registry

__all__ = ["RUNTIMES", "Runtime"]

R = TypeVar("R", bound="Runtime")


class Runtime(Protocol):
    """An artifact, ready to answer.

    Attributes:
        name: what it is called in ``RUNTIMES``.
        threads: how many threads one prediction uses.
        metadata: the artifact's metadata entries.
    """

    name: str
    threads: int
    metadata: dict[str, str]

    @classmethod
    def load(cls: type[R], source: Path | bytes, *, threads: int | None = None) -> R:
        """Load an artifact from its file or its bytes; ``threads`` is the number of usable cores when not given.

        Raises:
            InputError: it cannot be loaded.
        """
        ...

    def predict(self, pictures: NDArray[np.uint8], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return the named outputs (all when not given) for uint8 pictures [B, H, W, C].

        Raises:
            InputError: pictures of another type or number of channels, or an unknown output.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return runtime, version, provider, threads and the ``precision`` that was really executed."""
        ...


RUNTIMES: Registry[type[Runtime]] = Registry("runtime", "danlu.deploy.runtimes")
