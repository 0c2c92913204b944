"""Learned ranges: each gradient is the papers' equation, written here once more value by value, in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from danlu.compress.ranges import LearnedClip, LearnedRange, LearnedStep, Quantiser, best_shrink, limits

BITS = (2, 4, 8)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_limits() -> None:
    assert [limits(b, False) for b in BITS] == [(0, 3), (0, 15), (0, 255)]
    assert [limits(b, True) for b in BITS] == [(-2, 1), (-8, 7), (-128, 127)]


@pytest.mark.parametrize(("bits", "signed"), list(itertools.product(BITS, (False, True))))
def test_lsq_is_equations_2_to_5(bits: int, signed: bool) -> None:
    low, high = limits(bits, signed)
    v, g = values(40), values(40, seed=1)
    step = torch.tensor([1.3 / high], dtype=torch.float64, requires_grad=True)
    x = v.clone().requires_grad_()
    scale = (40 * high) ** -0.5  # g = 1 / sqrt(N Q_P), section 2.2
    LearnedStep.apply(x, step, low, high, scale).backward(g)
    s = step.item()
    wanted = 0.0
    for one, upstream in zip(v.tolist(), g.tolist(), strict=True):
        if one / s <= low:
            of_step = low
        elif one / s >= high:
            of_step = high
        else:
            of_step = -one / s + round(one / s)  # equation 3
        wanted += upstream * of_step * scale
    assert float(step.grad) == pytest.approx(wanted, rel=1e-12)  # type: ignore[arg-type]
    inside = (v / s > low) & (v / s < high)
    assert torch.equal(x.grad, g * inside)  # type: ignore[arg-type]  # equation 5
    assert 0 < int(inside.sum()) < 40


def test_a_step_a_channel_gets_the_gradient_of_its_own_values() -> None:
    v, g = values(3, 20), values(3, 20, seed=1)
    steps = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1).requires_grad_()
    LearnedStep.apply(v, steps, -8, 7, 1.0).backward(g)
    for row in range(3):
        alone = steps.detach()[row].clone().requires_grad_()
        LearnedStep.apply(v[row], alone, -8, 7, 1.0).backward(g[row])
        assert torch.allclose(steps.grad[row], alone.grad, rtol=1e-12)  # type: ignore[index,arg-type]


@pytest.mark.parametrize("bits", BITS)
def test_pact_is_equation_3(bits: int) -> None:
    low, high = limits(bits, False)
    v, g = values(40), values(40, seed=1)
    alpha = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    x = v.clone().requires_grad_()
    y = LearnedClip.apply(x, alpha, low, high)
    # Equation 1 and 2: 0.5 (|x| - |x - a| + a), rounded to 2^k - 1 steps of a.
    clipped = 0.5 * (v.abs() - (v - 0.7).abs() + 0.7)
    assert torch.allclose(y, (clipped * high / 0.7).round() * 0.7 / high, atol=1e-12)
    y.backward(g)
    assert float(alpha.grad) == pytest.approx(float(g[v >= 0.7].sum()), rel=1e-12)  # type: ignore[arg-type]
    assert torch.equal(x.grad, g * ((v > 0) & (v < 0.7)))  # type: ignore[arg-type]


def test_pact_of_signed_values_moves_both_ends() -> None:
    v, g = values(60), values(60, seed=1)
    alpha = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    y = LearnedClip.apply(v, alpha, -8, 7)
    y.backward(g)
    wanted = float(g[v >= 0.7].sum() - g[v <= -0.8].sum())  # -8 steps of 0.1
    assert float(alpha.grad) == pytest.approx(wanted, rel=1e-12)  # type: ignore[arg-type]
    assert (y.min().item(), y.max().item()) == pytest.approx((-0.8, 0.7))


@pytest.mark.parametrize("bits", BITS)
def test_minimum_and_maximum_get_the_straight_through_gradient(bits: int) -> None:
    levels = 2**bits - 1
    v, g = values(60), values(60, seed=1)
    # Ends at which 0 is an integer, so that the range is not moved and the derivation holds exactly.
    step = 2.0 / levels
    ends = torch.tensor([-round(0.4 * levels) * step, 0.0], dtype=torch.float64)
    ends[1] = ends[0] + 2.0
    least, most = (end.clone().requires_grad_() for end in ends)
    x = v.clone().requires_grad_()
    LearnedRange.apply(x, least.view(1), most.view(1), levels).backward(g)
    low, high = 0.0, 0.0
    for one, upstream in zip(v.tolist(), g.tolist(), strict=True):
        # y = least + s r with s = (most - least) / levels and r = round((x - least) / s) passed straight through.
        u = (one - float(ends[0])) / step
        if u <= 0:
            low += upstream
        elif u >= levels:
            high += upstream
        else:
            low -= upstream * (round(u) - u) / levels
            high += upstream * (round(u) - u) / levels
    assert float(least.grad) == pytest.approx(low, rel=1e-9)  # type: ignore[arg-type]
    assert float(most.grad) == pytest.approx(high, rel=1e-9)  # type: ignore[arg-type]
    assert torch.equal(x.grad, g * ((v > ends[0]) & (v < ends[1])))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "channels"), list(itertools.product(("lsq", "pact", "minmax"), (False, True))))
def test_what_is_deployed_is_what_was_trained(kind: Any, channels: bool) -> None:
    sample = values(6, 50).float() + (0.3 if not channels else 0.0)
    for bits, shift in itertools.product(BITS, (0.0, 5.0)):
        x = sample + shift
        quantiser = Quantiser(kind, bits, x, channels)
        lattice = quantiser.lattice()
        step = lattice.step.view(-1, 1) if channels else lattice.step
        whole = ((x / step).round() + lattice.zero).clamp(lattice.low, lattice.high)
        assert torch.equal(quantiser(x), (whole - lattice.zero) * step)
        assert float(lattice.zero) == round(float(lattice.zero))
        assert lattice.low <= float(lattice.zero) <= lattice.high
        assert quantiser(torch.zeros_like(x)).abs().max().item() == 0.0
        error = (quantiser(x).detach() - x).square().mean() / x.square().mean()
        assert error < {2: 0.4, 4: 0.02, 8: 2e-4}[bits]


def test_ranges_stay_open() -> None:
    for kind in ("lsq", "pact", "minmax"):
        quantiser = Quantiser(kind, 4, values(10, 10).float())  # type: ignore[arg-type]
        with torch.no_grad():
            quantiser.range.fill_(-5.0)
        quantiser.settle()
        lattice = quantiser.lattice()
        assert float(lattice.step) > 0
        assert bool(torch.isfinite(quantiser(values(5).float())).all())


def test_the_first_range_is_the_best_of_the_grid() -> None:
    x = values(2, 4000).float()
    x[1, 0] = 40.0  # an outlier, which is clipped rather than kept
    steps = best_shrink(x, -8, 7, channels=True)
    assert steps.shape == (2,)
    assert 7 * float(steps[1]) < 20
    for row in range(2):
        errors = [
            float(((x[row] / s).round().clamp(-8, 7) * s - x[row]).square().mean())
            for s in (float(steps[row]) * f for f in (0.7, 1.0, 1.4))
        ]
        assert errors[1] == min(errors)
