"""The same pixels as torchvision's operation for the same parameters, on random uint8 pictures.

Levels are exactly equal. Two kinds of operation have a tolerance, each with its reason:

- resampling: torchvision finds the source of a pixel by float32 matrix products, we by float64 and one float32
  addition. Bilinear levels may round the other way (1 level); the nearest pixel may be the other one where the source
  lies on the line between two (such pixels are found in float64 and left out).
- Gaussian blur: torchvision sums all taps of a square at once, we rows then columns (1 level).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from danlu.augment import colours, levels
from danlu.augment.matrices import affine_matrices, perspective_matrices, window_matrices
from danlu.augment.warp import Interpolation, Sampling, warp_pictures

COUNT, HEIGHT, WIDTH = 24, 26, 33
MODES = {"bilinear": InterpolationMode.BILINEAR, "nearest": InterpolationMode.NEAREST}
SIZES = np.tile(np.array([HEIGHT, WIDTH]), (COUNT, 1))


def pictures(channels: int = 3, seed: int = 0, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (COUNT, HEIGHT, WIDTH, channels), dtype=torch.uint8, generator=generator)


def planar(given: torch.Tensor) -> torch.Tensor:
    return given.permute(0, 3, 1, 2).contiguous()


def one_by_one(function, given: torch.Tensor, *values: np.ndarray) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Return ``function`` of each picture (C, H, W) and its values, as [n, H, W, C]."""
    rows = [function(one, *(row.item() for row in rest)) for one, *rest in zip(planar(given), *values, strict=True)]
    return torch.stack(rows).permute(0, 2, 3, 1)


FACTORS = np.concatenate([[0.0, 0.5, 1.0, 2.0], np.random.default_rng(0).uniform(0, 2, COUNT - 14), np.arange(10) / 5])
TURNS = np.concatenate([[-0.5, 0.0, 0.5, 1 / 3], np.random.default_rng(1).uniform(-0.5, 0.5, COUNT - 4)])
BITS = np.arange(COUNT) % 9
THRESHOLDS = np.concatenate([[0.0, 255.0, 178.5, 0.2], np.random.default_rng(2).uniform(0, 255, COUNT - 4)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (levels.adjust_brightness, reference.adjust_brightness, FACTORS),
        (levels.adjust_contrast, reference.adjust_contrast, FACTORS),
        (colours.adjust_saturation, reference.adjust_saturation, FACTORS),
        (colours.adjust_sharpness, reference.adjust_sharpness, FACTORS),
        (colours.adjust_hue, reference.adjust_hue, TURNS),
        (levels.posterize, lambda one, bits: reference.posterize(one, int(bits)), BITS),
        (levels.solarize, reference.solarize, THRESHOLDS),
    ],
    ids=["brightness", "contrast", "saturation", "sharpness", "hue", "posterize", "solarize"],
)
def test_an_operation_with_a_value(ours, theirs, values, channels) -> None:  # type: ignore[no-untyped-def]
    given = pictures(channels)
    assert torch.equal(ours(given, values), one_by_one(theirs, given, values))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (levels.autocontrast, reference.autocontrast),
        (levels.equalize, reference.equalize),
        (levels.invert, reference.invert),
        (colours.to_grey, lambda one: reference.rgb_to_grayscale(one, num_output_channels=one.shape[0])),
    ],
    ids=["autocontrast", "equalize", "invert", "grayscale"],
)
def test_an_operation_without_a_value(ours, theirs, channels) -> None:  # type: ignore[no-untyped-def]
    given = pictures(channels, low=30, high=200)
    given[0], given[1, :, :, 0], given[2, :13] = 77, 5, 9  # one level all over, in one channel, in one half
    given[3] = 100 + given[3] % 2
    assert torch.equal(ours(given), one_by_one(theirs, given))


def test_grey_levels_of_colours_on_the_line_between_two() -> None:
    """Three of 2^24 colours lie where torchvision's float32 falls on the other side; of all others none does."""
    values = torch.arange(256)
    red, green, blue = torch.meshgrid(values, values[::3], values[::5], indexing="ij")
    given = torch.stack([red, green, blue], dim=3).reshape(1, 256, -1, 3).to(torch.uint8)
    assert (colours.to_grey(given) != one_by_one(lambda o: reference.rgb_to_grayscale(o, 3), given)).sum() <= 9


@pytest.mark.parametrize("size", [3, 5, 9])
def test_gaussian_blur(size: int) -> None:
    given, sigmas = pictures(), np.random.default_rng(3).uniform(0.1, 2.0, COUNT)
    expected = one_by_one(lambda one, sigma: reference.gaussian_blur(one, [size, size], [sigma, sigma]), given, sigmas)
    difference = (colours.gaussian_blur(given, sigmas, size).int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.001


def _agree(
    given: torch.Tensor, matrices: np.ndarray, mode: Interpolation, expected: torch.Tensor, fill: int = 0
) -> None:
    ours = warp_pictures(given, matrices, Sampling(fill, mode))
    difference = (ours.int() - expected.int()).abs()
    if mode == "bilinear":
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.005
        return
    inverse = np.linalg.inv(matrices)
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    source = inverse @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    place = source[:, :2] / source[:, 2:]
    tie = (np.abs(place - np.rint(place)) < 1e-4).any(axis=1).reshape(len(given), HEIGHT, WIDTH)
    assert tie.mean() < 0.5
    assert difference[torch.from_numpy(~tie)].max() == 0


@pytest.mark.parametrize("mode", MODES)
def test_affine(mode: Interpolation) -> None:
    given, rng = pictures(), np.random.default_rng(4)
    angle, scale = rng.uniform(-180, 180, COUNT), rng.uniform(0.5, 2, COUNT)
    shift, shear = rng.integers(-9, 10, (2, COUNT)), rng.uniform(-40, 40, (2, COUNT))
    expected = one_by_one(
        lambda one, a, x, y, s, h, v: reference.affine(one, a, [x, y], s, [h, v], interpolation=MODES[mode]),
        *(given, angle, *shift, scale, *shear),
    )
    matrices = affine_matrices(SIZES, angle, (shift[0], shift[1]), scale, (shear[0], shear[1]))
    _agree(given, matrices, mode, expected)


@pytest.mark.parametrize("mode", MODES)
def test_rotate_translate_and_slant_at_the_corner(mode: Interpolation) -> None:
    given, rng = pictures(), np.random.default_rng(5)
    angle, slant = rng.uniform(-135, 135, COUNT), rng.uniform(-45, 45, COUNT)
    turned = one_by_one(lambda one, a: reference.rotate(one, a, interpolation=MODES[mode]), given, angle)
    _agree(given, affine_matrices(SIZES, angle=-angle), mode, turned)
    slanted = one_by_one(
        lambda one, a: reference.affine(one, 0.0, [0, 0], 1.0, [a, 0.0], MODES[mode], center=[0, 0]), given, slant
    )
    _agree(given, affine_matrices(SIZES, shear=(slant, 0.0), centre=(0.0, 0.0)), mode, slanted)
    shift = rng.integers(-40, 41, COUNT)
    moved = one_by_one(lambda one, x: reference.affine(one, 0.0, [x, 2], 1.0, [0.0, 0.0], MODES[mode]), given, shift)
    ours = warp_pictures(given, affine_matrices(SIZES, translate=(shift, 2.0)), Sampling(0, mode))
    assert torch.equal(ours, moved)


@pytest.mark.parametrize("mode", MODES)
def test_perspective(mode: Interpolation) -> None:
    given, rng = pictures(), np.random.default_rng(6)
    start = np.array([[0, 0], [WIDTH - 1, 0], [WIDTH - 1, HEIGHT - 1], [0, HEIGHT - 1]])
    inwards = rng.integers(0, 9, (COUNT, 4, 2)) * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    ends = start + inwards
    rows = [
        reference.perspective(one, start.tolist(), end.tolist(), interpolation=MODES[mode])
        for one, end in zip(planar(given), ends, strict=True)
    ]
    matrices = perspective_matrices(np.tile(start.astype(float), (COUNT, 1, 1)), ends.astype(float))
    _agree(given, matrices, mode, torch.stack(rows).permute(0, 2, 3, 1))


def test_a_fill() -> None:
    """At the rim of a bilinear picture torchvision weighs the fill twice: the nearest pixel is compared."""
    given, angle = pictures(), np.random.default_rng(7).uniform(-135, 135, COUNT)
    turned = one_by_one(lambda one, a: reference.rotate(one, a, fill=128), given, angle)
    _agree(given, affine_matrices(SIZES, angle=-angle), "nearest", turned, fill=128)


@pytest.mark.parametrize("mode", MODES)
def test_resized_crop(mode: Interpolation) -> None:
    """Equal where the window's own pixels are enough: torchvision cuts first and repeats the window's rim."""
    given, rng = pictures(), np.random.default_rng(8)
    sides = np.stack([rng.integers(8, HEIGHT + 1, COUNT), rng.integers(8, WIDTH + 1, COUNT)], axis=1)
    place = np.floor(rng.uniform(size=(COUNT, 2)) * (SIZES - sides + 1))
    # "nearest-exact" is the one whose pixels lie at their middles, as everywhere else.
    way = InterpolationMode.NEAREST_EXACT if mode == "nearest" else MODES[mode]
    windows = np.concatenate([place, sides], axis=1)
    rows = [
        reference.resized_crop(one, *(int(v) for v in window), [HEIGHT, WIDTH], way, antialias=False)
        for one, window in zip(planar(given), windows, strict=True)
    ]
    expected = torch.stack(rows).permute(0, 2, 3, 1)
    ours = warp_pictures(given, window_matrices(SIZES, windows), Sampling("edge", mode))
    wrong, seen = 0, 0
    for i, (top, left, height, width) in enumerate(windows):
        y, x = (np.arange(HEIGHT) + 0.5) * height / HEIGHT, (np.arange(WIDTH) + 0.5) * width / WIDTH
        inner_y = (y >= 0.5) & (y <= height - 0.5) & (np.abs(y - np.rint(y)) > 1e-4)
        inner_x = (x >= 0.5) & (x <= width - 0.5) & (np.abs(x - np.rint(x)) > 1e-4)
        if (top, left, height, width) == (0, 0, HEIGHT, WIDTH):
            inner_y[:], inner_x[:] = True, True
        part = (ours[i].int() - expected[i].int()).abs()[inner_y][:, inner_x]
        wrong, seen = max(wrong, int(part.max())), seen + part.numel()
    assert wrong <= (1 if mode == "bilinear" else 0)
    assert seen > ours.numel() / 3


def test_the_edge_is_repeated_and_nothing_is_dark() -> None:
    bright = torch.full((COUNT, HEIGHT, WIDTH, 3), 200, dtype=torch.uint8)
    whole = np.tile(np.array([0.0, 0.0, HEIGHT - 1, WIDTH - 1]), (COUNT, 1))
    for mode in ("bilinear", "nearest"):
        out = warp_pictures(bright, window_matrices(SIZES, whole), Sampling("edge", mode))
        assert (out == 200).all()
    shifted = warp_pictures(pictures(), affine_matrices(SIZES, translate=(5.0, 0.0)), Sampling("edge"))
    assert torch.equal(shifted[:, :, :5], pictures()[:, :, :1].expand(-1, -1, 5, -1))


def test_the_found_policies_are_the_published_ones() -> None:
    from danlu.augment.policies import POLICIES

    theirs = v2.AutoAugment()
    names = {"Color": "colour", "AutoContrast": "autocontrast"}
    for name, policies in POLICIES.items():
        found = theirs._get_policies(v2.AutoAugmentPolicy[name.upper()])
        plain = [
            tuple((names.get(n, n.replace("X", "_x").replace("Y", "_y").lower()), p, level or 0) for n, p, level in sub)
            for sub in found
        ]
        assert list(policies) == plain
        assert len(policies) == 25
