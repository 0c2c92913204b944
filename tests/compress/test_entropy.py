"""Trained to be coded: whole steps, gradients that are the ones of the papers, a price that makes files smaller."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from danlu.compress import compress
from danlu.compress.entropy import Stepped, soft_loss
from danlu.compress.share import replace_weight
from danlu.tasks.preprocess import PictureModel, Preprocess
from tests.compress.networks import few_digits, network_run


def stepped(values: torch.Tensor, step: float) -> tuple[nn.Linear, Stepped]:
    layer = nn.Linear(values.shape[1], values.shape[0], bias=False)
    one = Stepped(values, step)
    replace_weight(layer, "weight", one)
    return layer, one


def test_weights_are_whole_steps_and_gradients_go_straight_through() -> None:
    layer, one = stepped(torch.tensor([[0.24, 0.26, -1.3, 80.0]]), 0.5)
    assert torch.allclose(layer.weight, torch.tensor([[0.0, 0.5, -1.5, 63.5]]))
    gradient = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    (layer.weight * gradient).sum().backward()
    assert one.latent.grad is not None
    assert torch.equal(one.latent.grad, gradient)
    # d/dΔ = round(w/Δ) - w/Δ; the step is the exponential of what learns.
    expected = 0.5 * (1 * (0 - 0.48) + 2 * (1 - 0.52) + 3 * (-3 + 2.6))
    assert one.log_step.grad is not None
    assert float(one.log_step.grad) == pytest.approx(expected, rel=1e-5)


def test_lonely_weights_are_dearer_than_those_in_company() -> None:
    values = torch.zeros(6, 8)
    values[0, :4] = 0.9
    values[5, 7] = 0.9
    _, one = stepped(values, 1.0)
    bits = one.ask_coder()
    assert one.place[5, 7] > one.place[0, 0] + 0.3
    assert one.place[4, 7] > one.place[0, 7]
    assert 0 < bits < 48 * 4
    one.pay().backward()
    assert one.latent.grad is not None
    # Paid for: what is there is pulled to zero, by more where it is dear.
    assert one.latent.grad[5, 7] > one.latent.grad[0, 0] > 0


def test_zeros_that_are_frozen_stay_zero() -> None:
    layer, one = stepped(torch.tensor([[0.1, 2.0]]), 1.0)
    one.freeze_zeros()
    with torch.no_grad():
        one.latent += 5.0
    assert float(layer.weight[0, 0].detach()) == 0.0
    assert one.levels().tolist() == [[0.0, 7.0]]


def test_a_higher_price_makes_a_smaller_file(tmp_path: Path) -> None:
    sizes = []
    for rate in (0.0, 20.0):
        trained = network_run("lenet5", tmp_path, steps=20)
        overrides = {"rate": rate, "epochs": 4, "ramp": 0.0, "optimizer.lr": 0.005}
        found = compress(trained, "entropy", overrides=overrides, data=few_digits(), threads=1)
        sizes.append(found["bytes"])
        assert found["split"]["codebooks"] < 300, "the step says the levels, so no codebook is stored"
    assert sizes[1] < 0.9 * sizes[0]


def test_soft_answers_count_as_in_the_paper(tmp_path: Path) -> None:
    trained = network_run("lenet5", tmp_path)
    model, teacher = (
        PictureModel(Preprocess(trained.preprocess.settings), trained.model),
        nn.Sequential(nn.Flatten(), nn.LazyLinear(10)),
    )
    pictures = torch.arange(2 * 64, dtype=torch.uint8).view(2, 8, 8, 1).numpy()
    batch = trained.task.collate(pictures, [3, 4], ["a", "b"])
    found = soft_loss(trained.task, model, teacher, batch, 0.25, 3.0)
    logits, wanted = model(batch.pictures), teacher(model.preprocess(batch.pictures))
    soft = 9 * F.kl_div(F.log_softmax(logits / 3, 1), F.softmax(wanted / 3, 1), reduction="batchmean")
    expected = 0.75 * F.cross_entropy(logits, torch.tensor([3, 4])) + 0.25 * soft
    assert float(found["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    plain = soft_loss(trained.task, model, None, batch, 0.25, 3.0)
    assert float(plain["loss"].detach()) == pytest.approx(float(F.cross_entropy(logits, torch.tensor([3, 4])).detach()))
