"""Tar shards: what is packed is read at random from several threads, verified, trained on and resumed."""

from __future__ import annotations

import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danlu.core.errors import InputError
from danlu.data.formats import shards
from danlu.data.formats.shards import ShardDataset, Shards
from danlu.data.load import load_data
from danlu.data.loader import Loader
from danlu.data.sample import ArrayDataset, FileDataset

CLASSES = ("猫", "dog")


def pictures(count: int = 40) -> ArrayDataset:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count, 9, 11, 3), dtype=np.uint8)
    return ArrayDataset(pixels, np.arange(count) % 2, [str(k) for k in range(count)], CLASSES)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty pictures in several shards."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 16_000)
    Shards().write({"train": pictures(), "test": pictures(6)}, tmp_path / "packed")
    return tmp_path / "packed"


def test_it_is_read_at_random_from_many_threads(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(packed.glob("train-*.tar"))) > 2
    monkeypatch.setattr(shards, "_OPEN", 1)
    found, given = Shards().read(packed)["train"], pictures()
    order = np.random.default_rng(1).permutation(len(given)).repeat(5)
    with ThreadPoolExecutor(4) as pool:
        for index, sample in zip(order.tolist(), pool.map(lambda k: found[int(k)], order), strict=True):
            assert sample.id == f"train/{index:08d}"
            assert np.array_equal(sample.picture, given.pictures[index])
            assert sample.targets["label"] == index % 2


def test_without_pread_it_is_the_same(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(shards.os, "pread", raising=False)
    found = Shards().read(packed)["train"]
    assert np.array_equal(found[39].picture, pictures().pictures[39])


def test_any_reader_of_tar_finds_pictures_and_labels(packed: Path) -> None:
    with tarfile.open(packed / "train-000000.tar") as tar:
        names = tar.getnames()
        assert names[:4] == ["00000000.png", "00000000.cls", "00000001.png", "00000001.cls"]
        label = tar.extractfile("00000001.cls")
        assert label is not None
        assert label.read() == b"1"


def test_files_are_packed_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.fromarray(pictures().pictures[number]).save(tmp_path / "in" / f"{number}.jpg")
    files = FileDataset(tmp_path / "in", [Path("0.jpg"), Path("1.jpg")], [0, 1], CLASSES)
    Shards().write({"all": files}, tmp_path / "packed")
    found = Shards().read(tmp_path / "packed")["all"]
    assert isinstance(found, ShardDataset)
    assert [found.content(k) for k in (0, 1)] == [(tmp_path / "in" / f"{k}.jpg").read_bytes() for k in (0, 1)]


def test_b41_damage_names_the_shard_the_byte_and_how_to_mend(packed: Path) -> None:
    shard = packed / "train-000001.tar"
    whole = shard.read_bytes()
    found = Shards().read(packed)["train"]
    assert isinstance(found, ShardDataset)
    index = int(np.flatnonzero(found.rows["shard"] == 1)[0])
    offset = int(found.rows["offset"][index])
    shard.write_bytes(whole[: offset + 20] + b"?" + whole[offset + 21 :])
    with pytest.raises(InputError, match=rf"train-000001.tar, bytes {offset} to \d+ .*is damaged(.|\n)*pack it again"):
        Shards().read(packed)["train"][index]
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"train-000001.tar: is damaged: it has"):
        Shards().read(packed)
    shard.write_bytes(whole)
    again = Shards().read(packed)["train"]
    shard.write_bytes(whole[: offset + 20])
    with pytest.raises(InputError, match=f"the shard ends at byte {offset + 20}"):
        again[index]
    shard.unlink()
    with pytest.raises(InputError, match=r"train-000001.tar: no such shard"):
        Shards().read(packed)


@pytest.mark.parametrize("content", [b"{}", b'{"schema": 1}', b'{"schema": 1, "classes": ["a"], "splits": {"x": {}}}'])
def test_an_index_that_is_none_is_refused(packed: Path, content: bytes) -> None:
    (packed / "shards.json").write_bytes(content)
    with pytest.raises(InputError, match=r"shards\.json"):
        Shards().read(packed)


def test_an_index_that_points_elsewhere_is_refused(packed: Path) -> None:
    text = (packed / "shards.json").read_text(encoding="utf-8")
    (packed / "shards.json").write_text(text.replace("train-000001.tar", "../train-000001.tar"), encoding="utf-8")
    with pytest.raises(InputError, match="no such shard"):
        Shards().read(packed)
    (packed / "shards.json").write_text(text, encoding="utf-8")
    index = packed / "train.index"
    index.write_bytes(index.read_bytes()[::-1])
    with pytest.raises(InputError, match=r"train\.index: is damaged"):
        Shards().read(packed)


def test_shards_are_loaded_as_the_folder_they_were_packed_from(packed: Path) -> None:
    data = load_data(packed)
    assert data.format == "shards"
    assert (data.picture.height, data.picture.width, data.picture.channels) == (9, 11, 3)
    assert len(data.train) + len(data.validation) == 40
    assert len(data.test) == 6
    assert 0.4 < data.mean[0] < 0.6
    assert load_data(packed).hash == data.hash
    numbers = [int(ident.partition("/")[2]) for ident in data.train.ids]
    found = Loader(data.train, (9, 11), 3, cache_bytes=0).pictures(np.arange(len(numbers)))
    assert np.array_equal(found, pictures().pictures[numbers]), "the loader gives the pictures that were packed"
