"""What brightness, contrast and saturation share: one factor a picture around 1, and an adjustment that takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment.base import Draws
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Factor"]


class Factor(Pixelwise):
    """Adjust by a factor between 1 - ``amount`` and 1 + ``amount``; 1 changes nothing."""

    # (uint8 pictures [n, H, W, C], factors [n]) -> pictures; in a tuple, so that it is no method.
    adjust: ClassVar[tuple[Callable[[torch.Tensor, NDArray[np.float64]], torch.Tensor]]]

    amount: float = Field(default=0.4, ge=0.0, le=10.0)

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the factors [B], uniform in [1 - amount, 1 + amount) and never below 0."""
        return draws.between(max(0.0, 1.0 - self.amount), 1.0 + self.amount, "factor")

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures adjusted by the factors ``values`` [n]."""
        return self.adjust[0](pictures, values)
