"""Mixup and CutMix against torchvision with the same share and rectangle, labels too; shares against their law."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from danlu.augment.base import Draws, Scene
from danlu.augment.chain import make_chain
from danlu.augment.cutmix import CutMix
from danlu.augment.in_batch import Pairing, cut_boxes, symmetric_beta
from danlu.augment.mixup import Mixup
from danlu.augment.mixup_or_cutmix import MixupOrCutMix
from danlu.core.errors import InputError

CLASSES = 5


def _pictures(count: int, height: int = 12, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def _rolled(count: int) -> np.ndarray:
    return (np.arange(count, dtype=np.int64) - 1) % count


def _mixed_labels(scene: Scene, labels: torch.Tensor) -> torch.Tensor:
    assert scene.mix is not None
    own, other = (F.one_hot(one, CLASSES).float() for one in (labels, labels[scene.mix.partner]))
    return own * scene.mix.share[:, None] + other * (1 - scene.mix.share[:, None])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3331, 0.5, 0.75, 1.0])
def test_mixup_gives_the_pixels_and_labels_of_torchvision(share: float) -> None:
    pictures, labels = _pictures(7), torch.arange(7) % CLASSES
    out = Mixup().apply(Scene(pictures), Pairing(_rolled(7), np.full(7, share)))
    reference = v2.MixUp(num_classes=CLASSES)
    given: dict[str, Any] = {"labels": labels, "batch_size": 7, "lam": share}
    expected = reference.transform(pictures.permute(0, 3, 1, 2).double(), given).permute(0, 2, 3, 1)
    assert (out.pictures.double() - expected).abs().max() <= 0.5 + 1e-4
    torch.testing.assert_close(_mixed_labels(out, labels), reference.transform(labels, given))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("centre", [(0, 0), (5, 9), (11, 15)])
def test_cutmix_gives_the_pixels_and_labels_of_torchvision(
    share: float, centre: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, labels = _pictures(7), torch.arange(7) % CLASSES
    sizes = np.tile([[12, 16]], (7, 1))
    boxes, left = cut_boxes(np.full(7, share), (np.tile([centre], (7, 1)) + 0.5) / sizes, sizes)
    out = CutMix().apply(Scene(pictures), Pairing(_rolled(7), left, boxes))
    reference = v2.CutMix(num_classes=CLASSES)
    reference._dist = SimpleNamespace(sample=lambda _: share)
    drawn = iter([centre[1], centre[0]])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([next(drawn)]))
    planes = pictures.permute(0, 3, 1, 2)
    given = {"labels": labels, "batch_size": 7, **reference.make_params([planes])}
    assert given["box"] == tuple(boxes[0].tolist())
    assert torch.equal(out.pictures.permute(0, 3, 1, 2), reference.transform(planes, given))
    torch.testing.assert_close(_mixed_labels(out, labels), reference.transform(labels, given))


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_the_share_is_exactly_the_area_pasted(per: str) -> None:
    """Half of the pictures are black and half white: what is pasted can be counted where the two are paired."""
    pictures = torch.zeros(200, 9, 14, 1, dtype=torch.uint8)
    pictures[100:] = 255
    counted = 0
    for epoch in range(20):
        out = make_chain([{"name": "cutmix", "per": per}]).batch(pictures, Draws(0, epoch, np.arange(200)))
        assert out.mix is not None
        differ = (torch.arange(200) < 100) != (out.mix.partner < 100)
        pasted = (out.pictures != pictures).float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(1 - pasted[differ], out.mix.share[differ])
        counted += len(out.mix.share[differ].unique())
    assert counted > 10


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 2.0, 8.0, 1000.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    rng = np.random.default_rng(0)
    shares = symmetric_beta(alpha, rng.random(40_000), rng.random(40_000))
    assert ((shares >= 0) & (shares <= 1)).all()
    points = np.array([0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
    below = (shares[:, None] < points).mean(0)
    assert below == pytest.approx((rng.beta(alpha, alpha, 40_000)[:, None] < points).mean(0), abs=0.015)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    ends = symmetric_beta(alpha, np.array([0.0, 1 - 2**-53]), np.array([0.3, 0.3]))
    assert np.isfinite(ends).all()


def test_one_share_a_batch_or_one_a_sample() -> None:
    draws, sizes = Draws(0, 0, np.arange(50)), np.full((50, 2), 32)
    assert len(set(Mixup().draw(draws, sizes).share)) == 1
    assert len(set(Mixup(per="sample").draw(draws, sizes).share)) == 50
    cut = CutMix(per="sample").draw(draws, sizes)
    assert cut.boxes is not None
    assert len({tuple(box) for box in cut.boxes.tolist()}) > 40
    cut = CutMix().draw(draws, sizes)
    assert cut.boxes is not None
    assert len({tuple(box) for box in cut.boxes.tolist()}) == 1


@pytest.mark.parametrize("kind", [Mixup, CutMix, MixupOrCutMix])
def test_the_probability_of_mixing_at_all(kind: type[Mixup]) -> None:
    draws, sizes, pictures = Draws(0, 0, np.arange(2000)), np.full((2000, 2), 64), _pictures(2000, 2, 2)
    never = kind(per="sample", probability=0.0)
    out = never.apply(Scene(pictures), never.draw(draws, sizes))
    assert torch.equal(out.pictures, pictures)
    assert out.mix is not None
    assert bool((out.mix.share == 1).all())
    share = kind(per="sample", probability=0.3).draw(draws, sizes).share
    assert 0.25 < (share < 1).mean() < 0.35
    batches = [kind(probability=0.3).draw(Draws(0, epoch, np.arange(3)), sizes[:3]).share for epoch in range(300)]
    assert 0.2 < np.mean([(one < 1).all() for one in batches]) < 0.4


def test_one_of_the_two_is_what_that_one_is_alone() -> None:
    pictures, sizes = _pictures(400), np.tile([[12, 16]], (400, 1))
    both = MixupOrCutMix(mixup_alpha=1.0, cut=0.4, per="sample")
    draws = Draws(0, 0, np.arange(400))
    drawn = both.draw(draws, sizes)
    assert drawn.whole is not None
    assert 0.5 < drawn.whole.mean() < 0.7
    out = both.apply(Scene(pictures), drawn)
    blended, pasted = (
        one.apply(Scene(pictures), one.draw(draws, sizes)) for one in (Mixup(per="sample"), CutMix(per="sample"))
    )
    whole = torch.from_numpy(drawn.whole)
    assert torch.equal(out.pictures, torch.where(whole[:, None, None, None], blended.pictures, pasted.pictures))
    assert out.mix is not None
    assert blended.mix is not None
    assert pasted.mix is not None
    assert torch.equal(out.mix.share, torch.where(whole, blended.mix.share, pasted.mix.share))
    cut = [bool(MixupOrCutMix().draw(Draws(0, e, np.arange(4)), sizes[:4]).whole.all()) for e in range(200)]  # type: ignore[union-attr]
    assert 0.35 < np.mean(cut) < 0.65


def test_only_at_the_end() -> None:
    with pytest.raises(InputError, match=r"augment\[1\]: mixup mixes.*\n.*mixup_or_cutmix"):
        make_chain([{"name": "flip"}, {"name": "mixup"}, {"name": "cutmix"}])
    with pytest.raises(InputError, match=r"augment\[0\]"):
        make_chain([{"name": "cutmix"}, {"name": "flip"}])
    with pytest.raises(InputError, match="alpha"):
        make_chain([{"name": "mixup", "alpha": 0}])


def test_pictures_are_augmented_before_they_are_mixed() -> None:
    pictures, draws = _pictures(30), Draws(1, 2, np.arange(30))
    alone = make_chain([{"name": "pad_crop"}, {"name": "flip"}]).pictures(pictures, draws)
    together = make_chain([{"name": "pad_crop"}, {"name": "flip"}, {"name": "mixup"}])
    out = together.batch(pictures, draws)
    assert out.mix is not None
    share = out.mix.share[:, None, None, None]
    expected = alone * share + alone[out.mix.partner] * (1 - share)
    assert (out.pictures - expected).abs().max() <= 0.5 + 1e-3
