"""Matrices applied to pixels: exact where they are whole, resampled once where they are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from danlu.augment import warp
from danlu.augment.base import Draws, Scene, identity
from danlu.augment.pad_crop import PadCrop
from danlu.augment.warp import (
    IGNORE,
    Sampling,
    _copy_shifted,
    _gather,
    is_exact,
    warp_boxes,
    warp_masks,
    warp_pictures,
    warp_points,
)


def _matrix(sx: float = 1, sy: float = 1, tx: float = 0, ty: float = 0) -> np.ndarray:
    return np.array([[sx, 0, tx], [0, sy, ty], [0, 0, 1]], dtype=np.float64)


def _shifted_by_hand(picture: np.ndarray, dx: int, dy: int, fill: int = 0) -> np.ndarray:
    out = np.full_like(picture, fill)
    height, width = picture.shape[:2]
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                out[y, x] = picture[y - dy, x - dx]
    return out


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (-2, 1), (4, -4), (100, 0), (0, -9)])
def test_a_whole_shift_copies_pixels(dx: int, dy: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    out = warp_pictures(torch.from_numpy(picture)[None], _matrix(tx=dx, ty=dy)[None])[0].numpy()
    np.testing.assert_array_equal(out, _shifted_by_hand(picture, dx, dy))


def test_mirrors_and_mirrored_shifts() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    matrices = np.stack(
        [
            _matrix(sx=-1, tx=8),
            _matrix(sy=-1, ty=6),
            _matrix(sx=-1, tx=8) @ _matrix(tx=2, ty=-1),
            _matrix(tx=2, ty=-1) @ _matrix(sx=-1, tx=8),
        ]
    )
    out = warp_pictures(torch.from_numpy(picture).expand(4, -1, -1, -1).contiguous(), matrices).numpy()
    np.testing.assert_array_equal(out[0], picture[:, ::-1])
    np.testing.assert_array_equal(out[1], picture[::-1])
    np.testing.assert_array_equal(out[2], _shifted_by_hand(picture, 2, -1)[:, ::-1])
    np.testing.assert_array_equal(out[3], _shifted_by_hand(picture[:, ::-1], 2, -1))


def test_the_device_way_and_the_host_way_equal_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.randint(0, 256, (12, 10, 14, 3), dtype=torch.uint8)
    rng = np.random.default_rng(2)
    matrices = np.stack([_matrix(tx=rng.integers(-16, 17), ty=rng.integers(-5, 6)) for _ in range(12)])
    matrices[::2] = _matrix(sx=-1, tx=14) @ matrices[::2]
    matrices[::3] = _matrix(sy=-1, ty=10) @ matrices[::3]
    y, x = np.meshgrid(np.arange(10), np.arange(14), indexing="ij")
    expected = np.zeros_like(pictures.numpy())
    for i, matrix in enumerate(matrices):
        source = np.linalg.inv(matrix) @ np.stack([x.ravel() + 0.5, y.ravel() + 0.5, np.ones(x.size)])
        column, row = np.floor(source[0]).astype(int), np.floor(source[1]).astype(int)
        inside = (column >= 0) & (column < 14) & (row >= 0) & (row < 10)
        flat = expected[i].reshape(-1, 3)
        flat[inside] = pictures[i].numpy()[row[inside], column[inside]]
    np.testing.assert_array_equal(warp_pictures(pictures, matrices).numpy(), expected)
    host = warp._copy_windows
    monkeypatch.setattr(
        warp, "_copy_windows", lambda given, *rest: warp._gather(torch.from_numpy(given), *rest).numpy()
    )
    np.testing.assert_array_equal(warp_pictures(pictures, matrices).numpy(), expected)
    assert warp._copy_windows is not host


def test_exact_and_resampled_pictures_mix_in_one_batch() -> None:
    pictures = torch.randint(0, 256, (3, 8, 8, 1), dtype=torch.uint8)
    matrices = np.stack([_matrix(tx=1), _matrix(tx=0.5), _matrix(sx=-1, tx=8)])
    assert is_exact(matrices).tolist() == [True, False, True]
    together = warp_pictures(pictures, matrices)
    alone = torch.cat([warp_pictures(pictures[i : i + 1], matrices[i : i + 1]) for i in range(3)])
    assert torch.equal(together, alone)
    half = (pictures[1, :, :-1].float() + pictures[1, :, 1:].float()) / 2
    assert (together[1, :, 1:].float() - half).abs().max() <= 0.5


def test_resampling_a_whole_shift_gives_the_copied_pixels() -> None:
    """Bilinear sampling at whole offsets must agree with the exact way, or the half-pixel convention is broken."""
    pictures = torch.randint(0, 256, (2, 11, 9, 3), dtype=torch.uint8)
    matrices = np.stack([_matrix(tx=3, ty=-2), _matrix(sx=-1, tx=9)])
    nudged = matrices + np.array([[0, 0, 1e-7], [0, 0, 0], [0, 0, 0]])
    assert not is_exact(nudged).any()
    assert (warp_pictures(pictures, nudged).int() - warp_pictures(pictures, matrices).int()).abs().max() <= 1


def test_masks_are_never_mixed_and_unknown_outside() -> None:
    mask = torch.zeros(1, 6, 6, dtype=torch.uint8)
    mask[0, 2:4, 2:4] = 7
    for matrix in (_matrix(tx=2), _matrix(tx=1.3, ty=0.4)):
        out = warp_masks(mask, matrix[None])
        assert set(out.unique().tolist()) <= {0, 7, IGNORE}
        assert out[0, 3, 0] == IGNORE


def test_boxes_are_cut_to_the_picture_and_keep_their_order() -> None:
    boxes = torch.tensor([[1.0, 1.0, 5.0, 3.0], [8.0, 2.0, 10.0, 4.0], [4.0, 4.0, 4.0, 9.0]])
    moved, share = warp_boxes(boxes, _matrix(tx=3), (10, 10))
    assert moved.tolist() == [[4.0, 1.0, 8.0, 3.0], [10.0, 2.0, 10.0, 4.0], [7.0, 4.0, 7.0, 9.0]]
    assert share.tolist() == [1.0, 0.0, 0.0]
    moved, share = warp_boxes(boxes[:1], _matrix(sx=-1, tx=10), (10, 10))
    assert moved.tolist() == [[5.0, 1.0, 9.0, 3.0]]
    assert warp_boxes(torch.zeros(0, 4), _matrix(), (5, 5))[0].shape == (0, 4)


def test_points_go_through_a_projection() -> None:
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 1.0]])
    assert warp_points(torch.tensor([[10.0, 4.0]]), matrix).tolist() == [[5.0, 2.0]]


def test_a_copy_never_shares_memory_with_its_source() -> None:
    pictures = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    out = _copy_shifted(pictures, np.stack([_matrix(), _matrix()]), 0)
    out.fill_(9)
    assert pictures.sum() == 0


@pytest.mark.parametrize(("mode", "padding"), [("reflect", 2), ("reflect", 7), ("edge", 3), ("zeros", 5)])
def test_pad_crop_gives_the_pixels_of_torchvisions_pad(mode: str, padding: int) -> None:
    """``torchvision`` pads with ``reflect``, ``edge`` or ``constant``, then cuts; ours draws the place."""
    from torchvision.transforms.v2 import functional as tv

    pictures = torch.randint(0, 256, (9, 8, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    crop = PadCrop(padding=padding, mode=mode)  # type: ignore[arg-type]
    matrices = crop.draw(Draws(0, 0, np.arange(9)), np.array([[8, 10]] * 9))
    found = crop.apply(Scene(pictures), matrices).pictures
    for one, matrix, out in zip(pictures, matrices, found, strict=True):
        padded = tv.pad(one.permute(2, 0, 1), [padding] * 4, padding_mode="constant" if mode == "zeros" else mode)
        left, top = (padding - int(matrix[axis, 2]) for axis in (0, 1))
        assert torch.equal(tv.crop(padded, top, left, 8, 10), out.permute(2, 0, 1))


def test_reflecting_far_beyond_a_small_picture_goes_on_and_on() -> None:
    """numpy's ``reflect`` is the reference: torch refuses a padding larger than the picture."""
    pictures = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4, 1)
    matrices = identity(2)
    matrices[:, 0, 2], matrices[:, 1, 2] = 11, -9
    sampling = Sampling("reflect")
    padded = np.pad(pictures.numpy(), ((0, 0), (20, 20), (20, 20), (0, 0)), mode="reflect")
    expected = padded[:, 29:32, 9:13]
    assert np.array_equal(warp_pictures(pictures, matrices, sampling).numpy(), expected)
    gathered = _gather(pictures, *(np.array([at, at]) for at in (9, -11)), *(np.zeros(2, bool),) * 2, "reflect")
    assert np.array_equal(gathered.numpy(), expected)


@pytest.mark.parametrize("mode", ["zeros", "edge", "reflect"])
def test_the_order_of_the_memory_does_not_matter(mode: str) -> None:
    pictures = torch.randint(0, 256, (5, 9, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    turned = torch.from_numpy(np.asfortranarray(pictures.numpy()))
    assert not turned.is_contiguous()
    crop = PadCrop(mode=mode, padding=2)  # type: ignore[arg-type]
    matrices = crop.draw(Draws(0, 0, np.arange(5)), np.array([[9, 4]] * 5))
    found = [crop.apply(Scene(given), matrices).pictures for given in (pictures, turned)]
    assert torch.equal(*found)
