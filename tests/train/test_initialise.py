"""Initialisers: the variances their papers state, and what zero-initialised norms make of a block."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from danlu.core.errors import InputError
from danlu.core.settings import make_settings
from danlu.models import create_model
from danlu.train.initialise import initialise, last_norms
from danlu.train.settings import InitialiseSettings
from danlu.train.start import choose, fresh
from tests.train.helpers import digits, run_tiny


def _settings(**values: object) -> InitialiseSettings:
    return make_settings(InitialiseSettings, values, "test")


def _none() -> Tensor:
    raise AssertionError("no pictures are needed")


def _layers() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(32, 48, 3), nn.Flatten(), nn.Linear(300, 200))
    for layer in (layers[0], layers[2]):
        nn.init.ones_(layer.bias)
    return layers


@pytest.mark.parametrize(
    ("name", "conv", "linear"),
    [
        ("glorot", math.sqrt(2 / (9 * 32 + 9 * 48)), math.sqrt(2 / 500)),
        ("he", math.sqrt(2 / (9 * 48)), math.sqrt(2 / 300)),
        ("normal", 0.02, 0.02),
    ],
)
def test_the_spread_is_that_of_the_paper(name: str, conv: float, linear: float) -> None:
    layers = _layers()
    spread = {"std": 0.02} if name == "normal" else {}
    initialise(layers, _settings(name=name, **spread), _none)
    assert float(layers[0].weight.detach().std()) == pytest.approx(conv, rel=0.03)
    assert float(layers[2].weight.detach().std()) == pytest.approx(linear, rel=0.03)
    assert not layers[0].bias.any()
    assert not layers[2].bias.any()
    if name == "glorot":
        assert float(layers[2].weight.detach().abs().max()) <= math.sqrt(6 / 500)


def test_orthogonal_also_of_weights_in_channels_last_order() -> None:
    layers = _layers().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    initialise(layers, _settings(name="orthogonal"), _none)
    for weight in (layers[0].weight.flatten(1), layers[2].weight):
        product = weight @ weight.T
        assert torch.allclose(product, torch.eye(len(product)), atol=1e-5)


def test_lsuv_gives_every_layer_variance_one_and_leaves_statistics() -> None:
    torch.manual_seed(1)
    network = create_model("resnet20")
    before = {name: value.clone() for name, value in network.named_buffers()}
    x = torch.randn(32, 3, 16, 16)
    initialise(network, _settings(name="lsuv"), lambda: x)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    found: list[float] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda module, given, output: found.append(float(output.detach().var())))
    network.train()(x)
    assert found == pytest.approx([1.0] * len(found), abs=0.11)
    assert len(found) >= 20


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("resnet50_cifar", 16), ("seresnet18", 8)])
def test_zeroed_last_norms_make_every_block_its_shortcut(name: str, blocks: int) -> None:
    network = create_model(name, num_classes=10)
    initialise(network, _settings(zero_last_norm=True), _none)
    assert len(last_norms(network)) == blocks
    network.eval()
    seen: list[tuple[Tensor, Tensor]] = []
    for module in network.modules():
        if isinstance(getattr(module, "shortcut", None), nn.Module):
            module.register_forward_hook(
                lambda module, given, output: seen.append((module.shortcut(given[0]).relu(), output))
            )
    with torch.no_grad():
        network(torch.randn(2, 3, 64, 64))
    assert len(seen) == blocks
    assert all(torch.allclose(shortcut, output, atol=1e-6) for shortcut, output in seen)


def test_networks_without_such_norms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no residual branch that ends in a norm"):
        run_tiny(tmp_path / "run", overrides={"init.zero_last_norm": True})
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_it_and_says_so(tmp_path: Path) -> None:
    run = run_tiny(tmp_path / "run", overrides={"epochs": 1, "init.name": "orthogonal"})
    assert run.read_config()["effective"]["train"]["init"]["name"] == "orthogonal"
    first = run.read_log()[0]["loss"]
    own = run_tiny(tmp_path / "own", overrides={"epochs": 1}).read_log()[0]["loss"]
    assert first != own


def test_the_filters_of_airbench_whiten_the_training_pictures(tmp_path: Path) -> None:
    overrides = {"batch_size": 32, "precision": "fp32", "picture_size": 32}
    plan, _ = choose(digits(), model="airbench94", recipe=None, overrides=overrides, seed=0, device="cpu")
    training = fresh(plan, digits())
    pictures = training.model.preprocess(torch.from_numpy(training.train.loader.pictures(np.arange(500))))
    whitening = training.model.network.whitening
    with torch.no_grad():
        out = whitening(pictures)[:, : whitening.out_channels // 2].transpose(0, 1).flatten(1)
    second = out @ out.T / out.shape[1]
    # Directions in which little varies are damped; none has to do with another.
    assert float((second - second.diag().diag()).abs().max()) < 0.05
    assert float(second.diag().min()) > 0.4
    assert float(second.diag().max()) < 1.05
