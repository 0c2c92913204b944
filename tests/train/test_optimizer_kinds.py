"""Every optimiser does what torch's own or its paper's formula says, and its state goes through a checkpoint."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from danlu.core.settings import apply_overrides
from danlu.train.optimizer_settings import (
    AdadeltaSettings,
    AdagradSettings,
    AdamSettings,
    AdamWSettings,
    LambSettings,
    LarsSettings,
    MuonSettings,
    RmsPropSettings,
    SgdSettings,
)
from danlu.train.optimizers import Muon, Optimizer, make_optimizer, orthogonal
from danlu.train.settings import TrainConfig

ALL = [
    SgdSettings(),
    LarsSettings(),
    AdagradSettings(weight_decay=0.1),
    AdadeltaSettings(weight_decay=0.1),
    RmsPropSettings(weight_decay=0.1),
    RmsPropSettings(momentum=0.5, centered=True),
    AdamSettings(weight_decay=0.1, beta1=0.8),
    AdamWSettings(weight_decay=0.1, eps=1e-6),
    LambSettings(weight_decay=0.1),
    MuonSettings(weight_decay=0.1),
]


def _name(settings: Any) -> str:
    return str(settings.name)


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3))


def _backward(network: nn.Module, step: int) -> None:
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(step))
    network(x).square().sum().backward()


def _optimizer(network: nn.Module, settings: Any) -> Optimizer[Any]:
    return make_optimizer(network, list(network.parameters()), settings)


TORCH = {
    "sgd": (torch.optim.SGD, ("momentum", "nesterov")),
    "adagrad": (torch.optim.Adagrad, ("eps",)),
    "adadelta": (torch.optim.Adadelta, ("rho", "eps")),
    "rmsprop": (torch.optim.RMSprop, ("alpha", "eps", "momentum", "centered")),
    "adam": (torch.optim.Adam, ("eps",)),
    "adamw": (torch.optim.AdamW, ("eps",)),
}


@pytest.mark.parametrize("settings", [one for one in ALL if one.name in TORCH], ids=_name)
def test_torch_gives_the_same(settings: Any) -> None:
    ours, theirs = _network(), _network()
    optimizer = _optimizer(ours, settings)
    kind, keys = TORCH[settings.name]
    arguments = {key: getattr(settings, key) for key in keys}
    if settings.name in ("adam", "adamw"):
        arguments["betas"] = (settings.beta1, settings.beta2)
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in theirs.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    reference = kind(groups, lr=1.0, **arguments)
    for step, lr in enumerate((0.01, 0.02, 0.005, 0.01)):
        for network in (ours, theirs):
            network.zero_grad()
            _backward(network, step)
        optimizer.step(lr)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_lars_by_its_formula() -> None:
    network = _network()
    settings = LarsSettings(weight_decay=0.1, trust=0.01)
    optimizer = _optimizer(network, settings)
    velocity = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in network.named_parameters()}
    for step, lr in enumerate((0.5, 1.0, 0.7)):
        optimizer.forget_gradients()
        _backward(network, step)
        before = {name: p.detach().double().clone() for name, p in network.named_parameters()}
        slopes = {name: p.grad.double() for name, p in network.named_parameters() if p.grad is not None}
        optimizer.step(lr)
        for name, parameter in network.named_parameters():
            w, g = before[name], slopes[name]
            decay = 0.1 if w.dim() > 1 else 0.0
            rate = 0.01 * w.norm() / (g.norm() + decay * w.norm()) if w.dim() > 1 else 1.0
            velocity[name] = 0.9 * velocity[name] + lr * rate * (g + decay * w)
            torch.testing.assert_close(parameter.double(), w - velocity[name], rtol=1e-5, atol=1e-6)


def test_lamb_by_its_formula() -> None:
    network = _network()
    settings = LambSettings(weight_decay=0.1)
    optimizer = _optimizer(network, settings)
    means = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in network.named_parameters()}
    squares = copy.deepcopy(means)
    for step, lr in enumerate((0.01, 0.02, 0.01), start=1):
        optimizer.forget_gradients()
        _backward(network, step)
        before = {name: p.detach().double().clone() for name, p in network.named_parameters()}
        slopes = {name: p.grad.double() for name, p in network.named_parameters() if p.grad is not None}
        optimizer.step(lr)
        for name, parameter in network.named_parameters():
            w, g = before[name], slopes[name]
            means[name] = 0.9 * means[name] + 0.1 * g
            squares[name] = 0.999 * squares[name] + 0.001 * g * g
            r = means[name] / (1 - 0.9**step) / ((squares[name] / (1 - 0.999**step)).sqrt() + 1e-6)
            if w.dim() > 1:
                r = r + 0.1 * w
                r = r * w.norm() / r.norm()
            torch.testing.assert_close(parameter.double(), w - lr * r, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 6), (4, 20), (20, 4)])
def test_muons_directions_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix, 5)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3
    # The same singular vectors: what is left of U S' Vᵀ off the diagonal is small.
    inner = u.T @ found @ v.T
    assert float((inner - torch.diag(inner.diagonal())).abs().max()) < 1e-3


def test_muon_moves_the_ends_by_sgd_and_the_rest_by_orthogonal_steps() -> None:
    network = _network()
    optimizer = _optimizer(network, MuonSettings(momentum=0.5, rest_lr=2.0))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    _backward(network, 0)
    slopes = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    optimizer.step(0.1)
    for name, parameter in network.named_parameters():
        moved = before[name] - parameter.detach()
        if name == "2.weight":
            values = torch.linalg.svdvals(moved.flatten(1)) / 0.1
            assert float(values.min()) > 0.5
            assert float(values.max()) < 1.3
        else:
            torch.testing.assert_close(moved, 0.1 * 2.0 * 1.5 * slopes[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", ALL, ids=_name)
def test_the_state_goes_on_bit_for_bit(settings: Any) -> None:
    one = _network()
    first = _optimizer(one, settings)
    for step in range(2):
        first.forget_gradients()
        _backward(one, step)
        first.step(0.01)
    two = copy.deepcopy(one)
    second = _optimizer(two, settings)
    second.load({name: value.clone() for name, value in first.state().items()}, "here")
    for network, optimizer in ((one, first), (two, second)):
        optimizer.forget_gradients()
        _backward(network, 7)
        optimizer.step(0.01)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("settings", ALL, ids=_name)
def test_it_minimises(settings: Any) -> None:
    network = _network()
    optimizer = _optimizer(network, settings)
    x = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(3))
    losses = []
    rate = {"sgd": 0.001, "lars": 1.0, "adadelta": 1.0, "muon": 0.002}.get(settings.name, 0.01)
    for _ in range(30):
        optimizer.forget_gradients()
        loss = network(x).square().mean()
        loss.backward()
        optimizer.step(rate)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("settings", ALL, ids=_name)
def test_a_parameter_without_a_gradient_stays(settings: Any) -> None:
    network = _network()
    optimizer = _optimizer(network, settings)
    kept = network[2].weight.detach().clone()
    _backward(network, 0)
    network[2].weight.grad = None
    optimizer.step(0.1)
    assert torch.equal(network[2].weight, kept)


def test_changing_the_name_starts_from_that_ones_defaults() -> None:
    config = apply_overrides(TrainConfig(), {"optimizer.beta1": 0.5, "optimizer.name": "adamw"})
    assert config.optimizer == AdamWSettings(beta1=0.5)
    assert apply_overrides(config, {"optimizer.name": "adamw"}).optimizer == AdamWSettings(beta1=0.5)
    assert apply_overrides(config, {"optimizer.lr": 0.2}).optimizer == AdamWSettings(beta1=0.5, lr=0.2)


def test_muons_head_has_a_rate_of_its_own_and_kernels_their_norm() -> None:
    network = _network()
    names = [name for name, parameter in network.named_parameters() if parameter.dim() > 1]
    optimizer = _optimizer(network, MuonSettings(momentum=0.5, rest_lr=2.0, head_lr=3.0, normalize=True))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    _backward(network, 0)
    slopes = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    optimizer.step(0.0)
    kernel = dict(network.named_parameters())["2.weight"].detach()
    assert float(kernel.norm()) == pytest.approx(len(kernel) ** 0.5)
    torch.testing.assert_close(kernel / kernel.norm(), before["2.weight"] / before["2.weight"].norm())
    optimizer = _optimizer(network, MuonSettings(momentum=0.5, rest_lr=2.0, head_lr=3.0))
    optimizer.step(0.1)
    for name, rate in ((names[0], 0.2), (names[-1], 0.3)):
        moved = before[name] - dict(network.named_parameters())[name].detach()
        torch.testing.assert_close(moved, rate * 1.5 * slopes[name], rtol=1e-4, atol=1e-6)


def test_muon_takes_all_kernels_that_learn_where_the_first_is_frozen() -> None:
    network = _network()
    first = next(p for p in network.parameters() if p.dim() > 1)
    optimizer = make_optimizer(network, [p for p in network.parameters() if p is not first], MuonSettings())
    assert isinstance(optimizer, Muon)
    assert not optimizer.has_first
    whole = make_optimizer(network, list(network.parameters()), MuonSettings())
    assert isinstance(whole, Muon)
    assert whole.has_first


def test_muons_rest_is_torchs_sgd_with_a_momentum_and_a_coupled_decay_of_its_own() -> None:
    """As the airbench script has it: biases and the head by SGD, whose decay is a share of the weights a step."""
    settings = MuonSettings(lr=0.24, momentum=0.6, rest_lr=0.5, head_lr=2.0, rest_momentum=0.85, rest_decay=0.004)
    network = _network()
    optimizer = _optimizer(network, settings)
    twin = copy.deepcopy(network)
    large = [name for name, parameter in network.named_parameters() if parameter.dim() > 1]
    rest = {n: p for n, p in twin.named_parameters() if p.dim() < 2 or n in (large[0], large[-1])}
    groups = [
        {"params": [p], "lr": rate, "weight_decay": 0.004 / rate}
        for name, p in rest.items()
        for rate in [0.24 * (2.0 if name == large[-1] else 0.5)]
    ]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=0.85, nesterov=True)
    peaks = [group["lr"] for group in reference.param_groups]
    for step, share in enumerate((1.0, 0.75, 0.5)):
        for group, peak in zip(reference.param_groups, peaks, strict=True):
            group["lr"] = share * peak
        network.load_state_dict({**network.state_dict(), **{n: p.detach() for n, p in rest.items()}})
        _backward(network, step)
        for name, parameter in network.named_parameters():
            if name in rest:
                rest[name].grad = None if parameter.grad is None else parameter.grad.clone()
        optimizer.step(share * 0.24)
        reference.step()
        moved = dict(network.named_parameters())
        for name, parameter in rest.items():
            torch.testing.assert_close(moved[name].detach(), parameter.detach(), rtol=1e-5, atol=1e-7)
