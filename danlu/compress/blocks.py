"""Which residual blocks a network can do without: found by what they compute, not by their names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from danlu.compress.base import Subject
from danlu.compress.retrain import validate
from danlu.data.sample import Subset
from danlu.models.base import VisionModel

__all__ = ["least_blocks", "residual_blocks", "without"]

# Pictures of the validation split by which blocks are compared.
_PICTURES = 2000


def residual_blocks(model: VisionModel, shape: tuple[int, int, int]) -> list[str]:
    """Return the names of modules that add something to what they are given and pass on nothing else.

    Found by trial: with all its weights at zero such a block returns its input, where this has no negative values.

    Args:
        model: stays as it is.
        shape: [C, H, W] of a picture it takes.
    """
    twin = copy.deepcopy(model).cpu().eval()
    inputs: dict[str, Tensor] = {}
    handles = []

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            tensors = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            if tensors and args[0].shape == output.shape and name not in inputs:
                inputs[name] = torch.rand_like(args[0])

        return hook

    candidates = {
        name: module
        for name, module in twin.named_modules()
        if "." in name and any(True for _ in module.children()) and not isinstance(module, nn.Sequential)
    }
    for name, module in candidates.items():
        handles.append(module.register_forward_hook(note(name)))
    with torch.no_grad():
        twin(torch.zeros(1, *shape))
        for handle in handles:
            handle.remove()
        found: list[str] = []
        for name, x in inputs.items():
            if any(name.startswith(f"{outer}.") for outer in found):
                continue
            trial = copy.deepcopy(candidates[name])
            has_weights = False
            for parameter in trial.parameters():
                parameter.zero_()
                has_weights = True
            if has_weights and torch.equal(trial(x), x):
                found.append(name)
    return found


def least_blocks(subject: Subject, model: VisionModel, blocks: list[str], number: int) -> list[dict[str, Any]]:
    """Return the blocks, one at a time, whose absence raises the loss on validation least.

    Args:
        subject: whose validation split decides.
        model: stays as it is.
        blocks: of :func:`residual_blocks`.
        number: how many to find.

    Returns:
        rows ``{"block", "cross_entropy"}`` in the order in which they go; the loss is that without all of them so far.
    """
    pictures = subject.validation
    if len(pictures) > _PICTURES:
        pictures = Subset(pictures, np.arange(_PICTURES, dtype=np.int64))
    left, gone, rows = list(blocks), list[str](), list[dict[str, Any]]()
    for _ in range(min(number, len(blocks))):
        losses = {}
        for name in left:
            losses[name] = validate(subject, without(model, [*gone, name]), pictures)["cross_entropy"]
        best = min(left, key=lambda name: losses[name])
        left.remove(best)
        gone.append(best)
        rows.append({"block": best, "cross_entropy": losses[best]})
    return rows


def without(model: VisionModel, names: list[str]) -> VisionModel:
    """Return a copy of ``model`` with identities in the place of ``names``; it shares no weights with it."""
    from danlu.compress.edits.drop_blocks import drop_blocks

    made = copy.deepcopy(model)
    drop_blocks(made, names)
    return made
