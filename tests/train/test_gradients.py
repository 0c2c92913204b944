"""Clipping, L1, max-norm, accumulation and Lookahead, each against its formula."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from danlu.core.errors import InputError
from danlu.core.settings import apply_overrides
from danlu.tasks.classification import Batch, Classification
from danlu.train.gradients import clip_adaptively, constrain, prepare, unit_norms
from danlu.train.lookahead import Lookahead
from danlu.train.optimizer_settings import SgdSettings
from danlu.train.optimizers import make_optimizer
from danlu.train.settings import TrainConfig
from danlu.train.step import add_gradients, split


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


def _with_gradients(scale: float = 1.0) -> nn.Sequential:
    network = _network()
    x = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    (scale * network(x).square().sum()).backward()
    return network


def _gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_by_norm_and_by_value() -> None:
    network = _with_gradients(100.0)
    before = _gradients(network)
    total = torch.cat([g.flatten() for g in before.values()]).norm()
    prepare(network, TrainConfig(clip=1.0))
    for name, gradient in _gradients(network).items():
        torch.testing.assert_close(gradient, before[name] / (total + 1e-6))
    network = _with_gradients(100.0)
    prepare(network, TrainConfig(clip=0.5, clip_by="value"))
    for name, gradient in _gradients(network).items():
        assert torch.equal(gradient, before[name].clamp(-0.5, 0.5))
    network = _with_gradients(100.0)
    prepare(network, TrainConfig())
    assert all(torch.equal(gradient, before[name]) for name, gradient in _gradients(network).items())


def test_adaptively_against_loops() -> None:
    """Equation 3 unit by unit; the last layer is left out; a unit that is small enough is not touched."""
    network = _with_gradients(0.05)
    before = _gradients(network)
    prepare(network, TrainConfig(clip=0.1, clip_by="adaptive"))
    after = _gradients(network)
    clipped = 0
    for name, parameter in network.named_parameters():
        if name.startswith("4."):
            assert torch.equal(after[name], before[name])
            continue
        for unit in range(len(parameter)):
            w, g = parameter[unit].detach().norm().clamp(min=1e-3), before[name][unit].norm()
            expected = before[name][unit] * (0.1 * w / g if g > 0.1 * w else 1.0)
            clipped += bool(g > 0.1 * w)
            torch.testing.assert_close(after[name][unit], expected)
    units = sum(len(p) for name, p in network.named_parameters() if not name.startswith("4."))
    assert 0 < clipped < units


def test_a_unit_of_zeros_can_still_move() -> None:
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.ones(2, 3)
    clip_adaptively([parameter], 0.1)
    torch.testing.assert_close(unit_norms(parameter.grad).flatten(), torch.full((2,), 1e-4))


def test_l1_pulls_weights_and_not_biases() -> None:
    network = _with_gradients()
    before = _gradients(network)
    prepare(network, TrainConfig(l1=0.25))
    for name, parameter in network.named_parameters():
        expected = before[name] + (0.25 * parameter.detach().sign() if parameter.dim() > 1 else 0.0)
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, expected)


def test_max_norm() -> None:
    network = _network()
    before = copy.deepcopy(network.state_dict())
    constrain(network, 0.6)
    for name, value in network.state_dict().items():
        for unit, old in zip(value, before[name], strict=True):
            limit = 0.6 if value.dim() > 1 else float("inf")
            expected = old * min(1.0, limit / float(old.norm()))
            torch.testing.assert_close(unit, expected)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts: int) -> None:
    task = Classification(["a", "b", "c"])
    network = _network()
    pictures = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 1), dtype=np.uint8)
    batch = task.collate(pictures, np.arange(7) % 3, list("abcdefg"))

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return network(x.permute(0, 3, 1, 2).float() / 255)

    def loss(part: Batch) -> dict[str, Tensor]:
        return task.loss(Scaled(), part)

    whole = add_gradients(loss, batch, 1, seed=0, step=0)
    expected = _gradients(network)
    network.zero_grad()
    found = add_gradients(loss, batch, parts, seed=0, step=0)
    for name, gradient in _gradients(network).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    for name, value in whole.items():
        torch.testing.assert_close(found[name].double(), value.detach().double(), rtol=1e-5, atol=1e-6)


def test_parts_hold_every_picture_once() -> None:
    task = Classification(["a", "b"])
    batch = task.collate(np.zeros((5, 2, 2, 1), np.uint8), [0, 1, 0, 1, 1], list("abcde"))
    parts = split(batch, 3)
    assert [len(part) for part in parts] == [1, 2, 2]
    assert [ident for part in parts for ident in part.ids] == list("abcde")
    assert torch.cat([part.targets["label"] for part in parts]).tolist() == [0, 1, 0, 1, 1]


def test_lookahead_by_its_definition() -> None:
    ours, plain = _network(), _network()
    settings = SgdSettings(momentum=0.0, nesterov=False, weight_decay=0.0)
    lookahead = Lookahead(make_optimizer(ours, list(ours.parameters()), settings), every=3)
    inner = make_optimizer(plain, list(plain.parameters()), settings)
    slow = {name: p.detach().clone() for name, p in plain.named_parameters()}
    for step in range(1, 8):
        for network in (ours, plain):
            network.zero_grad()
            x = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(step))
            network(x).square().mean().backward()
        lookahead.step(0.1)
        inner.step(0.1)
        if step % 3 == 0:
            with torch.no_grad():
                for name, parameter in plain.named_parameters():
                    slow[name] = slow[name] + 0.5 * (parameter - slow[name])
                    parameter.copy_(slow[name])
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_lookahead_goes_on_bit_for_bit() -> None:
    def fresh(network: nn.Module) -> Lookahead:
        return Lookahead(make_optimizer(network, list(network.parameters()), SgdSettings()), every=2)

    one = _network()
    first = fresh(one)

    def go(network: nn.Module, optimizer: Lookahead, seed: int) -> None:
        network.zero_grad()
        x = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
        network(x).square().mean().backward()
        optimizer.step(0.05)

    for seed in range(3):
        go(one, first, seed)
    two = copy.deepcopy(one)
    second = fresh(two)
    state = {name: value.clone() for name, value in first.state().items()}
    second.load(state, "here")
    for seed in range(3, 6):
        go(one, first, seed)
        go(two, second, seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with pytest.raises(InputError, match="does not fit this network's optimiser: lookahead"):
        second.load({name: value for name, value in state.items() if name != "lookahead"}, "here")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"accumulate": 200}, "accumulate = 200 is more parts than the 128 pictures"),
        ({"clip_by": "adaptive"}, "clips nothing without clip"),
        ({"clip_by": "norms", "clip": 1}, "clip_by = 'norms'"),
        ({"lookahead": 0}, "lookahead = 0"),
    ],
)
def test_what_does_not_fit_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_overrides(TrainConfig(), overrides)
