"""It learns: from its own initialisation a network fits 512 real pictures, what a wrong initialisation cannot."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.core.errors import CheckFailed
from danlu.data.catalog import is_present
from danlu.data.load import load_data
from danlu.models.base import Learning, Variant
from danlu.proof.parity import logits_of

__all__ = ["ACCURACY", "learns", "real_pictures"]

ACCURACY = 0.95
PICTURES = 512
CLASSES = 10
_EVERY = 8

# Variants that learn as the same twin are shown once a process.
_shown: dict[str, dict[str, Any]] = {}


@cache
def real_pictures(name: str, size: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return the first 512 training pictures of a data set, normalised [512, C, size, size], and their labels [512]."""
    data = load_data(name, channels=channels)
    samples = [data.train[index] for index in range(PICTURES)]
    pictures = torch.from_numpy(np.stack([np.asarray(sample.picture) for sample in samples])).permute(0, 3, 1, 2)
    x = pictures.float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    x = F.interpolate((x - mean) / std, size=(size, size), mode="bilinear", antialias=True)
    return x, torch.tensor([int(sample.targets["label"]) for sample in samples])


def learns(variant: Variant) -> dict[str, Any]:
    """Train the variant, or its narrower twin, on 512 real pictures until 95 % of them are classified rightly.

    Returns:
        ``accuracy`` in eval mode, ``steps`` taken of at most ``limit``, and what it was trained as; ``skipped`` and why
        where the data set is not on this machine.

    Raises:
        CheckFailed: not within the stated number of steps.
    """
    how = variant.learning
    if not is_present(how.data):
        return {"skipped": f"{how.data} is not on this machine: danlu data get {how.data}"}
    twin = variant.twin()
    said = {"data": how.data, "size": how.size, "limit": how.steps, "arguments": _plain(how.arguments)}
    key = json.dumps([variant.model.__qualname__, _plain(twin.arguments), variant.input[0], repr(how)])
    if key not in _shown:
        _shown[key] = _fit(twin, how)
    if _shown[key]["accuracy"] < ACCURACY:
        raise CheckFailed(
            f"{100 * _shown[key]['accuracy']:.1f} % of {PICTURES} pictures after {how.steps} steps, "
            f"{100 * ACCURACY:.0f} % expected"
        )
    return {**_shown[key], **said}


def _fit(twin: Variant, how: Learning) -> dict[str, Any]:
    torch.manual_seed(0)
    x, labels = real_pictures(how.data, how.size, twin.input[0])
    model = twin.build(num_classes=CLASSES)
    start = float(F.cross_entropy(_logits(model, x), labels))
    # A fresh network is not sure of anything.
    if not start < 6.0:
        raise CheckFailed(f"cross-entropy {start:.1f} before the first step: the initialisation is too large")
    optimizer: torch.optim.Optimizer
    if how.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=how.rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=how.rate, momentum=0.9, nesterov=True)
    step, accuracy = 0, 0.0
    while step < how.steps and accuracy < ACCURACY:
        for chosen in torch.split(torch.randperm(PICTURES), how.batch):
            outputs = logits_of(model.train()(x[chosen]))
            loss = F.cross_entropy(outputs.pop("logits"), labels[chosen])
            for side in outputs.values():
                loss = loss + model.auxiliary_weight * F.cross_entropy(side, labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step % _EVERY == 0 or step == how.steps:
                accuracy = float((_logits(model, x).argmax(1) == labels).float().mean())
                if step >= how.steps or accuracy >= ACCURACY:
                    break
    return {"accuracy": accuracy, "steps": step, "loss_at_start": round(start, 3)}


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([logits_of(model(part))["logits"] for part in torch.split(x, 128)])


def _plain(arguments: Any) -> Any:
    return json.loads(json.dumps(dict(arguments), default=lambda value: getattr(value, "__name__", str(value))))
