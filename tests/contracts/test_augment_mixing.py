"""What augmentations keep that mix samples: within the batch, which their draws may depend on, or with drawn partners.

For the others see test_augment.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Scene
from danlu.augment.chain import Chain, make_chain
from danlu.augment.in_batch import InBatch
from danlu.augment.partnered import Partnered
from danlu.core.errors import InputError

IN_BATCH = [name for name, facts in AUGMENTATIONS.index.items() if "in_batch" in facts]
PARTNERED = [name for name, facts in AUGMENTATIONS.index.items() if "partners" in facts]
SHAPES = [(1, 1, 1), (8, 8, 1), (9, 14, 3), (32, 32, 3)]
COUNT = 50


def _pictures(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def load(indices: np.ndarray, shape: tuple[int, int, int] = (24, 20, 1), masks: bool = True) -> Scene:
    """Return samples of a data set: two blocks each, one value and one class a block that no other sample has.

    Values and classes are 2 · index + 1 and 2 · index + 2, on a background of 0.
    """
    height, width, channels = shape
    pictures = torch.zeros(len(indices), height, width, channels, dtype=torch.uint8)
    boxes, labels = [], []
    for i, index in enumerate(indices.tolist()):
        found = []
        for k in range(2):
            x, y = (3 + index * 5 + 9 * k) % (width - 5), (2 + index * 7 + 11 * k) % (height - 5)
            pictures[i, y : y + 5, x : x + 4] = 2 * index + 1 + k
            found.append([x, y, x + 4, y + 5])
        boxes.append(torch.tensor(found, dtype=torch.float32))
        labels.append(torch.tensor([2 * index + 1, 2 * index + 2]))
    return Scene(pictures, pictures[..., 0].clone() if masks else None, boxes, labels=labels)


def _of(name: str, samples: np.ndarray, **draws: int) -> Scene:
    return make_chain([{"name": name}]).scene(load, Draws(draws.pop("seed", 3), draws.pop("epoch", 0), samples), COUNT)


def test_the_index_says_which_they_are() -> None:
    for name in AUGMENTATIONS.names():
        kind = AUGMENTATIONS.get(name)
        assert issubclass(kind, InBatch) == (name in IN_BATCH)
        assert issubclass(kind, Partnered) == (name in PARTNERED)
    assert {"mixup", "cutmix"} <= set(IN_BATCH)
    assert {"mosaic", "copy_paste"} <= set(PARTNERED)


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", IN_BATCH)
def test_in_batch_ones_keep_shape_and_type_and_the_input_stays(
    name: str, shape: tuple[int, int, int], per: str
) -> None:
    pictures = _pictures(17, shape)
    before = pictures.clone()
    out = make_chain([{"name": name, "per": per}]).batch(pictures, Draws(3, 0, np.arange(17)))
    assert out.pictures.dtype == torch.uint8
    assert out.pictures.shape == pictures.shape
    assert out.pictures.data_ptr() != pictures.data_ptr()
    assert torch.equal(pictures, before)
    assert out.mix is not None
    assert out.mix.partner.dtype == torch.int64
    assert sorted(out.mix.partner.tolist()) == list(range(17))
    assert out.mix.share.dtype == torch.float32
    assert ((out.mix.share >= 0) & (out.mix.share <= 1)).all()
    assert len(out.mix.share.unique()) == (1 if per == "batch" else 17) or shape == (1, 1, 1) or name != "mixup"


@pytest.mark.parametrize("name", IN_BATCH)
def test_a_batch_of_none_and_of_one(name: str) -> None:
    for count in (0, 1):
        pictures = _pictures(count, (8, 8, 1))
        out = make_chain([{"name": name}]).batch(pictures, Draws(0, 0, np.arange(count)))
        assert torch.equal(out.pictures, pictures)


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("name", IN_BATCH)
def test_in_batch_draws_change_with_everything_and_with_nothing_else(name: str, per: str) -> None:
    chain, pictures, samples = make_chain([{"name": name, "per": per}]), _pictures(40, (16, 16, 3)), np.arange(40)
    every = [
        Draws(0, 0, samples),
        Draws(0, 1, samples),
        Draws(0, 0, samples + 64),
        Draws(0, 0, samples, repeat=1),
        Draws(1, 0, samples),
        Draws(0, 0, samples).named("another"),
    ]
    seen = [chain.pictures(pictures, draws).numpy().tobytes() for draws in every]
    assert len(set(seen)) == 6
    assert [chain.pictures(pictures, draws).numpy().tobytes() for draws in every] == seen


@pytest.mark.parametrize("name", IN_BATCH)
def test_in_batch_ones_refuse_what_a_share_of_a_label_does_not_describe(name: str) -> None:
    augmentation = AUGMENTATIONS.get(name)()
    scene = load(np.arange(3))
    parameters = augmentation.draw(Draws(0, 0, np.arange(3)), np.full((3, 2), 8))
    with pytest.raises(InputError, match=r"one label each.*\n.*mosaic"):
        augmentation.apply(scene, parameters)
    once = augmentation.apply(Scene(scene.pictures), parameters)
    with pytest.raises(InputError, match="mixed already"):
        augmentation.apply(once, parameters)


@pytest.mark.parametrize("name", PARTNERED)
def test_partnered_ones_keep_shape_and_type_and_the_input_stays(name: str) -> None:
    loaded: list[tuple[Scene, torch.Tensor]] = []

    def watched(indices: np.ndarray) -> Scene:
        scene = load(indices)
        loaded.append((scene, scene.pictures.clone()))
        return scene

    out = make_chain([{"name": name}]).scene(watched, Draws(0, 0, np.arange(9)), COUNT)
    assert len(loaded) == 1 + AUGMENTATIONS.index[name]["partners"]
    assert out.pictures.dtype == torch.uint8
    assert out.pictures.shape == loaded[0][0].pictures.shape
    assert not any(out.pictures.data_ptr() == scene.pictures.data_ptr() for scene, _ in loaded)
    assert all(torch.equal(scene.pictures, before) for scene, before in loaded)
    assert make_chain([{"name": name}]).scene(load, Draws(0, 0, np.arange(0)), COUNT).pictures.shape == (0, 24, 20, 1)


@pytest.mark.parametrize("name", PARTNERED)
def test_partnered_ones_give_the_same_whatever_the_batch(name: str) -> None:
    samples = np.random.default_rng(0).permutation(COUNT)[:7]
    chain = make_chain([{"name": "pad_crop"}, {"name": name}, {"name": "flip"}, {"name": name}])
    whole = chain.scene(load, Draws(0, 2, samples), COUNT)
    for size in (1, 3):
        parts = [chain.scene(load, Draws(0, 2, samples[k : k + size]), COUNT) for k in range(0, 7, size)]
        assert torch.equal(torch.cat([part.pictures for part in parts]), whole.pictures)
        for what in ("boxes", "labels", "visible"):
            together = [one for part in parts for one in getattr(part, what)]
            assert all(torch.equal(one, other) for one, other in zip(together, getattr(whole, what), strict=True))


@pytest.mark.parametrize("name", PARTNERED)
def test_partners_change_with_epoch_sample_repeat_and_seed_and_are_never_the_sample_itself(name: str) -> None:
    augmentation = AUGMENTATIONS.get(name)()
    assert isinstance(augmentation, Partnered)
    samples = np.arange(200)
    seen = {
        augmentation.partners(draws, 200).tobytes()
        for draws in (
            Draws(0, 0, samples),
            Draws(0, 1, samples),
            Draws(0, 0, samples[::-1].copy()),
            Draws(0, 0, samples, repeat=1),
            Draws(1, 0, samples),
            Draws(0, 0, samples).named("another"),
        )
    }
    assert len(seen) == 6
    found = augmentation.partners(Draws(0, 0, samples), 200)
    assert found.shape == (200, AUGMENTATIONS.index[name]["partners"])
    assert not (found == samples[:, None]).any()
    assert found.min() >= 0
    assert found.max() == 199
    many = augmentation.partners(Draws(0, 0, np.full(1, 3)).named("few"), 2)
    assert set(many.ravel().tolist()) <= {0, 1}
    assert not augmentation.partners(Draws(0, 0, np.zeros(5, np.int64)), 1).any()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("chain", [[name] for name in PARTNERED] + [["pad_crop", *PARTNERED, "flip"]], ids=str)
def test_labels_boxes_and_masks_follow_the_pixels(chain: list[str], masks: bool) -> None:
    """Every class has a value of its own, so the pixels say what boxes, labels and masks have to be."""
    made = make_chain([{"name": name} for name in chain])
    out = made.scene(lambda indices: load(indices, masks=masks), Draws(5, 1, np.arange(30)), COUNT)
    assert out.boxes is not None
    assert out.labels is not None
    assert out.visible is not None
    foreign = cut = 0
    for i in range(30):
        values = out.pictures[i, :, :, 0]
        if masks:
            assert out.masks is not None
            # Outside of a shifted picture its mask is 255, whose pixels are 0.
            assert torch.equal(values, torch.where(out.masks[i] == 255, 0, out.masks[i]))
        labels = out.labels[i].tolist()
        assert len(labels) == len(out.boxes[i]) == len(out.visible[i])
        assert set(values.unique().tolist()) - {0} <= set(labels), f"a block of sample {i} has no label"
        foreign += len(set(labels) - {2 * i + 1, 2 * i + 2})
        for label in set(labels):
            places = [place for place, other in enumerate(labels) if other == label]
            there = values == label
            x1, y1 = out.boxes[i][places, :2].amin(0).tolist()
            x2, y2 = out.boxes[i][places, 2:].amax(0).tolist()
            y, x = torch.nonzero(there, as_tuple=True)
            if not len(y):
                continue
            assert x1 <= x.min() <= x.max() < x2, f"a pixel of {label} in {i}"
            assert y1 <= y.min() <= y.max() < y2, f"a pixel of {label} in {i}"
            if len(places) > 1 or not masks or len(chain) > 1:
                continue  # of what is covered first and cut off later, the share is an estimate
            share = float(out.visible[i][places[0]])
            assert share == pytest.approx(float(there.sum()) / 20, abs=1e-5), f"how much is seen of {label} in {i}"
            assert [x1, y1, x2, y2] == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            cut += share < 1
    assert foreign > 30
    assert cut > 3 or not masks or len(chain) > 1


def test_partners_of_another_kind_are_refused() -> None:
    for name in PARTNERED:
        augmentation = AUGMENTATIONS.get(name)()
        assert isinstance(augmentation, Partnered)
        scene = load(np.arange(2))
        parameters = augmentation.draw(Draws(0, 0, np.arange(2)), np.full((2, 2), 20))
        with pytest.raises(InputError, match="partners for each sample, got 0"):
            augmentation.apply(scene, parameters)
        several = [load(np.arange(2), masks=False)] * AUGMENTATIONS.index[name]["partners"]
        with pytest.raises(InputError, match="does not fit"):
            augmentation.apply(scene, parameters, several)
        with pytest.raises(InputError, match="got 0"):
            Chain([augmentation]).batch(scene.pictures, Draws(0, 0, np.arange(2)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", IN_BATCH)
def test_same_pixels_on_another_device_within_one_level(name: str) -> None:
    pictures, chain = _pictures(31, (32, 32, 3)), make_chain([{"name": name, "per": "sample"}])
    here = chain.batch(pictures, Draws(3, 0, np.arange(31)))
    there = chain.batch(pictures.cuda(), Draws(3, 0, np.arange(31)))
    assert (here.pictures.int() - there.pictures.cpu().int()).abs().max() <= 1
    assert here.mix is not None
    assert there.mix is not None
    assert torch.equal(here.mix.share, there.mix.share.cpu())
