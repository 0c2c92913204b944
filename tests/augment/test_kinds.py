"""What single augmentations draw: within their ranges, fairly, and as their papers say."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from danlu.augment.affine import Affine
from danlu.augment.base import Draws, Scene
from danlu.augment.colour_jitter import ColourJitter
from danlu.augment.colours import adjust_hsv
from danlu.augment.crop import Crop
from danlu.augment.cutout import Cutout
from danlu.augment.grayscale import Grayscale
from danlu.augment.pca_lighting import PCALighting
from danlu.augment.perspective import Perspective
from danlu.augment.random_erasing import RandomErasing
from danlu.augment.resized_crop import ResizedCrop
from danlu.augment.rotate import Rotate
from danlu.augment.translate import Translate
from danlu.augment.vertical_flip import VerticalFlip
from danlu.core.errors import InputError

COUNT = 3000
DRAWS = Draws(1, 0, np.arange(COUNT))
SIZES = np.tile([24, 36], (COUNT, 1))


def windows(matrices: np.ndarray) -> np.ndarray:
    """Return the windows (top, left, height, width) that matrices stretch over 24×36 pixels."""
    height, width = 24 / matrices[:, 1, 1], 36 / matrices[:, 0, 0]
    return np.stack([-matrices[:, 1, 2] * height / 24, -matrices[:, 0, 2] * width / 36, height, width], axis=1)


def noise(count: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 24, 36, channels), generator=torch.Generator().manual_seed(2)).to(torch.uint8)


def test_crops_have_their_size_and_lie_inside() -> None:
    found = windows(Crop(share=0.75).draw(DRAWS, SIZES))
    np.testing.assert_allclose(found[:, 2:], np.tile([18, 27], (COUNT, 1)))
    np.testing.assert_allclose(found[:, :2], np.rint(found[:, :2]), atol=1e-9)
    for axis, free in ((0, 7), (1, 10)):
        counts = np.bincount(np.rint(found[:, axis]).astype(int), minlength=free)
        assert len(counts) == free
        assert counts.min() > 0.75 * COUNT / free


def test_resized_crops_keep_area_and_ratio() -> None:
    found = windows(ResizedCrop().draw(DRAWS, SIZES))
    assert (found[:, :2] >= -1e-9).all()
    assert (found[:, 0] + found[:, 2] <= 24 + 1e-9).all()
    assert (found[:, 1] + found[:, 3] <= 36 + 1e-9).all()
    share = found[:, 2] * found[:, 3] / (24 * 36)
    assert share.min() > 0.05
    assert share.max() > 0.7
    ratio = found[:, 3] / found[:, 2]
    assert ratio.min() > 0.6
    assert ratio.max() < 1.65
    assert abs(np.log(ratio).mean()) < 0.05


def test_a_resized_crop_that_never_fits_is_the_middle() -> None:
    found = windows(ResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0)).draw(DRAWS, SIZES))
    np.testing.assert_allclose(found, np.tile([0, 6, 24, 24], (COUNT, 1)), atol=1e-9)
    tall = windows(ResizedCrop(scale=(1.0, 1.0), ratio=(3.0, 3.0)).draw(DRAWS, SIZES))
    np.testing.assert_allclose(tall, np.tile([6, 0, 12, 36], (COUNT, 1)), atol=1e-9)


def test_moves_stay_in_their_ranges() -> None:
    turned = Rotate(degrees=30).draw(DRAWS, SIZES)
    angles = np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert -30 <= angles.min() < -28
    assert 28 < angles.max() <= 30
    shifts = Translate(x=0.25, y=0.0).draw(DRAWS, SIZES)[:, :2, 2]
    assert set(np.rint(shifts[:, 0])) == set(range(-9, 10))
    assert (shifts[:, 1] == 0).all()
    mirrored = VerticalFlip(probability=0.3).draw(DRAWS, SIZES)[:, 1, 1] < 0
    assert 0.27 < mirrored.mean() < 0.33
    still = Affine(degrees=0, translate=(0, 0), scale=(1, 1), shear=(0, 0)).draw(DRAWS, SIZES)
    np.testing.assert_allclose(still, np.tile(np.eye(3), (COUNT, 1, 1)), atol=1e-12)
    seen = Perspective(probability=1.0, distortion=0.5).draw(DRAWS, SIZES)
    corner = seen @ np.array([36.0, 24.0, 1.0])
    corner = corner[:, :2] / corner[:, 2:]
    assert (corner <= [36 + 1e-6, 24 + 1e-6]).all()
    assert (corner >= [27 - 1e-6, 18 - 1e-6]).all()


def test_cutout_paints_one_square_that_may_hang_over() -> None:
    cutout = Cutout(size=8, fill=7)
    white = torch.full((400, 24, 36, 3), 255, dtype=torch.uint8)
    out = cutout.apply(Scene(white), cutout.draw(Draws(0, 0, np.arange(400)), SIZES[:400])).pictures
    assert set(out.unique().tolist()) == {7, 255}
    painted = (out[..., 0] == 7).sum(dim=(1, 2))
    assert painted.max() == 64
    assert painted.min() >= 16
    whole = 17 / 24 * 29 / 36
    assert abs((painted == 64).float().mean() - whole) < 0.08


def test_random_erasing_paints_a_rectangle_of_noise() -> None:
    erasing = RandomErasing(probability=0.6)
    black = torch.zeros(COUNT, 24, 36, 1, dtype=torch.uint8)
    out = erasing.apply(Scene(black), erasing.draw(DRAWS, SIZES)).pictures[..., 0]
    changed = (out > 0).flatten(1).any(1)
    assert 0.57 < changed.float().mean() < 0.63
    rows, columns = (out > 0).any(2).sum(1), (out > 0).any(1).sum(1)
    share = (rows * columns)[changed] / (24 * 36)
    assert share.max() < 0.36
    assert share.min() < 0.05
    values = out[out > 0].double()
    assert abs(values.mean() - 128) < 1
    one_level = RandomErasing(probability=1.0, fill=9)
    out = one_level.apply(Scene(black), one_level.draw(DRAWS, SIZES)).pictures
    assert set(out.unique().tolist()) == {0, 9}


def test_pca_lighting_moves_colours_along_the_directions() -> None:
    lighting = PCALighting(deviation=0.1)
    drawn = lighting.draw(DRAWS, SIZES)
    vectors, values = np.array(lighting.eigenvectors), np.array(lighting.eigenvalues)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)
    alphas = drawn.values @ vectors / values / 255
    np.testing.assert_allclose(alphas.std(axis=0), 0.1, rtol=0.06)
    pictures = noise().clamp(60, 190)
    shifts = np.array([[10.4, -3.6, 0.0]] * 8)
    out = lighting.change(pictures, shifts)
    assert torch.equal(out.int(), pictures.int() + torch.tensor([10, -4, 0]))
    with pytest.raises(InputError, match="4 channels"):
        lighting.change(torch.zeros(1, 4, 4, 4, dtype=torch.uint8), shifts[:1])


def test_hsv_agrees_with_the_standard_library() -> None:
    pictures, rng = noise(6)[:, :9, :9], np.random.default_rng(0)
    values = np.stack([rng.uniform(-0.5, 0.5, 6), rng.uniform(0.3, 1.7, 6), rng.uniform(0.6, 1.4, 6)], axis=1)
    ours = adjust_hsv(pictures, values).int()
    for i, (turn, more_saturation, more_value) in enumerate(values):
        for y in range(9):
            for x in range(9):
                h, s, v = colorsys.rgb_to_hsv(*(pictures[i, y, x] / 255.0).tolist())
                rgb = colorsys.hsv_to_rgb((h + turn) % 1, min(1, s * more_saturation), min(1, v * more_value))
                assert (ours[i, y, x] - torch.tensor(rgb) * 255).abs().max() < 1.01


def test_colour_jitter_takes_its_four_steps_in_the_drawn_order() -> None:
    from torchvision.transforms.v2 import functional as reference

    jitter, pictures = ColourJitter(), noise()
    drawn = jitter.draw(Draws(0, 0, np.arange(8)), SIZES[:8])
    assert len({tuple(row) for row in drawn.values[:, 4:]}) > 4
    steps = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    out = jitter.apply(Scene(pictures), drawn).pictures
    for given, ours, row in zip(pictures, out, drawn.values, strict=True):
        expected = given.permute(2, 0, 1).contiguous()
        for step in row[4:].astype(int):
            expected = steps[step](expected, row[step])
        assert torch.equal(ours, expected.permute(1, 2, 0))


def test_what_has_no_grey_level_is_refused() -> None:
    with pytest.raises(InputError, match="5 channels"):
        Grayscale(probability=1.0).change(torch.zeros(1, 4, 4, 5, dtype=torch.uint8), np.zeros(1))
