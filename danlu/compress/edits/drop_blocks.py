"""Leave out residual blocks: what such a block adds is gone, what it passes on stays."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from danlu.compress.edits import EDITS
from danlu.core.errors import InputError

__all__ = ["drop_blocks"]


def drop_blocks(model: nn.Module, names: Sequence[str]) -> None:
    """Put an identity in the place of each named module.

    Args:
        model: changed in place.
        names: of modules whose input and output have one shape.

    Raises:
        InputError: no such module, or the network itself.
    """
    found = dict(model.named_modules())
    for name in names:
        owner, _, own = name.rpartition(".")
        if not name or name not in found:
            raise InputError(f"{name!r} is no module of this network")
        setattr(found[owner], own, nn.Identity())


EDITS.register("drop_blocks", drop_blocks, __name__, title="residual blocks left out")
