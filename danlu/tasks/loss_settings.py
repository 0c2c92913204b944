"""The settings of the losses in ``losses.py``; apart from them, so that settings are checked without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from danlu.core.settings import Settings

__all__ = ["LossSettings"]


class LossSettings(Settings):
    """How far logits are from labels.

    Attributes:
        kind: ``softmax``: cross-entropy over classes that exclude one another; ``sigmoid``: the sum over classes of the
            binary cross-entropy of "it is this class" (Beyer et al. 2020, Wightman et al. 2021).
        focal: γ of Lin et al. 2017: a term of probability p for what is true counts (1 - p)^γ times; 0: not at all.
        class_weights: each picture's loss times its class's weight. ``inverse``: pictures / (classes · pictures of the
            class); ``effective``: (1 - β) / (1 - βⁿ) for n pictures of the class, scaled to a mean of 1 over classes
            (Cui et al. 2019); or K numbers in the order of the classes.
        beta: β of ``effective``.
    """

    kind: Literal["softmax", "sigmoid"] = "softmax"
    focal: float = Field(default=0.0, ge=0.0, le=20.0)
    class_weights: Literal["none", "inverse", "effective"] | tuple[float, ...] = "none"
    beta: float = Field(default=0.999, ge=0.0, lt=1.0)

    @field_validator("class_weights")
    @classmethod
    def _weights(cls, value: str | tuple[float, ...]) -> str | tuple[float, ...]:
        if not isinstance(value, str) and (min(value, default=0.0) < 0.0 or sum(value) <= 0.0):
            raise ValueError("weights must not be negative, and not all 0")
        return value

    @model_validator(mode="after")
    def _agree(self) -> LossSettings:
        if self.beta != type(self).model_fields["beta"].default and self.class_weights != "effective":
            raise ValueError(f"loss.beta = {self.beta} is for loss.class_weights = effective alone")
        return self
