"""SGD does what its formula says; biases and norms do not decay; its state goes through a checkpoint bit for bit."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from danlu.core.errors import InputError
from danlu.models import create_model
from danlu.train.ema import MovingAverage
from danlu.train.gradients import is_weight
from danlu.train.optimizer_settings import AdamWSettings, MuonSettings, OptimizerSettings, SgdSettings
from danlu.train.optimizers import Sgd, make_optimizer


def _network(layout: torch.memory_format = torch.channels_last) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("resnet20", num_classes=5, in_channels=3).to(memory_format=layout)  # type: ignore[call-overload]


def _optimizer(network: torch.nn.Module, settings: SgdSettings) -> Sgd:
    return make_optimizer(network, list(network.parameters()), settings)


def _backward(network: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(4, 3, 16, 16, generator=generator)
    F.cross_entropy(network(pictures), torch.arange(4)).backward()


@pytest.mark.parametrize(
    "settings",
    [
        SgdSettings(lr=0.1),
        SgdSettings(lr=0.1, nesterov=False),
        SgdSettings(lr=0.1, momentum=0.0, nesterov=False),
    ],
    ids=["nesterov", "heavy ball", "plain"],
)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_it_does_what_the_formula_says(settings: SgdSettings, layout: torch.memory_format) -> None:
    network = _network(layout)
    expected = {name: p.detach().double() for name, p in network.named_parameters()}
    momentum = {name: torch.zeros_like(value) for name, value in expected.items()}
    optimizer = _optimizer(network, settings)
    for step, lr in enumerate((0.02, 0.1, 0.05)):
        _backward(network, step)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            if parameter.dim() > 1:
                gradient = gradient + settings.weight_decay * expected[name]
            momentum[name] = settings.momentum * momentum[name] + gradient
            update = gradient + settings.momentum * momentum[name] if settings.nesterov else momentum[name]
            expected[name] = expected[name] - lr * update
        optimizer.step(lr)
        optimizer.forget_gradients()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-6)
            expected[name] = parameter.detach().double()


def test_norms_and_biases_do_not_decay() -> None:
    network = _network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = _optimizer(network, SgdSettings(lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.5))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for name, parameter in network.named_parameters():
        expected = before[name] * (0.5 if parameter.dim() > 1 else 1.0)
        assert torch.equal(parameter, expected), name


def test_the_state_goes_on_bit_for_bit() -> None:
    one = _network()
    first = _optimizer(one, SgdSettings(lr=0.1))
    _backward(one, 0)
    first.step(0.1)
    first.forget_gradients()
    two = copy.deepcopy(one)
    second = _optimizer(two, SgdSettings(lr=0.1))
    second.load({name: value.contiguous().clone() for name, value in first.state().items()}, "here")
    for network, optimizer in ((one, first), (two, second)):
        _backward(network, 1)
        optimizer.step(0.1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    kernels = [value for value in second.state().values() if value.dim() == 4 and min(value.shape) > 1]
    assert kernels
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)


def test_a_state_of_another_network_is_refused() -> None:
    optimizer = _optimizer(_network(), SgdSettings())
    state = dict(optimizer.state())
    name = next(iter(state))
    with pytest.raises(InputError, match="does not fit"):
        optimizer.load({k: v for k, v in state.items() if k != name}, "here")
    with pytest.raises(InputError, match="does not fit"):
        optimizer.load({**state, name: torch.zeros(3)}, "here")


def test_no_compiler_is_imported() -> None:
    """It would cost a short run seconds."""
    code = (
        "import sys, torch; from danlu.train.optimizers import Sgd\n"
        "from danlu.train.optimizer_settings import SgdSettings\n"
        "p = torch.nn.Parameter(torch.ones(2, 2)); p.grad = torch.ones(2, 2)\n"
        "Sgd({'p': p}, SgdSettings()).step(0.1); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_moving_average_is_what_it_says() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = MovingAverage(network, decay=0.5)
    weight = network[0].weight
    expected = weight.detach().clone()
    for step in range(1, 4):
        with torch.no_grad():
            weight.add_(1.0)
        network(torch.randn(4, 2))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = expected * decay + weight.detach() * (1 - decay)
    torch.testing.assert_close(average.average["0.weight"], expected)
    assert average.average["1.num_batches_tracked"] == 3
    own = {name: value.clone() for name, value in network.state_dict().items()}
    with average.in_place():
        assert torch.equal(network[0].weight, average.average["0.weight"])
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())


def test_scales_of_channels_class_tokens_and_positions_are_no_weights() -> None:
    names = {
        "convnext_tiny": ("stage1.0.layer_scale", "stage1.0.depthwise.weight"),
        "nfnet_f0": ("stem_conv0.gain", "stem_conv0.weight"),
        "vit_s_16": ("class_token", "classifier.weight"),
    }
    for model, (gain, weight) in names.items():
        with torch.device("meta"):
            found = dict(create_model(model, num_classes=5).named_parameters())
        weights = [name for name, parameter in found.items() if is_weight(name, parameter)]
        assert found[gain].dim() > 1
        assert gain not in weights
        assert "positions" not in weights
        assert weight in weights, sorted(weights)[:20]
    attention = torch.nn.MultiheadAttention(4, 2)
    assert [n for n, p in attention.named_parameters() if is_weight(n, p)] == ["in_proj_weight", "out_proj.weight"]


class _Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (torch.nn.Linear(4, 4, bias=False) for _ in range(3))
        self.token, self.gain = (torch.nn.Parameter(torch.ones(1, 1, 4)) for _ in range(2))


@pytest.mark.parametrize("settings", [AdamWSettings(lr=0.1, weight_decay=0.1), MuonSettings(lr=0.1, weight_decay=0.1)])
def test_what_is_no_weight_neither_decays_nor_is_made_orthogonal(settings: OptimizerSettings) -> None:
    network = _Scaled()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = make_optimizer(network, list(network.parameters()), settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1)
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= {"first.weight", "middle.weight", "last.weight"}
    assert "first.weight" in moved or isinstance(settings, MuonSettings)
    # A slope of one millionth moves it by as little, where an orthogonal step would be of the rate's size.
    if isinstance(settings, MuonSettings):
        network.gain.grad = torch.full_like(network.gain, 1e-6)
        optimizer.step(0.1)
        assert (network.gain - 1).abs().max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_adam_moves_on_cuda() -> None:
    network = torch.nn.Linear(3, 2, device="cuda")
    optimizer = make_optimizer(network, list(network.parameters()), AdamWSettings(lr=0.1))
    network(torch.ones(1, 3, device="cuda")).sum().backward()
    optimizer.step(0.1)
    assert {count.device.type for count in optimizer.counts.values()} == {"cuda"}
