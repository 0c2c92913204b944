"""load_data: what is given stays, what misses is drawn, what cannot work is one clear message (B40, B57)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import InputError
from danlu.data.arrays import array_names
from danlu.data.load import load_data
from danlu.data.sample import ArrayDataset
from danlu.data.splits import draw_parts, split_name
from tests.data.pictures import encoded, jpeg, make_folder, noise

FACTS = {
    "mnist": ([60_000, 10_000], [5, 0, 4, 1, 9], [7, 2, 1, 0, 4], [0.1307], [0.3081]),
    "fashion-mnist": ([60_000, 10_000], [9, 0, 0, 3, 0], [9, 2, 1, 1, 6], [0.2860], [0.3530]),
    "cifar10": (
        [50_000, 10_000],
        [6, 9, 9, 4, 1, 1, 2, 7, 8, 3],
        [3, 8, 8, 0, 6, 6, 1, 6, 3, 1],
        [0.4914, 0.4822, 0.4465],
        [0.2470, 0.2435, 0.2616],
    ),
}


@pytest.mark.parametrize("name", FACTS)
def test_known_facts_of_real_data(name: str, real: Callable[[str], str]) -> None:
    from danlu.data import catalog
    from danlu.data.stats import array_stats

    splits = catalog.read(real(name))
    sizes, first_train, first_test, mean, std = FACTS[name]
    assert [len(splits["train"]), len(splits["test"])] == sizes
    assert splits["train"].labels[: len(first_train)].tolist() == first_train
    assert splits["test"].labels[: len(first_test)].tolist() == first_test
    found = array_stats(splits["train"])
    assert np.abs(np.array(found) - np.array([mean, std])).max() < 6e-5


@pytest.mark.parametrize("name", FACTS)
def test_real_data_is_loaded_whole_and_quickly(name: str, real: Callable[[str], str]) -> None:
    from danlu.data import catalog

    data = load_data(real(name))
    assert data.hash == catalog.CATALOG[name].hash
    assert data.test_given
    assert len(data.test) == 10_000
    assert data.test.ids[0] == "test/00000"
    assert data.test.ids[-1] == "test/09999"
    assert len(data.train) + len(data.validation) == FACTS[name][0][0]
    assert abs(len(data.validation) / FACTS[name][0][0] - 0.1) < 1e-4
    assert set(data.train.ids).isdisjoint(data.validation.ids)


def test_digits() -> None:
    data = load_data("digits")
    assert (data.name, data.source, data.licence, data.test_given) == ("digits", "digits", "CC BY 4.0", False)
    assert [len(data.train), len(data.validation), len(data.test)] == [1259, 179, 359]
    assert (data.picture.height, data.picture.width, data.picture.channels, data.picture.uniform) == (8, 8, 1, True)
    assert sorted({*data.train.ids, *data.validation.ids, *data.test.ids}) == [f"all/{i:05d}" for i in range(1797)]
    assert data.train[3].picture.shape == (8, 8, 1)
    assert load_data("digits", channels=3).train[3].picture.shape == (8, 8, 3)


def test_digits_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    from danlu.data import catalog

    digits, ours = sklearn.load_digits(), catalog.read("digits")["all"]
    assert np.array_equal(ours.pictures[..., 0], np.round(digits.images * 255 / 16).astype(np.uint8))
    assert np.array_equal(ours.labels, digits.target)


def test_record_is_json_and_holds_what_reports_show(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"猫 cat": 30, "dog": 30})
    (root / "dog" / "a.txt").write_text("x")
    record = json.loads(json.dumps(load_data(root, seed=3).to_record(), allow_nan=False))
    assert record["classes"] == ["dog", "猫 cat"]
    assert record["sizes"] == {"train": 42, "validation": 6, "test": 12}
    assert record["counts"] == {"train": [21, 21], "validation": [3, 3], "test": [6, 6]}
    assert record["problems"]["count"] == 1
    assert record["problems"]["first"][0]["id"] == "dog/a.txt"
    assert record["seed"] == 3
    assert record["picture"] == {"height": 24, "width": 24, "channels": 3, "uniform": True}
    assert len(record["mean"]) == len(record["std"]) == 3
    assert load_data(record["source"], seed=3).hash == record["hash"], "the source opens the same data again"


# Splits


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(0, 10**6))
def test_parts_are_disjoint_complete_stratified_and_repeatable(labels: list[int], seed: int) -> None:
    array = np.array(labels, dtype=np.int64)
    parts = draw_parts(array, (0.1, 0.2), seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = draw_parts(array, (0.1, 0.2), seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    for label in set(labels):
        count = labels.count(label)
        train, validation, test = (int((array[part] == label).sum()) for part in parts)
        assert train >= 1
        assert test >= (count > 1)
        assert validation >= (count > 2)
        assert abs(test - 0.2 * count) <= 1
        assert abs(validation - 0.1 * count) <= 1


def test_another_seed_is_another_split() -> None:
    first, second = load_data("digits", seed=0), load_data("digits", seed=1)
    assert first.hash == second.hash
    assert list(first.test.ids) != list(second.test.ids)
    assert list(first.test.ids) == list(load_data("digits", seed=0).test.ids)


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
def test_given_splits_are_kept(validation: str, tmp_path: Path) -> None:
    root = make_folder(
        tmp_path, {f"{part}/{c}": n for part, n in (("Train", 9), (validation, 3), ("testing", 4)) for c in ("a", "b")}
    )
    data = load_data(root, seed=5)
    assert [len(data.train), len(data.validation), len(data.test)] == [18, 6, 8]
    assert all(ident.startswith("testing/") for ident in data.test.ids)
    assert data.test_given


def test_a_given_test_split_is_never_touched(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train/a": 20, "train/b": 20, "test/a": 4, "test/b": 4})
    for seed in range(3):
        data = load_data(root, seed=seed)
        assert sorted(data.test.ids) == [f"test/{c}/{i:03d}.jpg" for c in "ab" for i in range(4)]
        assert [len(data.train), len(data.validation)] == [36, 4]


def test_without_a_test_split_one_is_drawn_from_the_training_part(tmp_path: Path) -> None:
    data = load_data(make_folder(tmp_path, {"train/a": 20, "train/b": 20, "val/a": 4, "val/b": 4}))
    assert [len(data.train), len(data.validation), len(data.test)] == [32, 8, 8]
    assert not data.test_given
    assert all(ident.startswith("val/") for ident in data.validation.ids)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = load_data(make_folder(tmp_path, {"bus": 5, "car": 5, "train": 5}))
    assert data.classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("VAL", "validation"), ("valid", "validation"), ("t10k", "test"), ("Training", "train"), ("cat", None)],
)
def test_split_names(name: str, expected: str | None) -> None:
    assert split_name(name) == expected


# Pictures


def test_grey_and_colour_and_mixed_sizes(tmp_path: Path) -> None:
    for index, (side, channels) in enumerate([(10, 1), (20, 1), (31, 1), (10, 1), (20, 1), (31, 1)]):
        folder = tmp_path / "ab"[index % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{index}.png").write_bytes(encoded(noise(side, side + 2, channels, index)))
    data = load_data(tmp_path)
    assert (data.picture.channels, data.picture.uniform) == (1, False)
    sides = [(10, 20, 31)[int(Path(ident).stem) % 3] for ident in [*data.train.ids, *data.validation.ids]]
    assert (data.picture.height, data.picture.width) == (int(np.median(sides)), int(np.median(sides)) + 2)
    assert len(data.mean) == 1
    assert load_data(tmp_path, channels=3).picture.channels == 3
    (tmp_path / data.train.ids[0]).write_bytes(encoded(noise(9, 9)))
    assert load_data(tmp_path).picture.channels == 3


def test_statistics_are_those_of_the_training_pictures(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2, "val/a": 1, "val/b": 1})
    for path in (tmp_path / "train").rglob("*.jpg"):
        level = 51 * (1 + int(path.stem))
        path.with_suffix(".png").write_bytes(encoded(np.full((30, 30, 3), level, np.uint8)))
        path.unlink()
    data = load_data(tmp_path)
    assert data.mean == pytest.approx((0.4, 0.4, 0.4), abs=1e-9)
    assert data.std == pytest.approx((np.sqrt(2 / 3) / 5,) * 3, abs=1e-9)
    assert load_data(tmp_path).mean == data.mean


# B40: what cannot work


def build_nothing(root: Path) -> Path:
    return root


def build_pictures_only(root: Path) -> Path:
    (root / "a.jpg").write_bytes(jpeg())
    return root


def build_nested(root: Path) -> Path:
    make_folder(root / "inner", {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    return root


def build_nested_classes(root: Path) -> Path:
    make_folder(root / "inner", {"a": 3, "b": 3})
    return root


def build_several(root: Path) -> Path:
    make_folder(root, {"one/train/a": 3, "two/train/a": 3})
    return root


def build_bare_splits(root: Path) -> Path:
    make_folder(root, {"train": 3, "test": 3})
    return root


def build_file(root: Path) -> Path:
    make_folder(root, {"a": 3, "b": 3})
    return root / "a" / "000.jpg"


def build_typo(root: Path) -> Path:
    make_folder(root, {"photos/a": 3, "photos/b": 3})
    return root / "phots"


def build_empty_class(root: Path) -> Path:
    make_folder(root, {"a": 3, "b": 3})
    (root / "c").mkdir()
    return root


def build_text_class(root: Path) -> Path:
    make_folder(root, {"a": 3, "b": 3, "c": 0})
    (root / "c" / "notes.txt").write_text("no picture")
    return root


def build_broken_class(root: Path) -> Path:
    make_folder(root, {"a": 40, "b": 40})
    make_folder(root, {"c": 1})
    (root / "c" / "000.jpg").write_bytes(b"")
    return root


def build_twice_validation(root: Path) -> Path:
    return make_folder(root, {"train/a": 3, "train/b": 3, "val/a": 3, "valid/a": 3})


def build_test_only_class(root: Path) -> Path:
    return make_folder(root, {"train/a": 3, "train/b": 3, "test/a": 3, "test/c": 3})


def build_tiny(root: Path) -> Path:
    return make_folder(root, {"a": 1, "b": 1})


def build_two_formats(root: Path) -> Path:
    make_folder(root, {"a": 3, "b": 3})
    (root / "train-images-idx3-ubyte").write_bytes(b"x")
    return root


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (build_nothing, r"is an empty folder\n  mend: make one folder a class"),
        (build_pictures_only, "holds pictures but no class folders"),
        (lambda root: make_folder(root, {"cat": 5}), r"one class only \('cat'\)"),
        (build_nested, r"holds another folder that holds the data\n  mend: give .*inner"),
        (build_nested_classes, r"holds another folder that holds the data\n  mend: give .*inner"),
        (build_several, r"holds several data sets\n  mend: give one of .*one, .*two"),
        (build_bare_splits, r"test/ holds pictures but no class folders"),
        (build_file, r"is a file, a folder is needed\n  mend: give the folder .*/a"),
        (build_typo, r"no such folder\n  did you mean: .*photos\?"),
        (build_empty_class, r"classes without a usable picture: 'c'"),
        (build_text_class, r"classes without a usable picture: 'c'"),
        (build_broken_class, r"classes without a usable picture: 'c'"),
        (build_twice_validation, "val and valid are the same split"),
        (build_test_only_class, "classes without a usable picture in train: 'c'"),
        (lambda root: make_folder(root, {"test/a": 3, "test/b": 3}), "holds test but no train split"),
        (build_tiny, "too few pictures to draw a"),
        (build_two_formats, "looks like several formats: idx, image_folder"),
        (lambda root: root / "absent" / "deeper", "no such folder"),
        (lambda root: root / ("x" * 5000), "no such folder|cannot be opened"),
        (lambda root: root / "nul\0byte", "no such folder"),
    ],
)
def test_one_clear_message(build: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_data(build(tmp_path))
    assert error.value.exit_code == 2
    assert error.value.mend
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("name", "nearest"), [("minst", "mnist"), ("cifar-10", "cifar10"), ("fashion_mnist", "fashion")]
)
def test_unknown_names_get_the_nearest(name: str, nearest: str, in_tmp: Path) -> None:
    with pytest.raises(InputError, match=f"did you mean: .*{nearest}"):
        load_data(name)


def test_a_folder_in_reach_is_near_too(in_tmp: Path) -> None:
    make_folder(in_tmp, {"flowers/a": 3, "flowers/b": 3})
    with pytest.raises(InputError, match="did you mean: flowers"):
        load_data("flower")
    assert load_data("flowers").name == "flowers"


def test_missing_named_data_says_how_to_get_it() -> None:
    with pytest.raises(InputError, match=r"danlu data get mnist`, or give --download"):
        load_data("mnist")


def test_batch_larger_than_the_data() -> None:
    data = load_data("digits")
    data.check_batch(1259)
    for batch in (1260, 0, -1):
        with pytest.raises(InputError, match=f"batch size {batch} does not fit 1,259 training pictures"):
            data.check_batch(batch)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="channels are 4"):
        load_data("digits", channels=4)
    with pytest.raises(InputError, match="unknown split 'tst'"):
        load_data("digits").split("tst")


# B57: locales

_SCRIPT = """
import json, locale, sys
from danlu.data.load import load_data
from danlu.core.files import write_json
from pathlib import Path
data = load_data(sys.argv[1])
write_json(Path(sys.argv[2]), data.to_record())
from danlu.data.loader import Loader
import numpy as np
assert Loader(data.train, (8, 8), 3).pictures(np.arange(3)).shape == (3, 8, 8, 3)
again = load_data(data.source)
assert again.hash == data.hash
print(sys.getfilesystemencoding())
"""

_LOCALES = {
    "utf-8": {"PYTHONUTF8": "1"},
    "ascii": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "gbk": {"LC_ALL": "zh_CN.GBK", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
@pytest.mark.parametrize("encoding", _LOCALES)
def test_every_locale_gives_the_same_record(encoding: str, tmp_path: Path, own_cache: Path) -> None:
    """Ids, class names, hash and source are the same text whatever the locale makes of the bytes of a file name."""
    root = make_folder(tmp_path / "照片 with space", {"猫 ①": 6, "dog’s 🐶": 6})
    environment = {**os.environ, "DANLU_HOME": str(own_cache), **_LOCALES[encoding]}
    if encoding == "gbk":
        environment["LOCPATH"] = str(make_gbk_locale(tmp_path))
    command = [sys.executable, "-c", _SCRIPT, str(root), str(tmp_path / "out.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == encoding
    record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(load_data(root).to_record()))
    assert record["classes"] == ["dog’s 🐶", "猫 ①"]
    assert record["source"] == str(root)


def make_gbk_locale(folder: Path) -> Path:
    """Compile the locale zh_CN.GBK into ``folder``, or skip the test where its sources are not installed."""
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/zh_CN").exists():
        pytest.skip("the sources of the locale zh_CN.GBK are not installed")
    made = subprocess.run(["localedef", "-i", "zh_CN", "-f", "GBK", str(folder / "zh_CN.GBK")], check=False)
    assert made.returncode in (0, 1), "1 means warnings"
    return folder


# Folders and names


def test_a_folder_named_as_a_data_set_of_the_catalogue(in_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_data("digits").source == "digits"
    assert "the folder of that name" not in caplog.text
    make_folder(in_tmp, {"digits/a": 6, "digits/b": 6})
    assert load_data("digits").source == "digits"
    assert "the folder of that name here is ./digits" in caplog.text
    assert load_data("./digits").classes == ("a", "b")


def test_the_home_of_nobody() -> None:
    with pytest.raises(InputError, match=r"~nosuchuser/x: no such home(.|\n)*mend: write the path in full"):
        load_data("~nosuchuser/x")


def test_pictures_without_a_split_beside_a_train_split_are_refused(tmp_path: Path) -> None:
    from danlu.data.formats import FORMATS

    pictures = np.zeros((12, 4, 4, 1), np.uint8)
    parts = {
        part: ArrayDataset(pictures, np.arange(12) % 2, array_names(part, 12), "ab")
        for part in ("train", "all", "test")
    }
    FORMATS.get("idx").write(parts, tmp_path / "a")
    with pytest.raises(InputError, match="holds 12 pictures without a split beside a train split"):
        load_data(tmp_path / "a")
    del parts["train"]
    FORMATS.get("idx").write(parts, tmp_path / "b")
    assert len(load_data(tmp_path / "b").test) == 12, "all that is no test picture is learnt from"


def test_names_that_differ_in_their_unicode_form_are_told(tmp_path: Path) -> None:
    for part, form in (("train", "NFC"), ("test", "NFD")):
        make_folder(tmp_path, {f"{part}/{unicodedata.normalize(form, name)}": 4 for name in ("café", "thé")})
    if len(list((tmp_path / "train").iterdir()) + list((tmp_path / "test").iterdir())) < 4:
        pytest.skip("this file system has one name for both")
    with pytest.raises(
        InputError, match=r"give one name to both: 'cafe\u0301' differs from 'caf\xe9' in Unicode form only"
    ):
        load_data(tmp_path)
