"""What every augmentation keeps: labels, boxes and masks follow the pixels; draws do not depend on the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Augmentation, Draws, Scene
from danlu.core.errors import InputError
from danlu.core.registry import index_text

# Those that pair pictures within the batch or need other samples are in test_augment_mixing.py.
NAMES = [name for name, facts in AUGMENTATIONS.index.items() if not {"in_batch", "partners"} & facts.keys()]
SHAPES = [(1, 1, 1), (8, 8, 1), (9, 14, 3), (32, 32, 3)]


def _pictures(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def _sizes(pictures: torch.Tensor) -> np.ndarray:
    return np.tile(np.array(pictures.shape[1:3], dtype=np.int64), (len(pictures), 1))


def _apply(augmentation: Augmentation, scene: Scene, samples: np.ndarray, epoch: int = 0) -> Scene:
    return augmentation.apply(scene, augmentation.draw(Draws(3, epoch, samples), _sizes(scene.pictures)))


def test_there_are_augmentations_and_their_index_is_fresh() -> None:
    assert {"flip", "pad_crop", "randaugment"} <= set(NAMES)
    assert AUGMENTATIONS.index_path.read_text(encoding="utf-8") == index_text(AUGMENTATIONS.build_index())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_pictures_keep_their_shape_and_type_and_the_input_stays(name: str, shape: tuple[int, int, int]) -> None:
    pictures = _pictures(17, shape)
    before = pictures.clone()
    out = _apply(AUGMENTATIONS.get(name)(), Scene(pictures), np.arange(17)).pictures
    assert out.dtype == torch.uint8
    assert out.shape == pictures.shape
    assert out.data_ptr() != pictures.data_ptr()
    assert torch.equal(pictures, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_none(name: str) -> None:
    out = _apply(AUGMENTATIONS.get(name)(), Scene(_pictures(0, (8, 8, 1))), np.arange(0)).pictures
    assert out.shape == (0, 8, 8, 1)


@pytest.mark.parametrize("name", NAMES)
def test_same_pixels_whatever_the_batch_size(name: str) -> None:
    augmentation = AUGMENTATIONS.get(name)()
    pictures, samples = _pictures(23, (16, 12, 3)), np.random.default_rng(0).permutation(1000)[:23]
    whole = _apply(augmentation, Scene(pictures), samples, epoch=2).pictures
    for size in (1, 5, 8):
        parts = [
            _apply(augmentation, Scene(pictures[start : start + size]), samples[start : start + size], epoch=2).pictures
            for start in range(0, 23, size)
        ]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("name", NAMES)
def test_draws_change_with_epoch_sample_repeat_and_seed(name: str) -> None:
    augmentation = AUGMENTATIONS.get(name)()
    picture = _pictures(1, (16, 16, 3)).expand(64, -1, -1, -1).contiguous()
    sizes, samples = _sizes(picture), np.arange(64)
    seen = {
        augmentation.apply(Scene(picture), augmentation.draw(draws, sizes)).pictures.numpy().tobytes()
        for draws in (
            Draws(0, 0, samples),
            Draws(0, 1, samples),
            Draws(0, 0, samples + 64),
            Draws(0, 0, samples, repeat=1),
            Draws(1, 0, samples),
            Draws(0, 0, samples).named("another"),
        )
    }
    assert len(seen) == 6


def _laid_out(count: int) -> Scene:
    """Return dark pictures with one bright block each, and mask, box and point where the block is."""
    pictures = torch.zeros(count, 48, 40, 3, dtype=torch.uint8)
    masks = torch.zeros(count, 48, 40, dtype=torch.uint8)
    pictures[:, 16:31, 12:25] = 255
    masks[:, 16:31, 12:25] = 1
    boxes = [torch.tensor([[12.0, 16.0, 25.0, 31.0]]) for _ in range(count)]
    points = [torch.tensor([[18.5, 23.5]]) for _ in range(count)]
    return Scene(pictures, masks, boxes, points)


@pytest.mark.parametrize("name", [name for name in NAMES if AUGMENTATIONS.index[name]["geometric"]])
def test_masks_boxes_and_points_follow_the_pixels(name: str) -> None:
    """After the augmentation mask, box and points must lie where the block's pixels are."""
    kind = AUGMENTATIONS.get(name)
    if name == "augmix":
        with pytest.raises(InputError, match="still"):
            _apply(kind(), _laid_out(4), np.arange(4))
        return
    count, moved = 150, 0
    before = _laid_out(count)
    out = _apply(kind(), before, np.arange(count))
    assert out.masks is not None
    assert out.boxes is not None
    assert out.points is not None
    assert out.visible is not None
    for i in range(count):
        assert out.visible[i].shape == (1,)
        block = out.masks[i] == 1
        if out.visible[i][0] < 0.999 or not block.any():
            continue
        # Policies change levels too: what separates block and ground is half-way between their means.
        grey = out.pictures[i].float().mean(2)
        inside, outside = grey[block].mean(), grey[out.masks[i] == 0].mean()
        if (inside - outside).abs() < 64:
            continue
        bright = ((grey > (inside + outside) / 2) == (inside > outside)) & (out.masks[i] != 255)
        near = F.max_pool2d(block[None].float(), 3, 1, 1)[0] > F.avg_pool2d(block[None].float(), 3, 1, 1)[0] + 1e-4
        assert not ((bright != block) & ~near).any(), f"mask of sample {i} does not follow"
        y, x = torch.nonzero(block, as_tuple=True)
        seen = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        # The tip of a turned block is narrower than a pixel.
        assert (out.boxes[i][0] - seen).abs().max() <= 1.5, f"box of sample {i} does not follow"
        middle = torch.stack([x.float().mean(), y.float().mean()]) + 0.5
        assert (out.points[i][0] - middle).abs().max() <= 1.0, f"point of sample {i}"
        moved += not torch.equal(out.boxes[i][0], torch.tensor([12.0, 16.0, 25.0, 31.0]))
    assert moved > 5, "nothing moved, so nothing was tested"


@pytest.mark.parametrize("name", [name for name in NAMES if not AUGMENTATIONS.index[name]["geometric"]])
def test_where_nothing_moves_masks_boxes_and_points_stay(name: str) -> None:
    before = _laid_out(20)
    generator = torch.Generator().manual_seed(5)
    noisy = torch.randint(20, 230, before.pictures.shape, dtype=torch.uint8, generator=generator)
    out = _apply(AUGMENTATIONS.get(name)(), replace(before, pictures=noisy), np.arange(20))
    assert out.masks is before.masks
    assert out.boxes is before.boxes
    assert out.points is before.points
    assert not torch.equal(out.pictures, noisy)
    if name in ("cutout", "random_erasing"):
        return
    # A pixel depends on itself and at most its near neighbours: a change in one corner leaves the others alone,
    # unless statistics of the whole picture say otherwise, which the least and greatest level keep alike.
    noisy[:, :2, :2], noisy[:, 5, 5], noisy[:, 6, 6] = 100, 0, 255
    other = noisy.clone()
    other[:, :2, :2] = torch.tensor([[[101, 99, 100], [99, 101, 100]]], dtype=torch.uint8)
    changed = [_apply(AUGMENTATIONS.get(name)(), Scene(one), np.arange(20)).pictures for one in (noisy, other)]
    far = (changed[0].int() - changed[1].int())[:, 12:, 12:].abs()
    assert far.max() <= 2, "a pixel far away changed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_same_pixels_on_another_device_within_one_level(name: str) -> None:
    augmentation = AUGMENTATIONS.get(name)()
    pictures = _pictures(31, (32, 32, 3))
    here = _apply(augmentation, Scene(pictures), np.arange(31)).pictures
    there = _apply(augmentation, Scene(pictures.cuda()), np.arange(31)).pictures.cpu()
    assert (here.int() - there.int()).abs().max() <= 1
