"""Pruning and sharing: what is kept, that it stays removed, that centroids learn by the sum of their members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from danlu.compress.base import Subject, subject_of, weighted_layers
from danlu.compress.prune import Prune, PruneSettings, magnitude_masks, sensitivities
from danlu.compress.retrain import Hooks, retrain
from danlu.compress.share import Share, ShareSettings, bake, cluster, first_centroids, k_means, nearest, replace_weight
from danlu.core.errors import CheckFailed
from danlu.train.optimizer_settings import SgdSettings
from tests.compress.networks import few_digits, network_run


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return subject_of(network_run("lenet5", tmp_path), few_digits(), device="cpu", threads=1)


def test_a_global_threshold_keeps_the_largest_of_all() -> None:
    weights = {"a": torch.tensor([[1.0, -4.0, 2.0, -3.0]]), "b": torch.tensor([[0.1, 0.2], [-0.3, 0.4]]) * 100}
    masks = magnitude_masks(weights, 0.5)
    assert sum(int(mask.sum()) for mask in masks.values()) == 4
    assert masks["a"].tolist() == [[False, True, False, True]]
    # A layer that is small throughout is compared by its own spread, and keeps at least one weight.
    assert int(magnitude_masks(weights, 0.001)["b"].sum()) >= 1


def test_shares_by_layer_and_by_name() -> None:
    weights = {"a": torch.arange(1.0, 101), "b": torch.arange(1.0, 11)}
    masks = magnitude_masks(weights, 0.2, "layer", {"b": 0.5})
    assert [int(masks[name].sum()) for name in "ab"] == [20, 5]
    balanced = magnitude_masks(weights, 0.2, "sensitivity", {}, {"a": 0.1, "b": 0.8})
    kept = {name: float(mask.float().mean()) for name, mask in balanced.items()}
    assert sum(int(mask.sum()) for mask in balanced.values()) == pytest.approx(22, abs=1)
    assert kept["b"] > 4 * kept["a"]


def test_removed_weights_stay_removed(subject: Subject) -> None:
    done = Prune().apply(subject, PruneSettings(keep=0.2, rounds=2, epochs=2))
    for name, weight in weighted_layers(done.model).items():
        assert not bool(torch.signbit(weight[weight == 0]).any()), f"{name} has a zero of the other sign"
    kept = sum(int(torch.count_nonzero(weight)) for weight in weighted_layers(done.model).values())
    assert kept <= done.report["rounds"][-1]["kept"]
    assert kept == pytest.approx(0.2 * 61_470, rel=0.01)


def test_sensitivities_are_of_each_layer_alone(subject: Subject) -> None:
    before = {name: weight.detach().clone() for name, weight in weighted_layers(subject.model).items()}
    found = sensitivities(subject, drop=100.0)
    assert set(found.values()) == {0.01}
    assert set(sensitivities(subject, drop=1e-9)) == set(before)
    for name, weight in weighted_layers(subject.model).items():
        assert torch.equal(weight, before[name])


def test_a_centroids_gradient_is_the_sum_of_its_members() -> None:
    layer = nn.Linear(3, 2, bias=False)
    members = torch.tensor([[0, 1, 0], [-1, 1, 1]])
    from danlu.compress.share import Shared

    replace_weight(layer, "weight", Shared(torch.tensor([2.0, -1.0]), members))
    assert layer.weight.tolist() == [[2.0, -1.0, 2.0], [0.0, -1.0, -1.0]]
    gradient = torch.tensor([[1.0, 10.0, 100.0], [1000.0, 0.5, 0.25]])
    (layer.weight * gradient).sum().backward()
    codebook = dict(layer.named_parameters())["parametrizations.weight.0.codebook"]
    assert codebook.grad is not None
    assert codebook.grad.tolist() == [101.0, 10.75]
    bake(layer)
    assert type(layer.weight) is nn.Parameter
    assert layer.weight.tolist() == [[2.0, -1.0, 2.0], [0.0, -1.0, -1.0]]


@pytest.mark.parametrize("init", ["linear", "density", "random"])
def test_sharing_leaves_few_values_and_the_zeros(subject: Subject, init: Any) -> None:
    with torch.no_grad():
        for weight in weighted_layers(subject.model).values():
            weight[weight.abs() < weight.abs().median()] = 0.0
    zeros = {name: weight == 0 for name, weight in weighted_layers(subject.model).items()}
    done = Share().apply(subject, ShareSettings(conv_bits=4, linear_bits=2, init=init, epochs=1))
    for name, weight in weighted_layers(done.model).items():
        assert torch.equal(weight == 0, zeros[name])
        values = torch.unique(weight[weight != 0])
        assert 1 < len(values) <= (16 if weight.dim() > 2 else 4)


def test_where_centroids_begin() -> None:
    values, rng = np.array([0.0, 1, 2, 3, 100]), np.random.default_rng(0)
    assert first_centroids(values, 3, "linear", rng).tolist() == [0, 50, 100]
    assert first_centroids(values, 1, "density", rng).tolist() == [2]
    assert set(first_centroids(values, 3, "random", rng)) <= set(values)
    assert len(first_centroids(values, 9, "random", rng)) == 5


def plain_lloyd(values: np.ndarray[Any, Any], centroids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """k-means as the textbook has it, a distance for each pair."""
    for _ in range(300):
        place = np.abs(values[:, None] - centroids[None]).argmin(1)
        moved = np.array([values[place == k].mean() if (place == k).any() else c for k, c in enumerate(centroids)])
        if np.allclose(moved, centroids, rtol=0, atol=1e-12):
            break
        centroids = moved
    return np.array([c for k, c in enumerate(centroids) if (place == k).any()])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 9))
def test_k_means_on_a_line_is_k_means(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(60)
    start = first_centroids(values, count, "linear", rng)
    assert np.allclose(k_means(values, start), plain_lloyd(values, start), atol=1e-9)


def test_nothing_to_share_and_one_value() -> None:
    rng = np.random.default_rng(0)
    shared, distortion = cluster(torch.zeros(3, 4), 5, "linear", rng)
    assert (len(shared.codebook), distortion) == (0, 0.0)
    assert shared(torch.ones(3, 4)).abs().sum() == 0
    shared, distortion = cluster(torch.full((3, 4), 7.0), 5, "linear", rng)
    assert shared.codebook.tolist() == [7.0]
    assert nearest(np.array([7.0]), np.array([7.0])).tolist() == [0]


def test_retraining_calls_its_hooks_and_stops_at_nan(subject: Subject) -> None:
    steps: list[tuple[int, int]] = []
    config = subject.settings.model_copy(update={"epochs": 2, "batch_size": 32, "optimizer": SgdSettings(lr=0.01)})
    hooks = Hooks(after_step=lambda step, total: steps.append((step, total)))
    means = retrain(subject, subject.model, config, hooks=hooks)
    assert steps == [(number, 6) for number in range(1, 7)]
    assert set(means) >= {"loss", "accuracy"}
    assert not subject.model.training
    with pytest.raises(CheckFailed, match="spoiled: the loss or the weights are no longer finite in epoch 1"):
        broken = Hooks(penalty=lambda: torch.tensor(torch.nan))
        retrain(subject, subject.model, config, title="spoiled", hooks=broken)


def test_retraining_is_the_same_twice(tmp_path: Path) -> None:
    states = []
    for name in "ab":
        (tmp_path / name).mkdir()
        again = subject_of(network_run("lenet5", tmp_path / name), few_digits(), device="cpu", threads=1)
        with again.settled():
            retrain(again, again.model, again.settings.model_copy(update={"epochs": 1}))
        states.append(again.model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("by", ["global", "layer"])
def test_ties_and_zeros_are_not_kept_beyond_the_share(by: str) -> None:
    weights = {"equal": torch.ones(100), "pruned": torch.cat([torch.randn(10), torch.zeros(90)])}
    masks = magnitude_masks(weights, 0.3, by)
    if by == "layer":
        assert masks["equal"].sum() == 30
    assert not masks["pruned"][10:].any()
    # One more where a layer would have lost all.
    assert sum(int(mask.sum()) for mask in masks.values()) <= 61
    assert magnitude_masks(weights, 0.9, by)["pruned"].sum() == 10
