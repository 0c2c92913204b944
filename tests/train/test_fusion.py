"""Fused kernels: equal to the operators they stand for, found in a network's graph, chosen once, resumed with."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import create_model
from danlu.train import measured, native, resume
from danlu.train.fused import FusedNorm, FusedPool
from danlu.train.fusion import choose_fused, use_fused
from tests.train.helpers import curve, hashes, run_tiny

pytestmark = pytest.mark.skipif(native.load_kernels() is None, reason="no C++ compiler")

LAST = torch.channels_last
# [B, C, H, W]: few channels, odd ones, more than one tile of rows, fewer pixels than rows stand together.
SHAPES = [(2, 6, 5, 7), (4, 16, 9, 9), (3, 24, 6, 4), (2, 100, 3, 3), (5, 130, 2, 3), (16, 64, 8, 8), (2, 1, 2, 1)]


def _norm(channels: int, dtype: torch.dtype = torch.float32) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.uniform_(-1, 1)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 1.5)
    return norm.to(dtype)


def _both_ways(x: Tensor, rest: Tensor | None, relu: bool, threads: int) -> list[dict[str, Tensor]]:
    """Return output, gradients and statistics of the library in float64, and of the kernel."""
    norm = _norm(x.shape[1])
    found = []
    torch.manual_seed(1)
    gradient = torch.randn(x.shape).to(x.dtype)
    before = torch.get_num_threads()
    for way, kind in (("library", torch.float64), ("fused", x.dtype)):
        place = FusedNorm(copy.deepcopy(norm).to(torch.float64 if way == "library" else torch.float32), relu).train()
        given = [one.to(kind).contiguous(memory_format=LAST).requires_grad_() for one in (x, rest) if one is not None]
        torch.set_num_threads(threads)
        try:
            out = getattr(place, way)(*given)
            out.backward(gradient.to(kind))
        finally:
            torch.set_num_threads(before)
        parts = {"out": out, "x": given[0].grad, "weight": place.norm.weight.grad, "bias": place.norm.bias.grad}
        parts |= {"mean": place.norm.running_mean, "variance": place.norm.running_var}
        parts |= {"rest": given[1].grad} if rest is not None else {}
        found.append({name: value.detach().double() for name, value in parts.items()})
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_rest", [False, True], ids=["", "rest"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("threads", [1, 3])
def test_norm_is_the_librarys_in_float64(shape: tuple[int, ...], with_rest: bool, relu: bool, threads: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + 50  # a mean far from 0, whose square must not swallow the variance
    rest = torch.randn(shape) if with_rest else None
    expected, found = _both_ways(x, rest, relu, threads)
    for name, value in expected.items():
        limit = 2e-4 * float(value.abs().max().clamp(min=1e-2))
        assert float((found[name] - value).abs().max()) < limit, name


@pytest.mark.parametrize("with_rest", [False, True], ids=["", "rest"])
def test_norm_in_bfloat16_rounds_once(with_rest: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 32, 6, 6).bfloat16()
    rest = torch.randn(8, 32, 6, 6).bfloat16() if with_rest else None
    expected, found = _both_ways(x, rest, True, 2)
    assert torch.equal(found["out"], expected["out"].bfloat16().double())
    for name in ("x", "weight", "bias", "mean", "variance", *(["rest"] if with_rest else [])):
        value = expected[name]
        limit = 2**-8 if name in ("x", "rest") else 1e-5
        assert float((found[name] - value).abs().max() / value.abs().max()) < limit, name


def test_values_that_are_not_finite_show() -> None:
    x = torch.randn(2, 16, 4, 4).contiguous(memory_format=LAST)
    x[0, 3, 0, 0] = float("nan")
    x[0, 5, 0, 0] = float("inf")
    out = FusedNorm(_norm(16), True).train().fused(x)
    assert not out[:, 3].isfinite().any()
    assert out[:, 5].isnan().any()
    assert out[:, 4].isfinite().all()


POOLS = [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (2, 3, 1), (5, 2, 2)]


@pytest.mark.parametrize("window", POOLS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("channels", [1, 6, 20])
def test_pooling_is_the_librarys(window: tuple[int, int, int], dtype: torch.dtype, relu: bool, channels: int) -> None:
    torch.manual_seed(0)
    # Few different values: equal ones must fall to the same place.
    x = (torch.randint(-4, 5, (3, channels, 9, 11)) / 4).to(dtype).contiguous(memory_format=LAST)
    place = FusedPool(*window, relu)
    results = []
    for way in (place.library, place.fused):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = way(given)
        torch.manual_seed(1)
        out.backward(torch.randint(-3, 4, out.shape).to(dtype))
        results.append((out.detach(), given.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_pooling_lets_nan_through() -> None:
    x = torch.randn(1, 8, 4, 4).contiguous(memory_format=LAST)
    x[0, 2, 0, 0], x[0, 3, 3, 3] = float("nan"), -float("nan")
    for dtype in (torch.float32, torch.bfloat16):
        for relu in (False, True):
            out = FusedPool(2, 2, 0, relu).fused(x.to(dtype))
            assert out.isnan().sum() == 2
            assert out[0, 2, 0, 0].isnan()
            assert out[0, 3, 1, 1].isnan()


def _steps(network: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(3)
    x = torch.randn(8, 3, 32, 32, dtype=next(network.parameters()).dtype).contiguous(memory_format=LAST)
    out = network.train()(x)
    F.cross_entropy(out, torch.arange(8)).backward()
    return {name: p.grad.double() for name, p in network.named_parameters() if p.grad is not None}


def _distance(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    apart = sum(float((one[name] - two[name]).square().sum()) for name in one)
    return float((apart / sum(float(value.square().sum()) for value in two.values())) ** 0.5)


# Batch norm and ReLU, sums with them, sums without ReLU, ReLU6, pooling after a batch norm, concatenations, gates.
NETWORKS = {
    "resnet20": 19,
    "resnet18_cifar": 20,
    "preact_resnet18_cifar": 17,
    "vgg11_bn_cifar": 13,
    "mobilenet_v2_cifar": 53,
    "densenet_bc_100_12": 99,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trains_the_same(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=10).to(memory_format=LAST)  # type: ignore[call-overload]
    names, state = [n for n, _ in network.named_modules()], list(network.state_dict())
    other = copy.deepcopy(network)
    places = _places(other)
    assert len(places) == NETWORKS[name]
    assert use_fused(other, places) == sorted(places)
    other = copy.deepcopy(other)
    assert [n for n, _ in other.named_modules()] == names
    assert list(other.state_dict()) == state
    exact = _steps(copy.deepcopy(network).double())
    expected, found = _steps(network), _steps(other)
    assert exact.keys() == expected.keys() == found.keys()
    # Where a value is near 0, ReLU may fall to the other side: the library's own distance says what that comes to.
    assert _distance(found, exact) < max(1e-4, 5 * _distance(expected, exact))
    for (key, one), two in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), two.double(), rtol=1e-3, atol=1e-4), key
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected_logits, found_logits = network.eval()(x), other.eval()(x)
    assert torch.allclose(expected_logits, found_logits, rtol=1e-2, atol=1e-3 * float(expected_logits.abs().max()))


def _places(network: nn.Module) -> list[str]:
    """Return all places of a network, whatever they would take."""
    from danlu.train.fusion import _traced

    found = _traced(network)
    return [] if found is None else list(found[1])


class _Drawing(nn.Module):
    """Branches by a draw, which tracing would freeze, or by a value, which it cannot."""

    def __init__(self, by_value: bool) -> None:
        super().__init__()
        self.norm, self.by_value = nn.BatchNorm2d(4), by_value

    def forward(self, x: Tensor) -> Tensor:
        kept = bool(x.sum() > 0) if self.by_value else bool(torch.rand(()) < 0.5)
        return F.relu(self.norm(x)) if kept else x


@pytest.mark.parametrize("by_value", [False, True], ids=["draw", "value"])
def test_what_cannot_be_traced_is_left_alone(by_value: bool) -> None:
    network = _Drawing(by_value)
    before, state = dict(vars(network)), torch.get_rng_state()
    assert _places(network) == []
    assert use_fused(network, ["relu"]) == []
    assert vars(network) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_of_the_graph_stay_draws() -> None:
    torch.manual_seed(0)
    network = create_model("stochastic_depth18_cifar", num_classes=10).to(memory_format=LAST).train()  # type: ignore[call-overload]
    use_fused(network, _places(network))
    x = torch.randn(16, 3, 32, 32).contiguous(memory_format=LAST)
    one, two = network(x), network(x)
    assert not torch.equal(one, two)


def test_a_place_of_another_kind_is_the_librarys() -> None:
    norm = FusedNorm(_norm(16), True).train()
    x = torch.randn(2, 16, 4, 4).contiguous(memory_format=LAST)
    assert norm.can(x, None)
    assert not norm.can(x.double(), None)
    assert not norm.can(torch.randn(2, 16, 4, 4), None)
    assert not norm.can(x, x.bfloat16())
    assert not norm.can(x, torch.randn(2, 16, 1, 1).contiguous(memory_format=LAST))
    norm.norm.eval()  # frozen statistics
    assert not norm.can(x, None)
    assert torch.equal(norm(x), F.relu(norm.norm(x)))
    pool = FusedPool(5, 2, 0, True)
    assert not pool.can(x, None)


def test_sums_in_place_are_sums() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            kept = x * 2
            kept += self.norm(x)
            made = self.other(x)
            made += kept
            return F.relu(made) + kept

    from danlu.train.fusion import _traced

    network = Network()
    found = _traced(network)
    assert found is not None
    module, places = found
    assert sorted(places) == ["add", "relu"]
    x = torch.randn(2, 4, 3, 3).contiguous(memory_format=LAST)
    assert torch.allclose(copy.deepcopy(network).train()(x), module(x), atol=1e-5)


def test_the_faster_way_is_chosen_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which the kernel is fast for maps of 8 pixels a side and slow for others."""
    clock = [0.0]
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    monkeypatch.setattr(measured, "time", type("T", (), {"perf_counter": lambda: clock[0]}))
    fused, library = FusedNorm.fused, FusedNorm.library

    def ours(place: FusedNorm, x: Tensor, rest: Tensor | None = None) -> Tensor:
        clock[0] += 0.5 if x.shape[2] == 8 else 2.0
        return fused(place, x, rest)

    def theirs(place: FusedNorm, x: Tensor, rest: Tensor | None = None) -> Tensor:
        clock[0] += 1.0
        return library(place, x, rest)

    monkeypatch.setattr(FusedNorm, "fused", ours)
    monkeypatch.setattr(FusedNorm, "library", theirs)
    network = create_model("resnet20", num_classes=10).to(memory_format=LAST).train()  # type: ignore[call-overload]
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=LAST)
    with torch.no_grad():
        chosen = choose_fused(network, lambda: network(x))
    assert len(chosen) == 6
    spent = clock[0]
    with torch.no_grad():
        again = create_model("resnet20", num_classes=10).to(memory_format=LAST).train()  # type: ignore[call-overload]
        assert choose_fused(again, lambda: again(x)) == chosen
    assert clock[0] - spent < 0.5 * spent


def test_a_run_measures_once_writes_it_down_and_resumes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _places(create_model("resnet20"))
    monkeypatch.setattr("danlu.train.measure.choose_fused", lambda network, forward: names)
    small = {"epochs": 1, "batch_size": 256, "precision": "bf16", "keep": 9, "kernels": "auto"}
    run = run_tiny(tmp_path / "run", model="resnet20", overrides=small)
    assert run.read_config()["effective"]["machine"]["fused"] == names
    before, kept = curve(run), hashes(run)
    _unfinish(run)
    monkeypatch.setattr("danlu.train.measure.choose_fused", None)
    again = resume(run.path, checkpoint="step-000000")
    assert (hashes(again), curve(again)) == (kept, before)
    plain = run_tiny(tmp_path / "plain", model="resnet20", overrides={**small, "kernels": "library"})
    assert plain.read_config()["effective"]["machine"]["fused"] == []
    assert hashes(plain) != kept


def test_a_compiled_run_takes_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before compiling was found to pay must not stay in the network: resume would not have it."""
    names = _places(create_model("resnet20"))
    monkeypatch.setattr("danlu.train.measure.choose_fused", lambda network, forward: names)
    monkeypatch.setattr("danlu.train.measure.choose_kernels", lambda network, forward: {"stage3.0.conv2": "patches"})
    monkeypatch.setattr("danlu.train.start.choose_compile", lambda training, seconds: (True, "it pays", seconds))
    monkeypatch.setattr(nn.Module, "compile", lambda network: None)
    small = {"epochs": 1, "batch_size": 256, "precision": "bf16"}
    run = run_tiny(tmp_path / "run", model="resnet20", overrides={**small, "kernels": "auto", "compile": "auto"})
    machine = run.read_config()["effective"]["machine"]
    assert (machine["fused"], machine["kernels"]) == ([], {})
    plain = run_tiny(tmp_path / "plain", model="resnet20", overrides={**small, "compile": True})
    assert hashes(run) == hashes(plain)


def _unfinish(run: Any) -> None:
    record = run.read_record()
    del record["train"]
    (run.path / "record.json").write_text(json.dumps(record), encoding="utf-8")


def test_without_a_compiler_the_library_does_it(tmp_path: Path) -> None:
    code = "from danlu.train.native import load_kernels; print(load_kernels())"
    for compiler in ("/nowhere/c++", "false"):
        environment = {"PATH": "/usr/bin:/bin", "CXX": compiler, "DANLU_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "None\n"
    assert not list(tmp_path.rglob("*.so"))
