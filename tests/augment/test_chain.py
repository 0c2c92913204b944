"""A chain multiplies successive matrices, resamples once, and draws independently for each of its elements."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from danlu.augment import chain as chain_module
from danlu.augment.base import Augmentation, Draws, Geometric, Scene, identity, warp_scene
from danlu.augment.chain import Chain, make_augmentation, make_chain
from danlu.augment.flip import Flip
from danlu.augment.pad_crop import PadCrop
from danlu.augment.rotate import Rotate
from danlu.augment.warp import Sampling
from danlu.core.errors import InputError


class _Invert(Augmentation):
    def draw(self, draws: Draws, sizes: np.ndarray) -> None:
        return None

    def apply(self, scene: Scene, parameters: None) -> Scene:
        return Scene(255 - scene.pictures)


class _Half(Geometric):
    def draw(self, draws: Draws, sizes: np.ndarray) -> np.ndarray:
        matrices = identity(len(sizes))
        matrices[:, 0, 2] = 0.5
        return matrices


def test_two_half_shifts_are_one_whole_shift() -> None:
    """Resampled twice the picture would be blurred; multiplied it is copied."""
    pictures = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    out = Chain([_Half(), _Half()]).pictures(pictures, Draws(0, 0, np.arange(4)))
    assert torch.equal(out[:, :, 1:], pictures[:, :, :-1])


def test_one_resampling_for_a_run_of_geometric_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(chain_module, "warp_scene", lambda *given: calls.append(1) or warp_scene(*given))
    pictures = torch.zeros(2, 8, 8, 1, dtype=torch.uint8)
    Chain([PadCrop(), Flip(), _Half(), _Invert(), Flip()]).pictures(pictures, Draws(0, 0, np.arange(2)))
    assert len(calls) == 2


def test_a_run_ends_where_fill_or_interpolation_change(monkeypatch: pytest.MonkeyPatch) -> None:
    samplings = []
    monkeypatch.setattr(chain_module, "warp_scene", lambda *given: samplings.append(given[2]) or warp_scene(*given))
    pictures = torch.full((3, 8, 8, 1), 9, dtype=torch.uint8)
    draws = Draws(0, 0, np.arange(3))
    grey, sharp = Rotate(fill=128), Rotate(fill=128, interpolation="nearest")
    Chain([PadCrop(), Flip(), grey, Flip(), Rotate(fill=128), sharp, Flip()]).pictures(pictures, draws)
    assert samplings == [Sampling(), Sampling(128), Sampling(128, "nearest")]
    samplings.clear()
    Chain([Flip(), sharp, _Invert(), Flip()]).pictures(pictures, draws)
    assert samplings == [Sampling(128, "nearest"), Sampling()]
    # A mirror before a turn is part of its run: the corners it brings in are grey, not black.
    out = Chain([Flip(), Rotate(degrees=180, fill=128)]).pictures(pictures, Draws(0, 0, np.arange(3) + 5))
    assert set(out.unique().tolist()) - set(range(9, 129)) == set()


def test_order_is_kept() -> None:
    pictures = torch.full((1, 4, 4, 1), 10, dtype=torch.uint8)
    draws = Draws(0, 0, np.arange(1))
    crop_then_invert = Chain([PadCrop(padding=4), _Invert()])
    out = crop_then_invert.pictures(pictures, draws)
    assert set(out.unique().tolist()) <= {245, 255}


def test_two_of_a_kind_draw_independently() -> None:
    chain = Chain([PadCrop(padding=8), PadCrop(padding=8)])
    first, second = chain.draw(Draws(0, 0, np.arange(200)), np.full((200, 2), 32))
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(first[:, 0, 2], second[:, 0, 2])[0, 1]) < 0.2


def test_crops_are_uniform_and_flips_are_fair() -> None:
    samples = np.arange(9000)
    sizes = np.full((9000, 2), 32)
    shifts = PadCrop(padding=4).draw(Draws(0, 0, samples), sizes)[:, 0, 2]
    counts = np.bincount((shifts + 4).astype(int), minlength=9)
    assert counts.min() > 850
    assert counts.max() < 1150
    mirrored = Flip().draw(Draws(0, 0, samples), sizes)[:, 0, 0] < 0
    assert 0.47 < mirrored.mean() < 0.53
    assert not (Flip(probability=0.0).draw(Draws(0, 0, samples), sizes)[:, 0, 0] < 0).any()
    assert (Flip(probability=1.0).draw(Draws(0, 0, samples), sizes)[:, 0, 0] < 0).all()


def test_an_empty_chain_hands_the_pictures_on() -> None:
    pictures = torch.zeros(2, 8, 8, 1, dtype=torch.uint8)
    assert make_chain([]).pictures(pictures, Draws(0, 0, np.arange(2))) is pictures


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "flp"}, "did you mean: flip"),
        ({"name": "pad_crop", "paddng": 2}, "did you mean: padding"),
        ({"name": "pad_crop", "padding": -1}, "padding = -1"),
        ({"name": "flip", "probability": 1.5}, "probability = 1.5"),
        ({"padding": 2}, "names no augmentation"),
        ({"name": "os.system"}, "unknown augmentation"),
    ],
)
def test_bad_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_chain([{"name": "flip"}, values])
    with pytest.raises(InputError, match=r"augment\[1\]"):
        make_chain([{"name": "flip"}, values])


def test_make_augmentation_uses_the_settings() -> None:
    assert make_augmentation({"name": "pad_crop", "padding": 2}) == PadCrop(padding=2)
