"""A table of labels: what it may say, what is wrong with it, and how its pictures are split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danlu.core.errors import InputError
from danlu.data.convert import convert
from danlu.data.doctor import check
from danlu.data.formats import FORMATS
from danlu.data.load import load_data


def make(folder: Path, rows: list[str], header: str = "name,labels", pictures: int = 6) -> Path:
    (folder / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(pictures):
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "images" / f"{number}.png")
    (folder / "labels.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return folder


ROWS = ["images/0.png,cat;dog", "images/1.png,", '"images/2.png","dog"', "images/3.png, bird ; cat "]


def test_several_labels_or_none(tmp_path: Path) -> None:
    found = FORMATS.get("labels_csv").read(make(tmp_path / "a", ROWS))["all"]
    assert found.classes == ("bird", "cat", "dog")
    assert found.labels.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0]]
    assert list(found.ids) == [f"images/{number}.png" for number in range(4)]
    assert found[3].targets["label"].tolist() == [1, 1, 0]


def test_pictures_the_table_does_not_name_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FORMATS.get("labels_csv").read(make(tmp_path / "a", ROWS))
    assert "2 pictures are not named in labels.csv and not used, first 'images/4.png'" in caplog.text
    caplog.clear()
    FORMATS.get("labels_csv").read(make(tmp_path / "b", ROWS, pictures=4))
    assert caplog.text == ""


def test_a_label_for_each_picture_makes_classes(tmp_path: Path) -> None:
    rows = [f"images/{number}.png,{'ab'[number % 2]},{'train' if number < 4 else 'val'}" for number in range(6)]
    found = FORMATS.get("labels_csv").read(make(tmp_path / "a", rows, "name,labels,split"))
    assert {part: dataset.labels.tolist() for part, dataset in found.items()} == {
        "train": [0, 1, 0, 1],
        "validation": [0, 1],
    }


def test_what_was_written_is_read(tmp_path: Path) -> None:
    form = FORMATS.get("labels_csv")
    first = form.read(make(tmp_path / "a", ROWS))
    form.write(first, tmp_path / "b")
    again = form.read(tmp_path / "b")
    assert again["all"].classes == first["all"].classes
    assert np.array_equal(again["all"].labels, first["all"].labels)
    assert [form.sniff(tmp_path / name) for name in "ab"] == [True, True]
    assert not FORMATS.get("image_folder").sniff(tmp_path / "b")


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ROWS, "name,lables", r"labels\.csv:1: begins with 'name,lables'\n  did you mean: labels"),
        (["images/0.png,cat", "images/0.png,dog"], "name,labels", r"csv:3: .* stands in line 2 already"),
        (["images/9.png,cat"], "name,labels", r"csv:2: .*is not there"),
        (["../secret.png,cat"], "name,labels", "is no path of a picture below"),
        (["/etc/secret.png,cat"], "name,labels", "is no path of a picture below"),
        (["C:/secret.png,cat"], "name,labels", "is no path of a picture below"),
        (["images\\0.png,cat"], "name,labels", "forward slashes"),
        (["images/0.png,cat,dog"], "name,labels", "has 3 columns, the first line 2"),
        (["images/0.png,cat;;dog"], "name,labels", "an empty one, or one named twice"),
        (["images/0.png,cat;cat"], "name,labels", "an empty one, or one named twice"),
        (["images/0.png,cat,tst"], "name,labels,split", "is no split"),
        (["images/0.png,cat,train", "images/1.png,cat,all"], "name,labels,split", "some rows have a split"),
        (["notes.txt,cat"], "name,labels", "is no picture by its suffix"),
        ([], "name,labels", "names no picture"),
        (['images/0.png,"cat'], "name,labels", "is damaged"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FORMATS.get("labels_csv").read(make(tmp_path / "a", rows, header))


def test_a_table_that_is_no_utf_8(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", ROWS)
    (folder / "labels.csv").write_bytes("name,labels\nimages/0.png,飞机\n".encode("gbk"))
    with pytest.raises(InputError, match="is no UTF-8 text"):
        FORMATS.get("labels_csv").read(folder)
    (folder / "labels.csv").write_bytes("name,labels\nimages/0.png,猫\nimages/1.png,\n".encode("utf-8-sig"))
    assert FORMATS.get("labels_csv").read(folder)["all"].classes == ("猫",)


def test_every_split_gets_pictures_of_rare_classes(tmp_path: Path) -> None:
    labels = ["common;rare" if number < 10 else "common" if number < 60 else "" for number in range(80)]
    folder = make(tmp_path / "a", [f"images/{n}.png,{words}" for n, words in enumerate(labels)], pictures=80)
    data = load_data(folder)
    assert data.multilabel
    record = data.to_record()
    assert record["multilabel"]
    assert sum(record["sizes"].values()) == 80
    assert record["counts"]["test"][1] == 2
    assert record["counts"]["validation"][1] == 1
    assert sum(counts[0] for counts in record["counts"].values()) == 60
    report = check(folder)
    assert (report.pictures, report.ok, report.counts) == (80, True, {"all": [60, 10]})
    assert load_data(folder).hash == data.hash
    (folder / "labels.csv").write_text(
        (folder / "labels.csv").read_text(encoding="utf-8").replace("images/70.png,", "images/70.png,rare")
    )
    assert load_data(folder).hash != data.hash


def test_formats_of_one_label_refuse_several(tmp_path: Path) -> None:
    make(tmp_path / "a", ROWS)
    with pytest.raises(InputError, match="image_folder cannot hold"):
        convert(tmp_path / "a", tmp_path / "b", "image_folder")
    assert not (tmp_path / "b").exists()
    assert convert(tmp_path / "a", tmp_path / "c", "labels_csv")["pictures"] == {"all": 4}
