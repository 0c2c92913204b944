"""Policies: each sample's own operations, as torchvision does them one by one; and the search over sub-policies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from danlu.augment import AUGMENTATIONS
from danlu.augment.augmix import AugMix
from danlu.augment.autoaugment import AutoAugment, SubPolicy
from danlu.augment.base import Draws, Scene
from danlu.augment.chain import make_augmentation
from danlu.augment.distributions import dirichlet, gamma, normal
from danlu.augment.operations import MOVES, OPERATIONS, STANDARD, Steps, apply_steps, number_of
from danlu.augment.randaugment import RandAugment
from danlu.augment.search import draw_sub_policies, search
from danlu.augment.trivialaugment import TrivialAugment
from danlu.augment.warp import Sampling
from danlu.core.errors import InputError

COUNT = 160
SIZES = np.full((COUNT, 2), 32)


def pictures(count: int = COUNT, low: int = 20, high: int = 230) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(low, high, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)


def draws(count: int = COUNT) -> Draws:
    return Draws(7, 0, np.arange(count))


def as_torchvision(one: torch.Tensor, name: str, value: float, mode: InterpolationMode) -> torch.Tensor:
    """Return one picture (C, H, W) after torchvision's operation."""
    slope = math.degrees(math.atan(value))
    affine = {
        "shear_x": ([0, 0], [slope, 0.0], [0, 0]),
        "shear_y": ([0, 0], [0.0, slope], [0, 0]),
        "translate_x": ([int(value), 0], [0.0, 0.0], None),
        "translate_y": ([0, int(value)], [0.0, 0.0], None),
    }
    if name in affine:
        shift, shear, centre = affine[name]
        return reference.affine(one, 0.0, shift, 1.0, shear, mode, center=centre)
    ways = {
        "identity": lambda: one,
        "rotate": lambda: reference.rotate(one, value, mode),
        "brightness": lambda: reference.adjust_brightness(one, value),
        "colour": lambda: reference.adjust_saturation(one, value),
        "contrast": lambda: reference.adjust_contrast(one, value),
        "sharpness": lambda: reference.adjust_sharpness(one, value),
        "posterize": lambda: reference.posterize(one, round(value)),
        "solarize": lambda: reference.solarize(one, value),
        "autocontrast": lambda: reference.autocontrast(one),
        "equalize": lambda: reference.equalize(one),
        "invert": lambda: reference.invert(one),
    }
    return ways[name]()


def replay(given: torch.Tensor, steps: Steps, mode: InterpolationMode) -> torch.Tensor:
    out = given.permute(0, 3, 1, 2).contiguous()
    for operations, values in zip(steps.operations.T, steps.magnitudes.T, strict=True):
        rows = zip(out, operations, values, strict=True)
        out = torch.stack([as_torchvision(one, OPERATIONS[number], float(v), mode) for one, number, v in rows])
    return out.permute(0, 2, 3, 1)


def moves_twice(steps: Steps) -> np.ndarray:
    """Return which samples have two moves with no change of levels between them: they are resampled once, not twice."""
    result = np.zeros(len(steps.operations), dtype=bool)
    for place, row in enumerate(steps.operations):
        kinds = ["move" if OPERATIONS[n] in MOVES else "change" for n in row if OPERATIONS[n] != "identity"]
        result[place] = ("move", "move") in itertools.pairwise(kinds)
    return result


@pytest.mark.parametrize(
    "policy",
    [
        RandAugment(),
        RandAugment(operations=3, magnitude=14),
        TrivialAugment(),
        AutoAugment(),
        AutoAugment(policy="imagenet"),
        AutoAugment(policy="svhn"),
    ],
    ids=repr,
)
def test_each_sample_as_torchvision_does_it_alone(policy: RandAugment | TrivialAugment | AutoAugment) -> None:
    given = pictures()
    steps = policy.draw(draws(), SIZES)
    once = torch.from_numpy(~moves_twice(steps))
    ours = policy.apply(Scene(given), steps).pictures[once]
    theirs = replay(given, steps, InterpolationMode.NEAREST)[once]
    # A pixel whose source lies on the line between two may be the other one; see test_same_pixels.
    assert (ours != theirs).float().mean() < 1e-3
    assert (ours != given[once]).float().mean() > 0.3


def test_two_moves_are_resampled_once() -> None:
    there_and_back = Steps(np.full((4, 2), number_of("rotate")), np.tile([20.0, -20.0], (4, 1)))
    given = pictures(4)
    assert torch.equal(apply_steps(Scene(given), there_and_back, Sampling()).pictures, given)


def test_every_operation_of_the_space_is_drawn() -> None:
    many = Draws(0, 0, np.arange(4000))
    sizes = np.full((4000, 2), 32)
    for policy in (RandAugment(), TrivialAugment()):
        counts = np.bincount(policy.draw(many, sizes).operations.ravel(), minlength=len(OPERATIONS))
        assert counts[number_of("invert")] == 0
        share = np.delete(counts, number_of("invert")) / counts.sum()
        assert abs(share - 1 / 14).max() < 0.015
    both = RandAugment().draw(many, sizes)
    chosen = both.magnitudes[both.operations == number_of("rotate")]
    assert set(np.round(chosen, 9)) == {-9.0, 9.0}


def test_auto_augment_applies_with_the_probabilities_of_its_sub_policy() -> None:
    two = ((("invert", 0.25, 0), ("rotate", 0.75, 3)),)
    steps = AutoAugment(sub_policies=two).draw(Draws(0, 0, np.arange(4000)), np.full((4000, 2), 32))
    assert abs((steps.operations[:, 0] == number_of("invert")).mean() - 0.25) < 0.03
    assert abs((steps.operations[:, 1] == number_of("rotate")).mean() - 0.75) < 0.03
    assert set(np.round(np.abs(steps.magnitudes[steps.operations[:, 1] == number_of("rotate"), 1]), 9)) == {10.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "autoaugment", "policy": "mnist"}, "policy"),
        ({"name": "autoaugment", "sub_policies": [[["rotat", 0.1, 1], ["invert", 0.1, 1]]]}, "no operation"),
        ({"name": "autoaugment", "sub_policies": [[["rotate", 0.1, 10], ["invert", 0.1, 1]]]}, "less than 10"),
        ({"name": "randaugment", "magnitude": 31}, "at most 30"),
        ({"name": "gaussian_blur", "size": 4}, "odd"),
        ({"name": "resized_crop", "scale": [0.9, 0.1]}, "least, greatest"),
        ({"name": "rotate", "fill": "grey"}, "fill"),
    ],
)
def test_bad_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_augmentation(values)


def test_settings_come_back_from_json() -> None:
    for name in AUGMENTATIONS.names():
        augmentation = AUGMENTATIONS.get(name)()
        assert make_augmentation({"name": name, **augmentation.model_dump(mode="json")}) == augmentation


def test_augmix_is_the_mixture_of_its_chains() -> None:
    given = pictures()
    mix = AugMix(operations="all", depth=1)
    drawn = mix.draw(draws(), SIZES)
    np.testing.assert_allclose(drawn.weights.sum(axis=1), 1.0)
    assert drawn.weights.shape == (COUNT, 4)
    weights = torch.from_numpy(drawn.weights).float()[:, :, None, None, None]
    expected = weights[:, 0] * given
    for k, chain in enumerate(drawn.chains):
        expected += weights[:, k + 1] * replay(given, chain, InterpolationMode.BILINEAR)
    difference = (mix.apply(Scene(given), drawn).pictures.int() - expected.to(torch.uint8).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01


def test_depths_of_augmix_are_one_to_three() -> None:
    drawn = AugMix().draw(Draws(0, 0, np.arange(3000)), np.full((3000, 2), 32))
    depths = (drawn.chains[0].operations > 0).sum(axis=1)
    assert set(depths) == {1, 2, 3}
    assert np.bincount(depths)[1:].min() > 900
    assert not np.array_equal(drawn.chains[0].operations, drawn.chains[1].operations)


def test_distributions_have_their_moments() -> None:
    many = Draws(0, 0, np.arange(40000))
    values = normal(many, "n")
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    for shape in (0.3, 1.0, 4.0):
        values = gamma(many, shape, "g")
        assert abs(values.mean() / shape - 1) < 0.03
        assert abs(values.var() / shape - 1) < 0.06
    shares = dirichlet(many, 0.5, 3, "d")
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert abs(shares.mean(axis=0) - 1 / 3).max() < 0.01


def synthetic(policy: tuple[SubPolicy, ...]) -> float:
    """Return a score that rewards rotations near level 5 and punishes inversions; each further one counts half."""
    parts = [
        chance * ((1 - abs(level - 5) / 5) if name == "rotate" else -1.0 if name == "invert" else 0.0)
        for sub in policy
        for name, chance, level in sub
    ]
    return sum(part * 0.5**k for k, part in enumerate(sorted(parts, reverse=True)))


def test_the_search_finds_what_the_score_rewards_and_repeats_itself() -> None:
    found = search(synthetic, candidates=80, shortlist=8, keep=3, seed=4)
    assert 1 <= len(found.policy) <= 3
    assert found.score == synthetic(found.policy)
    assert found.score > max(trial.score for trial in found.trials[:81]) - 1e-12
    assert any(name == "rotate" for sub in found.policy for name, _, _ in sub)
    assert not any(name == "invert" for sub in found.policy for name, _, _ in sub)
    assert len(found.trials) <= 1 + 80 + 3 * 8
    assert search(synthetic, candidates=80, shortlist=8, keep=3, seed=4) == found
    assert search(synthetic, candidates=80, shortlist=8, keep=3, seed=5) != found
    made = found.augmentation()
    assert made is not None
    assert make_augmentation({"name": "autoaugment", **made.model_dump(mode="json")}) == made
    assert made.chosen() == found.policy


def test_the_search_keeps_nothing_where_nothing_helps() -> None:
    found = search(lambda policy: -float(len(policy)), candidates=5, shortlist=5, keep=2)
    assert found.policy == ()
    assert found.score == 0.0
    assert found.augmentation() is None


def test_bad_searches_are_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        search(lambda policy: math.nan)
    with pytest.raises(InputError, match="rotate"):
        search(synthetic, operations=["rotat"])
    with pytest.raises(InputError, match="keep"):
        search(synthetic, keep=0)
    with pytest.raises(InputError, match="different"):
        draw_sub_policies(101, 0, ["invert"])
    assert len(set(draw_sub_policies(100, 0, ["invert"]))) == 100


def test_magnitudes_are_torchvisions() -> None:
    from torchvision.transforms.v2 import RandAugment as Theirs

    names = {"Color": "colour", "AutoContrast": "autocontrast"}
    for name, (levels, _) in Theirs._AUGMENTATION_SPACE.items():
        values = levels(31, 32, 48)
        own = names.get(name, name.replace("X", "_x").replace("Y", "_y").lower())
        numbers = np.full(31, number_of(own))
        ours = STANDARD.magnitudes(numbers, np.arange(31) / 30, np.zeros(31, dtype=bool), np.tile([32, 48], (31, 1)))
        if values is None:
            assert (ours == 0).all()
            continue
        theirs = values.double().numpy()
        factor = name in ("Brightness", "Color", "Contrast", "Sharpness")
        theirs = 1 + theirs if factor else 255 * theirs if name == "Solarize" else theirs
        np.testing.assert_allclose(np.rint(ours) if name == "Posterize" else ours, theirs, atol=1e-4)
