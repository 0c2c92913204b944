"""Weight gradients of convolutions: every algorithm equals the library's, in any shape, precision and memory order."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from danlu.models import create_model
from danlu.train import convolution, measured, resume
from danlu.train.convolution import ALGORITHMS, choose_kernels, use_kernels, weight_gradient
from tests.train.helpers import curve, hashes, run_tiny

SHAPES = [
    # B, C, K, H, W, kernel, stride, padding
    (2, 3, 5, 9, 7, 3, 1, 1),
    (3, 4, 6, 8, 8, 3, 2, 1),
    (2, 5, 4, 7, 9, 1, 2, 0),
    (1, 2, 3, 11, 6, 5, 3, 2),
    (2, 6, 2, 4, 4, 4, 2, 0),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_the_librarys_gradient(algorithm: str, shape: tuple[int, ...]) -> None:
    batch, channels, count, height, width, kernel, stride, padding = shape
    torch.manual_seed(0)
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    weight = torch.randn(count, channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
    out = nn.functional.conv2d(x, weight, None, stride, padding)
    gradient = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, weight, gradient)
    for order in (torch.contiguous_format, torch.channels_last):
        found = weight_gradient(
            x.contiguous(memory_format=order),
            gradient.contiguous(memory_format=order),
            kernel,
            stride,
            padding,
            algorithm,
        )
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


def _all(network: nn.Module, algorithm: str) -> dict[str, str]:
    return {name: algorithm for name, module in network.named_modules() if convolution._is_plain(module)}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_network_has_the_same_gradients(algorithm: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = create_model("resnet18_cifar", num_classes=10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other = copy.deepcopy(network)
    chosen = _all(other, algorithm)
    assert len(chosen) == 20
    use_kernels(other, chosen)
    other = copy.deepcopy(other)
    x = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    for one in (network, other):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = one.train()(x).float().square().mean()
        loss.backward()
    for (name, one), two in zip(network.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        # bfloat16 keeps 8 bits; sums in another order differ by one rounding of each term at most.
        limit = 1e-4 if dtype == torch.float32 else 2e-2
        assert float((one.grad - two.grad).abs().max() / one.grad.abs().max()) < limit, name


def test_only_what_it_knows_is_touched() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, (3, 1), bias=False),
        nn.Conv2d(4, 4, 3, dilation=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
    )
    assert _all(network, "places") == {"6": "places"}


def test_the_fastest_is_chosen_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which one algorithm is fast for many channels, and the library for few."""
    clock = [0.0]
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    monkeypatch.setattr(measured, "time", type("T", (), {"perf_counter": lambda: clock[0]}))
    original = convolution._library

    def library(*given: object) -> object:
        clock[0] += 1.0 if given[-1][1] else 0.1  # type: ignore[index]
        return original(*given)  # type: ignore[arg-type]

    def algorithm(x: torch.Tensor, *rest: object) -> torch.Tensor:
        clock[0] += 0.2 if x.shape[3] > 16 else 0.8
        return torch.zeros(0)

    monkeypatch.setattr(convolution, "_library", library)
    monkeypatch.setattr(convolution, "ALGORITHMS", {"places": algorithm})
    network = nn.Sequential(nn.Conv2d(8, 32, 3, bias=False), nn.Conv2d(32, 8, 3, bias=False))
    assert choose_kernels(network, lambda: network(torch.randn(1, 8, 8, 8))) == {"1": "places"}
    # The same shapes are not measured again, also where the clock would say otherwise now; other ones are.
    clock[0] = 0.0
    assert choose_kernels(network, lambda: network(torch.randn(1, 8, 8, 8))) == {"1": "places"}
    assert clock[0] == 0.0
    assert choose_kernels(network, lambda: network(torch.randn(2, 8, 8, 8))) == {"1": "places"}
    assert clock[0] > 0.0
    (kept,) = (tmp_path / "measured").iterdir()
    kept.write_text("{", encoding="utf-8")
    clock[0] = 0.0
    assert choose_kernels(network, lambda: network(torch.randn(1, 8, 8, 8))) == {"1": "places"}
    assert clock[0] > 0.0


def test_a_run_measures_once_writes_it_down_and_resumes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name, _ in create_model("resnet20").named_modules()]
    target = next(name for name in names if name.startswith("stage3") and name.endswith("conv1"))
    asked = []

    def choose(network: nn.Module, forward: object) -> dict[str, str]:
        asked.append(1)
        return {target: "patches"}

    monkeypatch.setattr("danlu.train.measure.choose_kernels", choose)
    small = {"epochs": 1, "batch_size": 256, "precision": "bf16", "keep": 9, "kernels": "auto"}
    run = run_tiny(tmp_path / "run", model="resnet20", overrides=small)
    assert run.read_config()["effective"]["machine"]["kernels"] == {target: "patches"}
    assert asked == [1]
    before, kept = curve(run), hashes(run)
    record = run.read_record()
    del record["train"]
    (run.path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    again = resume(run.path, checkpoint="step-000000")
    assert asked == [1]
    assert hashes(again) == kept
    assert curve(again) == before
    plain = run_tiny(tmp_path / "plain", model="resnet20", overrides={**small, "kernels": "library"})
    assert plain.read_config()["effective"]["machine"]["kernels"] == {}
    assert hashes(plain) != kept
