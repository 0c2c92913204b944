"""The losses against their formulas in double precision, and against torchvision's and torch's own."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from danlu.core.errors import InputError
from danlu.core.settings import make_settings
from danlu.tasks.classification import NO_LABEL, Classification
from danlu.tasks.loss_settings import LossSettings
from danlu.tasks.losses import class_weights, label_losses

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(9, 4, dtype=torch.float64, generator=GENERATOR)
LABEL = torch.randint(0, 4, (9,), generator=GENERATOR)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)


def test_softmax_is_torchs_cross_entropy() -> None:
    for smoothing in (0.0, 0.1):
        found = label_losses(LOGITS, LABEL, LossSettings(), smoothing)
        expected = F.cross_entropy(LOGITS, LABEL, reduction="none", label_smoothing=smoothing)
        assert torch.allclose(found, expected, rtol=1e-12)


def test_focal_softmax_is_the_formula() -> None:
    """-(1 - p)^γ log p of equation 4."""
    p = LOGITS.softmax(1)[torch.arange(9), LABEL]
    found = label_losses(LOGITS, LABEL, LossSettings(focal=2.0))
    assert torch.allclose(found, -((1 - p) ** 2) * p.log(), rtol=1e-10)


def test_sigmoid_is_torchs_binary_cross_entropy_and_torchvisions_focal() -> None:
    target = F.one_hot(LABEL, 4).double()
    plain = label_losses(LOGITS, LABEL, LossSettings(kind="sigmoid"))
    assert torch.allclose(plain, F.binary_cross_entropy_with_logits(LOGITS, target, reduction="none").sum(1))
    focal = label_losses(LOGITS, LABEL, LossSettings(kind="sigmoid", focal=1.5))
    assert torch.allclose(focal, sigmoid_focal_loss(LOGITS, target, alpha=-1, gamma=1.5).sum(1), rtol=1e-10)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_each_loss_has_the_gradient_of_its_finite_differences(kind: str) -> None:
    settings = make_settings(LossSettings, {"kind": kind, "focal": 2.0}, "test")
    x = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: label_losses(x, LABEL, settings, 0.1, WEIGHTS), (x,))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [17.0, 60.0, 200.0])
def test_a_perfect_answer_has_a_finite_gradient(kind: Literal["softmax", "sigmoid"], size: float) -> None:
    x = torch.tensor([[size, -size]], requires_grad=True)
    label_losses(x, torch.tensor([0]), LossSettings(kind=kind, focal=0.5)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_class_weights() -> None:
    labels = torch.tensor([0] * 90 + [1] * 9 + [2] + [NO_LABEL] * 3)
    assert class_weights(LossSettings(), labels, 3) is None
    inverse = class_weights(LossSettings(class_weights="inverse"), labels, 3)
    assert inverse is not None
    assert inverse.tolist() == pytest.approx([100 / 270, 100 / 27, 100 / 3])
    effective = class_weights(LossSettings(class_weights="effective", beta=0.9), labels, 3)
    assert effective is not None
    raw = np.array([(1 - 0.9) / (1 - 0.9**n) for n in (90, 9, 1)])
    assert effective.tolist() == pytest.approx((raw * 3 / raw.sum()).tolist())
    given = class_weights(LossSettings(class_weights=(1.0, 0.0, 2.0)), labels, 3)
    assert given is not None
    assert given.tolist() == [1.0, 0.0, 2.0]
    with pytest.raises(InputError, match="3 weights for 4 classes"):
        class_weights(LossSettings(class_weights=(1.0, 0.0, 2.0)), labels, 4)
    for wrong in ([-1.0, 2.0], [0.0, 0.0], []):
        with pytest.raises(InputError, match="must not be negative"):
            make_settings(LossSettings, {"class_weights": wrong}, "test")


def test_the_task_leaves_unlabelled_pictures_out_and_parts_add_up() -> None:
    task = Classification("abcd", 0.1, LossSettings(kind="sigmoid", focal=1.0), WEIGHTS)
    label = LABEL.clone()
    label[2] = NO_LABEL
    whole = task.loss_of(LOGITS, label)
    there = label != NO_LABEL
    expected = label_losses(LOGITS[there], label[there], LossSettings(kind="sigmoid", focal=1.0), 0.1, WEIGHTS)
    assert torch.allclose(whole["loss"], expected.mean())
    assert torch.allclose(whole["cross_entropy"], F.cross_entropy(LOGITS[there], label[there]))
    parts = [task.loss_of(LOGITS[part], label[part]) for part in (slice(0, 4), slice(4, 9))]
    together = sum(part["loss"] * part["labelled"] for part in parts) / whole["labelled"]
    assert torch.allclose(torch.as_tensor(together), whole["loss"])
