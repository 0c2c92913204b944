"""Any readable data set can be written in any format that holds its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from danlu.core.errors import InputError
from danlu.data.arrays import array_names, to_array
from danlu.data.convert import convert
from danlu.data.formats import FORMATS
from danlu.data.load import load_data
from danlu.data.sample import ArrayDataset
from tests.data.pictures import encoded, make_folder, noise


def test_arrays_to_folders_and_back(tmp_path: Path) -> None:
    pictures = np.stack([noise(8, 8, 1, seed) for seed in range(60)])
    given = ArrayDataset(pictures, np.arange(60) // 20, array_names("all", 60), ("一", "b", "c"))
    FORMATS.get("idx").write({"all": given}, tmp_path / "idx")
    document = convert(tmp_path / "idx", tmp_path / "folders", "image_folder")
    assert document["pictures"] == {"all": 60}
    assert document["left_out"] == 0
    convert(tmp_path / "folders", tmp_path / "again", "idx")
    first, again = load_data(tmp_path / "idx"), load_data(tmp_path / "again")
    assert sorted(again.classes) == sorted(first.classes)
    assert again.picture == first.picture
    held, found = (
        {
            (data.classes[label], picture.tobytes())
            for part in ("train", "validation", "test")
            for label, picture in zip(data.split(part).labels, to_array(data.split(part), part), strict=True)
        }
        for data in (first, again)
    )
    assert found == held
    assert len(held) == 60


def test_splits_stay_and_broken_files_are_left_out_and_counted(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for index in range(30):
            folder = tmp_path / "in" / part / "ab"[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index}.png").write_bytes(encoded(noise(32, 32, 3, index + 100 * (part == "test"))))
    (tmp_path / "in" / "train" / "a" / "bad.png").write_bytes(b"")
    for form in ("cifar", "cifar_png", "idx"):
        document = convert(tmp_path / "in", tmp_path / form, form)
        assert document["pictures"] == {"train": 30, "test": 30}
        assert document["left_out"] == 1
        data = load_data(tmp_path / form)
        assert (len(data.train) + len(data.validation), len(data.test), data.classes) == (30, 30, ("a", "b"))
        assert data.train[0].picture.shape == (32, 32, 3)  # type: ignore[union-attr]
    assert np.array_equal(load_data(tmp_path / "idx").test[0].picture, load_data(tmp_path / "cifar").test[0].picture)


def test_refusals_write_nothing(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", {"a": 3, "b": 3})
    with pytest.raises(InputError, match="unknown format 'indx'"):
        convert(root, tmp_path / "out", "indx")
    with pytest.raises(InputError, match="not empty"):
        convert(root, root, "idx")
    with pytest.raises(InputError, match="CIFAR holds 32×32×3"):
        convert(root, tmp_path / "out", "cifar")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_target_inside_the_source_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", {"a": 3, "b": 3})
    with pytest.raises(InputError, match="lies inside the data set"):
        convert(root, root / "packed", "image_folder")
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]
    assert convert("digits", tmp_path / "in" / "digits", "idx")["left_out"] == 0


@pytest.mark.parametrize("to", ["idx", "cifar", "cifar100", "cifar_png", "shards"])
def test_class_names_that_could_not_be_read_again_are_not_written(tmp_path: Path, to: str) -> None:
    pictures = np.zeros((4, 32, 32, 3), np.uint8)
    given = ArrayDataset(pictures, [0, 1, 0, 1], array_names("all", 4), ("cat\t1", "dog"))
    with pytest.raises(InputError, match=r"class name 'cat\\t1' holds control characters"):
        FORMATS.get(to).write({"all": given}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("to", "told"), [("image_folder", True), ("labels_csv", True), ("idx", False)])
def test_classes_without_pictures_are_told_where_they_are_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, to: str, told: bool
) -> None:
    given = ArrayDataset(np.zeros((4, 8, 8, 1), np.uint8), [0, 2, 0, 2], array_names("all", 4), ("a", "unused", "c"))
    FORMATS.get("idx").write({"all": given}, tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", to)
    assert ("those without any are gone: 'unused'" in caplog.text) == told
