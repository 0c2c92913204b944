"""Recipes: functions that return the settings of a training, with what they reach, what they cost and on what.

A recipe is called with the number of training pictures and returns a frozen
:class:`danlu.train.settings.TrainConfig`. The one for the data and the model is found by the facts it registers;
``default`` stands for all others. To add one, add a file here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from danlu.core.registry import Registry

if TYPE_CHECKING:
    from danlu.train.settings import TrainConfig

__all__ = ["RECIPES"]

RECIPES: Registry[Callable[[int], TrainConfig]] = Registry("recipe", "danlu.train.recipes")
