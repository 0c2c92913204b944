"""Grayscale: a share of the pictures loses its colours and keeps its channels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.colours import to_grey
from danlu.augment.pixelwise import Coloured

__all__ = ["Grayscale"]


class Grayscale(Coloured):
    """0.2989 R + 0.587 G + 0.114 B in every channel."""

    probability: float = Field(default=0.1, ge=0.0, le=1.0)

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures in grey."""
        return to_grey(pictures)


AUGMENTATIONS.register("grayscale", Grayscale, __name__, title="in grey, channels kept", geometric=False)
