"""What every registered format must do: give back what was written, keep its order, know its own, name damage."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from danlu.core.errors import InputError
from danlu.core.registry import index_text
from danlu.data.arrays import array_names, to_array
from danlu.data.formats import FORMATS
from danlu.data.formats.cifar import RECORD, read_batch
from danlu.data.formats.idx import encode_idx, read_idx
from danlu.data.sample import ArrayDataset, Dataset

NAMES = FORMATS.names()
CLASSES = ("飞机", "bird & co", "cat", "dog's")


def dataset(split: str, count: int = 13, seed: int = 0) -> ArrayDataset:
    """32×32 RGB pictures, which every format can hold, in the order of their labels, which every format keeps."""
    draw = np.random.default_rng([seed, count])
    pictures = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.sort(np.arange(count) % len(CLASSES))
    return ArrayDataset(pictures, labels, array_names(split, count), CLASSES)


def splits(names: tuple[str, ...] = ("train", "validation", "test")) -> dict[str, Dataset]:
    return {name: dataset(name, 13 - 3 * number, number) for number, name in enumerate(names)}


def ids_of(found: dict[str, Dataset]) -> dict[str, list[str]]:
    return {name: list(part.ids) for name, part in found.items()}


def test_index_is_fresh() -> None:
    assert FORMATS.index_path.read_text(encoding="utf-8") == index_text(FORMATS.build_index())
    assert {"image_folder", "idx", "cifar", "cifar_png"} <= set(NAMES)


@pytest.mark.parametrize("parts", [("all",), ("train", "test"), ("train", "validation", "test")], ids="+".join)
@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_is_read(name: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    written = splits(parts)
    FORMATS.get(name).write(written, tmp_path / "数据 set")
    found = FORMATS.get(name).read(tmp_path / "数据 set")
    assert set(found) == set(parts)
    for part, given_part in written.items():
        read = found[part]
        assert sorted(read.classes) == sorted(CLASSES)
        expected = {
            (CLASSES[label], picture.tobytes())
            for label, picture in zip(given_part.labels.tolist(), to_array(given_part, name), strict=True)
        }
        pictures = to_array(read, name)
        assert {
            (read.classes[label], p.tobytes()) for label, p in zip(read.labels.tolist(), pictures, strict=True)
        } == expected
        if name != "image_folder":  # folders are read in the order of their names
            assert np.array_equal(pictures, to_array(given_part, name)), "the order is kept"


@pytest.mark.parametrize("name", NAMES)
def test_order_and_ids_are_stable(name: str, tmp_path: Path) -> None:
    FORMATS.get(name).write(splits(), tmp_path / "a")
    first, again = FORMATS.get(name).read(tmp_path / "a"), FORMATS.get(name).read(tmp_path / "a")
    assert ids_of(first) == ids_of(again)
    every = [ident for ids in ids_of(first).values() for ident in ids]
    assert len(set(every)) == len(every), "each id stands once in the whole data set"
    assert all(part.labels.dtype == np.int64 for part in first.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_two_formats_claim_one_folder(name: str, tmp_path: Path) -> None:
    for number, parts in enumerate((("all",), ("train", "test"))):
        FORMATS.get(name).write(splits(parts), tmp_path / str(number))
        assert [other for other in NAMES if FORMATS.get(other).sniff(tmp_path / str(number))] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_and_a_file_are_claimed_by_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert not FORMATS.get(name).sniff(tmp_path / "empty")
    assert not FORMATS.get(name).sniff(tmp_path / "file")
    assert not FORMATS.get(name).sniff(tmp_path / "absent")


@pytest.mark.parametrize("name", NAMES)
def test_writing_is_whole_or_nothing_and_never_over_something(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        FORMATS.get(name).write(splits(), tmp_path / "a")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "mine.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named_with_reason_and_mend(name: str, tmp_path: Path) -> None:
    FORMATS.get(name).write(splits(("train", "test")), tmp_path / "a")
    damaged = max((p for p in (tmp_path / "a").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-500])
    with pytest.raises(InputError) as error:
        for part in FORMATS.get(name).read(tmp_path / "a").values():
            to_array(part, name)
    assert damaged.name in str(error.value)
    assert any(word in str(error.value) for word in ("byte", "damaged"))


# IDX


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans())
def test_idx_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, zipped: bool) -> None:
    import gzip

    shape = data.draw(st.tuples(st.integers(0, 5), *[st.integers(1, 6)] * data.draw(st.integers(0, 3))))
    array = data.draw(arrays(np.uint8, shape))
    path = tmp_path_factory.mktemp("idx") / "file"
    content = encode_idx(array)
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert np.array_equal(read_idx(path, (1, 2, 3, 4)), array)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_idx_damage_is_an_input_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """B38: whatever a header claims, the array has the file's bytes or there is an error."""
    import gzip

    content = bytearray(encode_idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, 15))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=3))
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(bytes(content)) if data.draw(st.booleans()) else bytes(content))
    with contextlib.suppress(InputError):
        found = read_idx(path, (1, 3))
        assert found.tobytes() == bytes(content[4 + 4 * found.ndim :])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bytes 0–3 are 0x"),
        (b"\x00\x00\x0d\x03" + struct.pack(">III", 1, 1, 1) + b"\0", "0x00000d03"),
        (b"\x00\x00\x08\x03" + struct.pack(">II", 1, 1), "header ends at byte 12"),
        (b"\x00\x00\x08\x03" + struct.pack(">III", 2, 2, 2) + b"\0" * 7, "need 24 bytes, the file has 23"),
        (b"\x00\x00\x08\x03" + struct.pack(">III", 2, 2, 2) + b"\0" * 9, "need 24 bytes, the file has 25"),
        (b"\x00\x00\x08\x03" + struct.pack(">III", 4_000_000_000, 4_000_000_000, 4_000_000_000), "the file has 16"),
        (b"\x00\x00\x08\x03" + struct.pack(">III", 0, 0, 28), "leave no pixels"),
        (b"\x1f\x8b\x08\x00 no gzip", "broken gzip"),
    ],
)
def test_idx_lies_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "file", (1, 3))


def test_idx_gzip_bombs_are_refused(tmp_path: Path) -> None:
    """B18: a few bytes that promise, or really hold, far more than allowed."""
    import gzip

    header = b"\x00\x00\x08\x03" + struct.pack(">III", 60_000, 4_000, 4_000)
    (tmp_path / "lie").write_bytes(gzip.compress(header))
    with pytest.raises(InputError, match="unzipped"):
        read_idx(tmp_path / "lie", (3,))
    (tmp_path / "more").write_bytes(gzip.compress(encode_idx(np.zeros((2, 2, 2), np.uint8)) + bytes(10**7)))
    with pytest.raises(InputError, match="goes on after byte 24"):
        read_idx(tmp_path / "more", (3,))


def idx_folder(path: Path, labels: list[int], classes: list[str] | None) -> Path:
    path.mkdir()
    (path / "train-images-idx3-ubyte").write_bytes(encode_idx(np.zeros((3, 4, 4), np.uint8)))
    (path / "train-labels-idx1-ubyte").write_bytes(encode_idx(np.array(labels, np.uint8)))
    if classes is not None:
        (path / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    return path


def test_idx_labels_must_fit(tmp_path: Path) -> None:
    idx = FORMATS.get("idx")
    with pytest.raises(InputError, match="2 labels for 3 pictures"):
        idx.read(idx_folder(tmp_path / "a", [0, 1], None))
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte: byte 10: label 7, but there are 2 classes"):
        idx.read(idx_folder(tmp_path / "b", [0, 1, 7], ["x", "y"]))
    (tmp_path / "b" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="has no labels file"):
        idx.read(tmp_path / "b")


def test_idx_dotted_and_zipped_names_are_read_and_doubles_refused(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "a", [0, 1, 1], None)
    (folder / "train-images-idx3-ubyte").rename(folder / "train-images.idx3-ubyte")
    assert len(FORMATS.get("idx").read(folder)["train"]) == 3
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"")
    with pytest.raises(InputError, match="same part"):
        FORMATS.get("idx").read(folder)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "a"], "stands twice"),
        (["a", ""], "class 1 has no name"),
        (["a", "x" * 10_000], "too long"),
        (["a", "b\u0000c"], "control characters"),
        (["a", 3], "class 1 has no name"),
        ([], "names no classes"),
        ({"a": 1}, "no list"),
    ],
)
def test_class_names_from_files_are_checked(classes: list[str], message: str, tmp_path: Path) -> None:
    """B39, B19: no name that a record or a table could not hold; the message itself stays short."""
    with pytest.raises(InputError, match=message) as error:
        FORMATS.get("idx").read(idx_folder(tmp_path / "a", [0, 1, 1], classes))
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "=cmd()", "🐱‍👤", "../x", "a\\b", "x" * 255])
def test_strange_class_names_survive_where_names_are_text(name: str, tmp_path: Path) -> None:
    """B39: kept as they are; what shows them escapes them. A folder for them is refused where it would lead out."""
    data = ArrayDataset(np.zeros((2, 32, 32, 3), np.uint8), [0, 1], array_names("all", 2), [name, "b"])
    for number, form in enumerate(("idx", "cifar", "cifar_png")):
        FORMATS.get(form).write({"all": data}, tmp_path / str(number))
        assert FORMATS.get(form).read(tmp_path / str(number))["all"].classes == (name, "b")
    if name in ("../x", "a\\b"):
        with pytest.raises(InputError, match="another folder"):
            FORMATS.get("image_folder").write({"all": data}, tmp_path / "folder")
        assert not (tmp_path / "folder").exists()


# CIFAR


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3073), st.integers(1, 256), st.randoms(use_true_random=False))
def test_cifar_records(
    tmp_path_factory: pytest.TempPathFactory, records: int, extra: int, classes: int, draw: object
) -> None:
    """B38: only whole records are read; each gives its label and its pixels, plane by plane."""
    content = np.random.default_rng(records * 7 + extra).integers(0, 256, records * RECORD + extra, dtype=np.uint8)
    path = tmp_path_factory.mktemp("cifar") / "data_batch_1.bin"
    path.write_bytes(content.tobytes())
    whole = len(content) % RECORD == 0
    table = content[: len(content) // RECORD * RECORD].reshape(-1, RECORD)
    if whole and (table[:, 0] < classes).all():
        pictures, labels = read_batch(path, classes)
        assert np.array_equal(labels, table[:, 0])
        for picture, row in zip(pictures, table, strict=True):
            assert np.array_equal(picture.transpose(2, 0, 1).ravel(), row[1:])
    else:
        with pytest.raises(InputError, match="no multiple of 3073" if not whole else r"byte [0-9,]+: label"):
            read_batch(path, classes)


def test_pickled_cifar_is_refused_unread(tmp_path: Path) -> None:
    """B38: the file would run a program if it were unpickled."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "ran"), "w")  # type: ignore[return-value]

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    assert FORMATS.get("cifar").sniff(folder)
    with pytest.raises(InputError, match="pickles"):
        FORMATS.get("cifar").read(folder)
    assert not (tmp_path / "ran").exists()


def test_cifar100_true_layout(tmp_path: Path) -> None:
    """Byte 0 is the coarse label, byte 1 the class, then the planes; names come from fine_label_names.txt."""
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    planes = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3, 32, 32) % 251
    rows = [bytes([19, 2]), bytes([0, 1])]
    content = b"".join(row + plane.astype(np.uint8).tobytes() for row, plane in zip(rows, planes, strict=True))
    for part in ("train", "test"):
        (folder / f"{part}.bin").write_bytes(content)
    (folder / "fine_label_names.txt").write_text("apple\naquarium_fish\nbaby\n\n")
    (folder / "coarse_label_names.txt").write_text("fish\n")
    assert [name for name in NAMES if FORMATS.get(name).sniff(folder)] == ["cifar100"]
    found = FORMATS.get("cifar100").read(folder)
    assert set(found) == {"train", "test"}
    assert found["train"].classes == ("apple", "aquarium_fish", "baby")
    assert found["train"].labels.tolist() == [2, 1]
    assert found["train"][1].picture[5, 7].tolist() == planes[1, :, 5, 7].tolist()

    (folder / "train.bin").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"train\.bin.*no multiple of 3074: byte 3,074 begins a cut record"):
        FORMATS.get("cifar100").read(folder)
    (folder / "train.bin").write_bytes(bytes([0, 7]) + content[2:])
    with pytest.raises(InputError, match=r"byte 1: label 7, but there are 3 classes"):
        FORMATS.get("cifar100").read(folder)

    pickled = tmp_path / "cifar-100-python"
    pickled.mkdir()
    for name in ("train", "test", "meta"):
        (pickled / name).write_bytes(b"\x80\x02cos\nsystem\n")
    with pytest.raises(InputError, match="Python version of CIFAR-100; its files are pickles"):
        FORMATS.get("cifar100").read(pickled)


def test_cifar_train_batches_count_up_and_sort_as_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(1, 12):
        (folder / f"data_batch_{number}.bin").write_bytes(bytes([number]) + bytes(RECORD - 1))
    assert FORMATS.get("cifar").read(folder)["train"].labels.tolist() == list(range(1, 12))
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(InputError, match="do not count up"):
        FORMATS.get("cifar").read(folder)


@pytest.mark.parametrize("name", ["cifar", "cifar100", "cifar_png"])
def test_cifar_holds_only_its_own_size(name: str, tmp_path: Path) -> None:
    small = ArrayDataset(np.zeros((2, 8, 8, 1), np.uint8), [0, 1], array_names("train", 2), ["a", "b"])
    with pytest.raises(InputError, match="8×8×1"):
        FORMATS.get(name).write({"train": small}, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_strips_with_wrong_labels_are_refused(tmp_path: Path) -> None:
    form = FORMATS.get("cifar_png")
    form.write({"train": dataset("train")}, tmp_path / "a")
    labels = tmp_path / "a" / "train_lables.json"
    for content, message in (("[0,1]", "2 labels for 13"), ('["x"]', "entry 0"), ("{}", "no list"), ("[", "not JSON")):
        labels.write_text(content)
        with pytest.raises(InputError, match=message):
            form.read(tmp_path / "a")
    labels.unlink()
    with pytest.raises(InputError, match=r"train_lables\.json"):
        form.read(tmp_path / "a")


def test_pictures_of_several_sizes_only_go_into_folders(tmp_path: Path) -> None:
    from tests.data.pictures import encoded, noise

    for index, side in enumerate((8, 9)):
        (tmp_path / "in" / str(index)).mkdir(parents=True)
        (tmp_path / "in" / str(index) / "a.png").write_bytes(encoded(noise(side, side)))
    mixed = FORMATS.get("image_folder").read(tmp_path / "in")
    with pytest.raises(InputError, match=r"1/a\.png: is 9×9×3, the first one 8×8×3"):
        FORMATS.get("idx").write(mixed, tmp_path / "out")
    FORMATS.get("image_folder").write(mixed, tmp_path / "again")
    again = FORMATS.get("image_folder").read(tmp_path / "again")["all"]
    assert [(tmp_path / "again" / i).read_bytes() for i in again.ids] == [
        (tmp_path / "in" / i).read_bytes() for i in mixed["all"].ids
    ], "files are copied, not encoded again"
