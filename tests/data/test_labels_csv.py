"""A table of labels: what it may say, what is wrong with it, and how its pictures are split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def test_pictures_the_table_does_not_name_are_listed(tmp_path: Path) -> None:
    report = check(make(tmp_path / "a", ["./images/0.png,cat;dog", *ROWS[1:]]))
    assert [(problem.id, problem.reason) for problem in report.others] == [
        (f"images/{number}.png", "has no row in labels.csv") for number in (4, 5)
    ]
    assert report.ok, "they are told, they are no fault"
    assert check(make(tmp_path / "b", ROWS, pictures=4)).others == []
    assert convert(tmp_path / "a", tmp_path / "c", "labels_csv")["left_out"] == 2


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


def split_table(folder: Path, tested: range) -> None:
    parts = ["test" if number in tested else "train" for number in range(60)]
    rows = [f"images/{number}.png,{'ab'[number % 2]},{part}" for number, part in enumerate(parts)]
    (folder / "labels.csv").write_text("\n".join(["name,labels,split", *rows, ""]), encoding="utf-8")


def test_the_hash_knows_the_split_of_each_row(tmp_path: Path) -> None:
    """Or pictures that were trained on become test pictures by an edit of the table, and nothing tells."""
    folder = make(tmp_path / "a", ROWS, pictures=60)
    split_table(folder, range(20))
    before = load_data(folder)
    split_table(folder, range(40, 60))
    assert set(before.train.ids) & set(load_data(folder).test.ids)
    assert load_data(folder).hash != before.hash
    split_table(folder, range(20))
    assert load_data(folder).hash == before.hash


def test_the_hash_of_a_table_without_splits_stays_what_it_was(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.pgm").write_bytes(b"P5 1 1 255\n" + bytes([number]))
    (tmp_path / "labels.csv").write_text("name,labels\n0.pgm,a\n1.pgm,b\n2.pgm,a;b\n")
    assert check(tmp_path).hash == "9847bee582ef6fdda915e8dda01f3b0c1c896c72dd73d0808e6984320da5e8a1"


_LOAD = """
import json, sys
from danlu.data.load import load_data
data = load_data(sys.argv[1])
print(json.dumps([data.hash, sorted(data.train.ids)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_are_utf_8_in_every_locale(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", [f"images/猫{number}.png,{'ab'[number % 2]}" for number in range(12)], pictures=12)
    for number in range(12):
        (folder / "images" / f"{number}.png").rename(folder / "images" / f"猫{number}.png")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", _LOAD, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    data = load_data(folder)
    assert json.loads(done.stdout) == [data.hash, sorted(data.train.ids)]
    assert check(folder).others == []


def test_a_name_no_file_can_have_and_a_table_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMATS.get("labels_csv")
    with pytest.raises(InputError, match=r"csv:2: .*is not there"):
        form.read(make(tmp_path / "a", ["b" * 300 + ".png,cat"]))
    folder = make(tmp_path / "b", ROWS)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"labels\.csv: cannot be read \(Permission denied\)"):
        form.read(folder)


@pytest.mark.parametrize("other", ["", "tumour"])
def test_one_label_or_none_is_told_what_to_write(tmp_path: Path, other: str) -> None:
    folder = make(tmp_path / "a", [f"images/{n}.png,{'tumour' if n % 2 else other}" for n in range(6)])
    with pytest.raises(InputError, match=r"one class only \('tumour'\)(.|\n)*mend: name the other class as well"):
        load_data(folder)
