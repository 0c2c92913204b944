"""The loss of mixed pictures: that of mixed targets, whole or in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.tasks.classification import NO_LABEL, Batch, Classification
from danlu.tasks.mixing import mixed_losses, with_partners
from danlu.train.step import add_gradients

CLASSES = 4


def _batch(count: int = 9) -> Batch:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 2, 3, 1), dtype=np.uint8)
    batch = Classification("abcd").collate(pictures, rng.integers(0, CLASSES, count), [str(i) for i in range(count)])
    return with_partners(batch, torch.from_numpy(rng.permutation(count)), torch.from_numpy(rng.random(count)).float())


def _soft(batch: Batch) -> Tensor:
    share = batch.targets["share"][:, None]
    own, other = (F.one_hot(batch.targets[name], CLASSES) for name in ("label", "partner_label"))
    return own * share + other * (1 - share)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_mixed_targets(smoothing: float) -> None:
    batch, logits = _batch(), torch.randn(9, CLASSES, generator=torch.Generator().manual_seed(1))
    found = mixed_losses(Classification("abcd", smoothing).loss_of, logits, batch.targets)
    expected = F.cross_entropy(logits, _soft(batch), label_smoothing=smoothing)
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["cross_entropy"], F.cross_entropy(logits, _soft(batch)))
    assert found["labelled"] == 9
    assert found["correct"] == (logits.argmax(1) == _soft(batch).argmax(1)).sum()


def test_the_label_with_the_larger_share_counts() -> None:
    targets = {
        "label": torch.tensor([0, 0, 0, NO_LABEL]),
        "partner_label": torch.tensor([1, 1, 1, NO_LABEL]),
        "share": torch.tensor([0.6, 0.5, 0.4, 0.9]),
    }
    task = Classification("abcd")
    for answer, right in ((0, 2), (1, 1), (2, 0)):
        logits = 5 * F.one_hot(torch.full((4,), answer), CLASSES).float()
        found = mixed_losses(task.loss_of, logits, targets)
        assert found["correct"] == right
        assert found["labelled"] == 3
    nothing = {name: value[:0] for name, value in targets.items()}
    assert mixed_losses(task.loss_of, torch.zeros(0, CLASSES), nothing)["loss"] == 0.0


def test_side_outputs_are_mixed_too() -> None:
    batch = _batch()
    logits = torch.randn(9, CLASSES, generator=torch.Generator().manual_seed(1))
    task = Classification("abcd")

    class Sided(nn.Module):
        def forward(self, pictures: Tensor) -> Any:
            return {"logits": logits, "side": 2 * logits}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danlu.tasks.classification._auxiliary_weight", lambda _: 0.3)
        found = task.loss(Sided(), batch)["loss"]
    soft = _soft(batch)
    torch.testing.assert_close(found, F.cross_entropy(logits, soft) + 0.3 * F.cross_entropy(2 * logits, soft))


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_parts_of_a_mixed_batch_give_the_gradients_of_the_whole(parts: int) -> None:
    torch.manual_seed(0)
    network, task, batch = nn.Linear(6, CLASSES), Classification("abcd", 0.1), _batch()

    class Scaled(nn.Module):
        def forward(self, pictures: Tensor) -> Any:
            return network(pictures.flatten(1).float() / 255)

    found = []
    for number in (1, parts):
        network.zero_grad()
        figures = add_gradients(lambda part: task.loss(Scaled(), part), batch, number, seed=0, step=0)
        assert network.weight.grad is not None
        found.append((network.weight.grad.clone(), figures))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-7)
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name].float(), value.detach().float())


def test_partners_are_taken_from_the_whole_batch() -> None:
    batch = _batch()
    task = Classification("abcd")
    plain = task.collate(batch.pictures.numpy(), batch.targets["label"].numpy(), batch.ids)
    partner = torch.tensor([8, 7, 6, 5, 4, 3, 2, 1, 0])
    mixed = with_partners(plain, partner, torch.full((9,), 0.7))
    assert mixed.targets["partner_label"].tolist() == plain.targets["label"].tolist()[::-1]
    assert "share" not in plain.targets
