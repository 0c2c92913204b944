"""What a kind of problem needs: its batch, its loss, its decoding, the names of its metrics."""

from __future__ import annotations

from typing import Any

from danlu.core.registry import Registry

__all__ = ["TASKS"]

TASKS: Registry[Any] = Registry("task", "danlu.tasks")
