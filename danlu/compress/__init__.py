"""Make a network smaller or faster: one method a file. What a method claims is measured, on disk and on validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from danlu.core.registry import Registry

__all__ = ["METHODS"]

METHODS: Registry[Callable[..., Any]] = Registry("compression method", "danlu.compress")
