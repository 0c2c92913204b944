"""What every augmentation keeps: labels, boxes and masks follow the pixels; draws do not depend on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Augmentation, Draws, Scene
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
    assert {"flip", "pad_crop"} <= set(NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_masks_boxes_and_points_follow_the_pixels(name: str) -> None:
    """One bright block is drawn; after the augmentation mask, box and points must lie where its pixels are."""
    augmentation = AUGMENTATIONS.get(name)()
    count, height, width = 40, 24, 20
    pictures = torch.zeros(count, height, width, 1, dtype=torch.uint8)
    masks = torch.zeros(count, height, width, dtype=torch.uint8)
    pictures[:, 8:13, 7:10] = 255
    masks[:, 8:13, 7:10] = 1
    boxes = [torch.tensor([[7.0, 8.0, 10.0, 13.0]]) for _ in range(count)]
    points = [torch.tensor([[8.5, 10.5]]) for _ in range(count)]
    out = _apply(augmentation, Scene(pictures, masks, boxes, points), np.arange(count))
    assert out.masks is not None
    assert out.boxes is not None
    assert out.points is not None
    assert out.visible is not None
    moved = 0
    for i in range(count):
        bright = out.pictures[i, :, :, 0] > 127
        agree = (bright == (out.masks[i] == 1)).float().mean()
        assert agree > 0.99, f"mask of sample {i} does not follow"
        y, x = torch.nonzero(bright, as_tuple=True)
        seen = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        assert (out.boxes[i][0] - seen).abs().max() <= 1.0, f"box of sample {i} does not follow"
        assert (out.points[i][0] - (seen[:2] + seen[2:]) / 2).abs().max() <= 1.0, f"point of sample {i}"
        assert out.visible[i].shape == (1,)
        moved += not torch.equal(seen, boxes[i][0])
    assert moved > 5, "nothing moved, so nothing was tested"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_same_pixels_on_another_device_within_one_level(name: str) -> None:
    augmentation = AUGMENTATIONS.get(name)()
    pictures = _pictures(31, (32, 32, 3))
    here = _apply(augmentation, Scene(pictures), np.arange(31)).pictures
    there = _apply(augmentation, Scene(pictures.cuda()), np.arange(31)).pictures.cpu()
    assert (here.int() - there.int()).abs().max() <= 1
