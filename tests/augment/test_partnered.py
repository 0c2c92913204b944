"""Mosaic and Copy-Paste on samples small enough to say by hand what must come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from danlu.augment.base import Draws, Scene
from danlu.augment.chain import make_chain
from danlu.augment.copy_paste import CopyPaste
from danlu.augment.mosaic import Mosaic, Tiles
from danlu.core.errors import InputError


def _scene(value: int, boxes: list[list[float]], side: int = 8) -> Scene:
    pictures = torch.full((1, side, side, 1), value, dtype=torch.uint8)
    masks = torch.zeros(1, side, side, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        masks[0, int(y1) : int(y2), int(x1) : int(x2)] = value
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Scene(pictures, masks, [found], labels=[torch.full((len(boxes),), value)])


def test_a_mosaic_by_hand() -> None:
    """The point lies at (5, 3): the quarters are 5×3, 3×3, 5×5 and 3×5 pixels."""
    scenes = [_scene(value, [[0, 0, 4, 4]]) for value in (1, 2, 3, 4)]
    places = np.array([[[0, 0, 5, 3], [5, 0, 8, 3], [0, 3, 5, 8], [5, 3, 8, 8]]])
    starts = np.array([[[0, 0], [2, 1], [0, 3], [5, 0]]])
    out = Mosaic().apply(scenes[0], Tiles(places, starts), scenes[1:])
    expected = torch.zeros(8, 8, dtype=torch.uint8)
    expected[:3, :5], expected[:3, 5:], expected[3:, :5], expected[3:, 5:] = 1, 2, 3, 4
    assert torch.equal(out.pictures[0, :, :, 0], expected)
    assert out.boxes is not None
    assert out.visible is not None
    assert out.labels is not None
    assert out.labels[0].tolist() == [1, 2, 3, 4]
    # The third picture shows its rows from 3 on, the fourth its columns from 5 on: nothing is left of its box.
    assert out.boxes[0][:3].tolist() == [[0, 0, 4, 3], [5, 0, 7, 3], [0, 3, 4, 4]]
    assert out.visible[0].tolist() == [0.75, 6 / 16, 0.25, 0.0]
    assert out.masks is not None
    assert (out.masks[0] == 2).sum() == 6
    assert not (out.masks[0] == 4).any()


def test_the_tiles_cover_the_picture_and_lie_in_their_sources() -> None:
    sizes = np.tile([[11, 17]], (500, 1))
    tiles = Mosaic(margin=0.25).draw(Draws(0, 0, np.arange(500)), sizes)
    spans = tiles.places[:, :, 2:] - tiles.places[:, :, :2]
    assert (spans.prod(2).sum(1) == 11 * 17).all()
    assert (spans >= 0).all()
    assert (tiles.starts >= 0).all()
    assert (tiles.starts + spans <= [17, 11]).all()
    assert set(tiles.places[:, 0, :2].min(1).tolist()) >= {0}
    # The sample itself is in each of the four quarters about as often.
    corners = [tuple(one) for one in (tiles.places[:, 0, :2] > 0).astype(int).tolist()]
    assert min(corners.count(corner) for corner in ((0, 0), (0, 1), (1, 0), (1, 1))) > 80
    middle = tiles.places[:, :, :2].max(1)
    assert middle[:, 0].min() >= 4
    assert middle[:, 0].max() <= 13
    assert len(set(middle[:, 0].tolist())) > 8


def test_copy_paste_by_hand() -> None:
    below = _scene(1, [[0, 0, 4, 4], [5, 5, 8, 8]])
    other = _scene(2, [[2, 0, 4, 4], [6, 0, 8, 2]])
    paste = CopyPaste(probability=1.0)
    out = paste.apply(below, np.array([3]), [other])
    expected = torch.ones(8, 8, dtype=torch.uint8)
    expected[0:4, 2:4] = expected[0:2, 6:8] = 2
    assert torch.equal(out.pictures[0, :, :, 0], expected)
    assert out.boxes is not None
    assert out.visible is not None
    assert out.labels is not None
    assert out.masks is not None
    assert out.boxes[0].tolist() == [[0, 0, 2, 4], [5, 5, 8, 8], [2, 0, 4, 4], [6, 0, 8, 2]]
    assert out.visible[0].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert out.labels[0].tolist() == [1, 1, 2, 2]
    assert (out.masks[0] == 2).sum() == 12
    bare = [Scene(one.pictures, boxes=one.boxes, labels=one.labels) for one in (below, other)]
    out = paste.apply(bare[0], np.array([3]), bare[1:])
    assert torch.equal(out.pictures[0, :, :, 0], expected)
    assert out.boxes is not None
    assert out.visible is not None
    # Without masks a box keeps its place; how much of it is seen is still told.
    assert out.boxes[0][0].tolist() == [0, 0, 4, 4]
    assert out.visible[0].tolist() == [0.5, 1.0, 1.0, 1.0]


def test_an_object_is_pasted_by_its_mask_and_what_is_hidden_has_share_0() -> None:
    below, other = _scene(1, [[3, 3, 5, 5]]), _scene(2, [[2, 2, 6, 6]])
    assert other.masks is not None
    other.masks[0, 2, 2] = 0  # one pixel of the box is not of the object
    out = CopyPaste(probability=1.0).apply(below, np.array([0]), [other])
    assert (out.pictures == 2).sum() == 15
    assert out.visible is not None
    assert out.boxes is not None
    assert out.visible[0].tolist() == [0.0, 1.0]
    assert out.boxes[0][0].tolist() == [3, 3, 5, 5]


def test_each_object_is_pasted_by_its_own_chance() -> None:
    paste = CopyPaste(probability=0.3)
    keys = paste.draw(Draws(0, 0, np.arange(400)), np.full((400, 2), 8))
    chosen = np.stack([paste.chosen(key, 5) for key in keys.tolist()])
    assert chosen.mean(0) == pytest.approx([0.3] * 5, abs=0.08)
    assert len({tuple(one) for one in chosen.tolist()}) > 15
    # The first objects are drawn alike whatever else is there.
    assert all((paste.chosen(key, 2) == row[:2]).all() for key, row in zip(keys.tolist(), chosen, strict=True))
    assert CopyPaste(probability=0.0).chosen(7, 0).shape == (0,)


def test_empty_targets() -> None:
    empty, full = _scene(1, []), _scene(2, [[1, 1, 3, 3]])
    out = CopyPaste(probability=1.0).apply(empty, np.array([0]), [full])
    assert out.labels is not None
    assert out.labels[0].tolist() == [2]
    out = CopyPaste(probability=1.0).apply(full, np.array([0]), [empty])
    assert out.labels is not None
    assert out.labels[0].tolist() == [2]
    out = make_chain([{"name": "mosaic"}]).scene(lambda indices: _scene(1, []), Draws(0, 0, np.arange(1)), 9)
    assert out.boxes is not None
    assert out.boxes[0].shape == (0, 4)
    assert out.visible is not None
    assert out.visible[0].shape == (0,)


def test_what_cannot_be_done_is_refused() -> None:
    plain = Scene(torch.zeros(1, 8, 8, 1, dtype=torch.uint8))
    with pytest.raises(InputError, match="no boxes with labels"):
        CopyPaste().apply(plain, np.array([0]), [plain])
    pointed = Scene(plain.pictures, points=[torch.zeros(1, 2)])
    with pytest.raises(InputError, match="takes no points"):
        CopyPaste().apply(pointed, np.array([0]), [pointed])
    for name in ("mosaic", "copy_paste"):
        with pytest.raises(InputError, match=r"augment\[1\].*one label and no boxes(.|\n)*mixup or cutmix"):
            make_chain([{"name": "flip"}, {"name": name}]).check_one_label()


def test_partners_pass_through_what_stands_before() -> None:
    """A flip before the mosaic mirrors each of the four by a draw of its own; one after it, all of them together."""
    ramp = torch.arange(8, dtype=torch.uint8).expand(8, 8)

    def load(indices: np.ndarray) -> Scene:
        return Scene(ramp[None, :, :, None].expand(len(indices), -1, -1, -1).contiguous())

    def directions(out: Scene) -> set[tuple[bool, ...]]:
        """Whether the values fall from left to right at the four corners of each picture."""
        steps = [out.pictures[:, y, 1, 0].int() - out.pictures[:, y, 0, 0].int() for y in (0, 7)]
        steps += [out.pictures[:, y, 7, 0].int() - out.pictures[:, y, 6, 0].int() for y in (0, 7)]
        return {tuple(row) for row in (torch.stack(steps, 1) < 0).tolist()}

    samples = np.arange(200)
    before = make_chain([{"name": "flip"}, {"name": "mosaic"}]).scene(load, Draws(0, 0, samples), 500)
    after = make_chain([{"name": "mosaic"}, {"name": "flip"}]).scene(load, Draws(0, 0, samples), 500)
    assert len(directions(before)) == 16
    assert directions(after) == {(False,) * 4, (True,) * 4}
