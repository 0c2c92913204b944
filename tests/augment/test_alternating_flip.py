"""The alternating flip: by chance in the first epoch, then the other side each time."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from danlu.augment.base import Draws
from danlu.augment.chain import make_chain


def test_two_epochs_in_a_row_show_both_sides() -> None:
    pictures = torch.randint(0, 256, (300, 4, 6, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mirrored = pictures.flip(2)
    chain = make_chain([{"name": "alternating_flip"}])
    epochs = [chain.pictures(pictures, Draws(3, epoch, np.arange(300))) for epoch in range(5)]
    is_mirrored = (epochs[0] == mirrored).flatten(1).all(1)
    assert 0.4 < is_mirrored.float().mean() < 0.6
    assert torch.equal(epochs[0], torch.where(is_mirrored[:, None, None, None], mirrored, pictures))
    for before, after in itertools.pairwise(epochs):
        assert torch.equal(after, before.flip(2))
    other = chain.pictures(pictures, Draws(4, 0, np.arange(300)))
    assert not torch.equal(other, epochs[0])
