"""What is tested on stays unseen: it has no part in what is chosen, and no part of it was trained on."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.core.errors import InputError
from danlu.data.load import load_data
from danlu.data.loader import Loader
from tests.data.pictures import encoded, noise

NOTHING: Any = nullcontext()


def test_a_given_test_split_has_no_part_in_what_is_chosen(tmp_path: Path) -> None:
    """Neither coloured nor huge test pictures change channels, size or statistics; they are brought to these."""
    number = 0
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                (tmp_path / part / name / f"{index}.png").write_bytes(encoded(noise(20, 24, 1, number)))
                number += 1
    before = load_data(tmp_path)
    assert (before.picture.channels, before.picture.uniform, before.validation_given) == (1, True, True)
    (tmp_path / "test" / "a" / "0.png").write_bytes(encoded(noise(20, 24, 3)))
    for index in range(3):
        (tmp_path / "test" / "b" / f"{index}.png").write_bytes(encoded(noise(400, 500, 1, 100 + index)))
    after = load_data(tmp_path)
    assert after.hash != before.hash
    assert (after.picture, after.mean, after.std) == (before.picture, before.mean, before.std)
    loader = Loader(after.test, (20, 24), after.picture.channels)
    assert loader.pictures(np.arange(6)).shape == (6, 20, 24, 1)
    (tmp_path / "val" / "a" / "0.png").write_bytes(encoded(noise(20, 24, 3)))
    assert load_data(tmp_path).picture.channels == 3, "validation pictures take part in the selection"


def test_a_drawn_test_split_has_no_part_either(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[index % 2] / f"{index:02d}.png").write_bytes(encoded(noise(20, 24, 1, index)))
    before = load_data(tmp_path)
    assert not before.validation_given
    (tmp_path / before.test.ids[0]).write_bytes(encoded(noise(50, 60, 3)))
    after = load_data(tmp_path)
    assert after.test.ids == before.test.ids
    assert (after.picture, after.mean) == (before.picture, before.mean)


@pytest.mark.parametrize(
    ("split", "given", "refused"),
    [
        ("test", {}, True),
        ("train", {}, True),
        ("validation", {"test_given": True}, True),
        ("train", {"test_given": True}, True),
        ("test", {"test_given": True}, False),
        ("validation", {"validation_given": True}, False),
        ("train", {"test_given": True, "validation_given": True}, False),
    ],
)
def test_a_split_by_another_seed_is_refused_unless_given(split: str, given: dict[str, Any], refused: bool) -> None:
    data = replace(load_data("digits", seed=5), **given)
    with pytest.raises(InputError, match=r"(?s)by seed 5, x was trained .* seed 0.*--seed 0") if refused else NOTHING:
        data.check_unseen(split, "x", data.hash, 0)
    data.check_unseen(split, "x", data.hash, 5)
    data.check_unseen(split, "x", data.hash, None)
    data.check_unseen(split, "x", "ab" * 32, 0)
    data.check_unseen(split, "x", None, 0)
