"""What every registered model promises: each check of ``danlu models check``, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from danlu.models import MODELS, create_model, list_models
from danlu.proof import CHECKS

# An export takes seconds: the deeper ones differ from resnet20 in the number of blocks alone.
EXPORTED = ("lenet5", "resnet20")


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("check", [check for check in CHECKS if check != "onnx"])
def test_check(name: str, check: str) -> None:
    torch.manual_seed(0)
    CHECKS[check](MODELS.get(name))


@pytest.mark.parametrize("name", EXPORTED)
def test_onnx(name: str) -> None:
    torch.manual_seed(0)
    CHECKS["onnx"](MODELS.get(name))


@pytest.mark.parametrize("name", list_models())
def test_facts_of_the_index(name: str) -> None:
    variant = MODELS.get(name)
    facts = {key: value for key, value in MODELS.index[name].items() if key != "module"}
    assert facts == variant.facts()
    assert facts["paper"].endswith(str(facts["year"]))
    assert facts["link"].startswith("https://")
    assert variant.source


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """512 real digits [512, 1, 8, 8], scaled to [-1, 1], and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = torch.from_numpy(digits.images[:512].astype(np.float32) / 8 - 1)[:, None]
    return pictures, torch.from_numpy(digits.target[:512])


@pytest.mark.parametrize(("name", "size", "rate", "epochs"), [("lenet5", 32, 0.02, 6), ("resnet20", 8, 0.1, 8)])
def test_it_learns(name: str, size: int, rate: float, epochs: int) -> None:
    """From its own initialisation it fits 512 real pictures: what a wrong initialisation or a dead branch cannot."""
    torch.manual_seed(0)
    pictures, labels = _digits()
    pictures = F.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)
    model = create_model(name, in_channels=1)
    with torch.no_grad():
        start = float(F.cross_entropy(model.eval()(pictures), labels))
    # Logits of a fresh network are small enough that it is not sure of anything.
    assert start < 6.0
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True)
    for _ in range(epochs):
        for chosen in torch.randperm(512).split(32):
            loss = F.cross_entropy(model(pictures[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        logits = model.eval()(pictures)
    assert float((logits.argmax(1) == labels).float().mean()) >= 0.97
