from __future__ import annotations

import numpy as np
import pytest

from danlu.core import seeds


def test_values_are_fixed_for_ever() -> None:
    """Draws are part of a run's record: a change of the mixer would change every run."""
    assert int(seeds.random_bits("flip", 0, 1, 2)) == 7149547945135203983
    assert seeds.permutation(8, "order", 0, 0).tolist() == [2, 4, 3, 6, 0, 5, 7, 1]


def test_draws_do_not_depend_on_the_batch() -> None:
    samples = np.arange(1000)
    whole = seeds.uniform("crop", 3, 5, samples)
    assert np.array_equal(whole[137:201], seeds.uniform("crop", 3, 5, samples[137:201]))
    assert whole[137] == seeds.uniform("crop", 3, 5, 137)


def test_purposes_seeds_and_epochs_are_independent() -> None:
    samples = np.arange(20_000)
    base = seeds.uniform("crop", 0, 0, samples)
    for other in (("flip", 0, 0), ("crop", 1, 0), ("crop", 0, 1)):
        drawn = seeds.uniform(other[0], *other[1:], samples)
        assert abs(np.corrcoef(base, drawn)[0, 1]) < 0.03


def test_uniform_is_uniform() -> None:
    drawn = seeds.uniform("u", 0, np.arange(100_000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_integers_cover_their_range_evenly() -> None:
    drawn = seeds.integers(9, "shift", 0, np.arange(90_000))
    counts = np.bincount(drawn, minlength=9)
    assert len(counts) == 9
    assert counts.min() > 9_600


def test_permutation_is_one_and_differs_by_epoch() -> None:
    first, second = seeds.permutation(1000, "order", 0, 0), seeds.permutation(1000, "order", 0, 1)
    assert sorted(first.tolist()) == list(range(1000))
    assert (first != second).mean() > 0.9


def test_floats_are_no_counters() -> None:
    with pytest.raises(TypeError, match="counters are integers"):
        seeds.uniform("u", 0.5)
    with pytest.raises(ValueError, match="at least 1"):
        seeds.integers(0, "u", 1)


def test_a_seed_is_the_same_bits_without_arrays() -> None:
    for counters in ((), (0,), (7, 3), (2**63, 1, -1), (-5,)):
        assert seeds.derive_seed("a use", *counters) == int(seeds.random_bits("a use", *counters).item()) >> 1
