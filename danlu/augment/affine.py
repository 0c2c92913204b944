"""Affine: turn, shift, scale and shear of one picture drawn together, one matrix and one resampling."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Resampled
from danlu.augment.matrices import affine_matrices

__all__ = ["Affine"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Angle = Annotated[float, Field(ge=0.0, lt=90.0)]
Factor = Annotated[float, Field(gt=0.0, le=100.0)]


class Affine(Resampled):
    """All of them in one, in the order shear, scale, turn, shift.

    Args:
        degrees: turn by up to this each way.
        translate: shift by up to these shares of (width, height) each way, in whole pixels.
        scale: least and greatest factor.
        shear: slant by up to these degrees along (rows, columns) each way.
    """

    degrees: float = Field(default=15.0, ge=0.0, le=180.0)
    translate: tuple[Share, Share] = (0.1, 0.1)
    scale: tuple[Factor, Factor] = (0.9, 1.1)
    shear: tuple[Angle, Angle] = (5.0, 0.0)

    @model_validator(mode="after")
    def _ordered(self) -> Affine:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale is (least, greatest)")
        return self

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3], each of parameters drawn uniformly."""
        x = np.rint(draws.between(-1.0, 1.0, "x") * self.translate[0] * sizes[:, 1])
        y = np.rint(draws.between(-1.0, 1.0, "y") * self.translate[1] * sizes[:, 0])
        slant_x, slant_y = (draws.between(-limit, limit, f"shear-{k}") for k, limit in enumerate(self.shear))
        return affine_matrices(
            sizes,
            angle=draws.between(-self.degrees, self.degrees, "angle"),
            translate=(x, y),
            scale=draws.between(*self.scale, "scale"),
            shear=(slant_x, slant_y),
        )


AUGMENTATIONS.register("affine", Affine, __name__, title="turn, shift, scale and shear in one", geometric=True)
