"""PCA lighting: each picture is lit along the main directions in which the colours of ImageNet vary.

Source: Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks (2012),
section 4.1. The paper prints no numbers; the defaults are those of ``datasets/imagenet.lua`` in Facebook's
fb.resnet.torch (2016), from which most later code took them, for levels in [0, 1].
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.colours import shift_channels
from danlu.augment.distributions import normal
from danlu.augment.pixelwise import Coloured
from danlu.core.errors import InputError

__all__ = ["PCALighting"]

Variance = Annotated[float, Field(ge=0.0)]
Row = tuple[float, float, float]


class PCALighting(Coloured):
    """Add ``Σ αᵢ · eigenvalueᵢ · eigenvectorᵢ`` to all pixels, αᵢ normal with mean 0 and standard ``deviation``.

    Args:
        deviation: of the three α; 0.1 in the paper.
        eigenvalues: of the three directions, as they multiply α, for levels in [0, 1].
        eigenvectors: rows are red, green, blue; columns the directions.
    """

    deviation: float = Field(default=0.1, ge=0.0, le=10.0)
    eigenvalues: tuple[Variance, Variance, Variance] = (0.2175, 0.0188, 0.0045)
    eigenvectors: tuple[Row, Row, Row] = (
        (-0.5675, 0.7192, 0.4009),
        (-0.5808, -0.0045, -0.8140),
        (-0.5836, -0.6948, 0.4203),
    )

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return [B, 3]: what is added to red, green and blue, in levels of 255."""
        alphas = [self.deviation * normal(draws, f"alpha-{k}") for k in range(3)]
        lit = [alpha * value for alpha, value in zip(alphas, self.eigenvalues, strict=True)]
        # Written out rather than as a matrix product, whose rounding may depend on the batch size.
        rows = [sum(part * weight for part, weight in zip(lit, row, strict=True)) for row in self.eigenvectors]
        return 255.0 * np.stack([np.asarray(row) for row in rows], axis=1)

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures lit by ``values`` [n, 3]; grey ones (one channel) have no colour and stay as they are."""
        if pictures.shape[3] == 1:
            return pictures.clone()
        if pictures.shape[3] != 3:
            raise InputError(
                f"{pictures.shape[3]} channels are no colour", where="augment, pca_lighting", allowed=["3"]
            )
        return shift_channels(pictures, values)


AUGMENTATIONS.register(
    "pca_lighting", PCALighting, __name__, title="lit along ImageNet's colour directions", geometric=False
)
