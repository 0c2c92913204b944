"""The loader gives the right pictures, whatever the way they are held, and keeps within its memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from danlu.core.errors import InputError
from danlu.data import loader as module
from danlu.data.decode import change_channels, fit, prepare
from danlu.data.formats import FORMATS
from danlu.data.loader import Loader
from danlu.data.sample import ArrayDataset, Dataset, FileDataset, Subset
from tests.data.pictures import make_folder, noise


def in_memory(count: int = 20, side: int = 8, channels: int = 1) -> ArrayDataset:
    pictures = np.stack([noise(side, side, channels, seed) for seed in range(count)])
    return ArrayDataset(pictures, np.arange(count) % 3, [f"s{i}" for i in range(count)], ("a", "b", "c"))


def in_files(root: Path, count: int = 20) -> Dataset:
    return FORMATS.get("image_folder").read(make_folder(root, {"a": count // 2, "b": count - count // 2}))["all"]


INDICES = np.array([3, 0, 7, 7, 19], np.int64)


def test_arrays_are_gathered() -> None:
    data = in_memory()
    loader = Loader(data, (8, 8), 1)
    batch = loader.pictures(INDICES)
    assert np.array_equal(batch, data.pictures[INDICES])
    assert batch.flags.c_contiguous
    assert batch.base is None, "a copy: changing it leaves the data alone"
    assert loader.array is data.pictures
    assert loader.labels(INDICES).tolist() == [0, 0, 1, 1, 1]
    assert len(loader) == 20


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_another_size_or_channel_number(channels: int) -> None:
    data = in_memory(channels=4 - channels)
    loader = Loader(data, (8, 8), channels)
    assert np.array_equal(loader.pictures(INDICES), change_channels(data.pictures[INDICES], channels))
    assert loader.array is not None
    other = Loader(data, (5, 6), channels)
    expected = np.stack([fit(change_channels(data.pictures[i], channels), (5, 6)) for i in INDICES])
    assert np.array_equal(other.pictures(INDICES), expected)


def test_subsets_give_their_own_samples() -> None:
    data = in_memory()
    chosen = np.array([5, 2, 9], np.int64)
    subset = Subset(Subset(data, np.arange(1, 20)), chosen - 1)
    assert list(subset.ids) == ["s5", "s2", "s9"]
    assert subset[1].id == "s2"
    loader = Loader(subset, (8, 8), 1)
    assert np.array_equal(loader.pictures(np.array([2, 0])), data.pictures[[9, 5]])
    assert loader.labels(np.array([2, 0])).tolist() == [0, 2]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cache_bytes", [0, 5 * 10 * 12 * 3, 2**30])
def test_files_are_decoded(threads: int, cache_bytes: int, tmp_path: Path) -> None:
    data = in_files(tmp_path)
    loader = Loader(data, (10, 12), 3, threads=threads, cache_bytes=cache_bytes)
    expected = np.stack([prepare(tmp_path / ident, 3, (10, 12)) for ident in data.ids])
    for _ in range(3):
        assert np.array_equal(loader.pictures(INDICES), expected[INDICES])
    assert loader.array is None
    assert np.array_equal(loader.pictures(np.arange(20)), expected)
    assert (loader.array is not None) == (cache_bytes == 2**30)
    assert loader.pictures(np.zeros(0, np.int64)).shape == (0, 10, 12, 3)
    loader.close()


def test_each_file_is_decoded_once_while_all_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = in_files(tmp_path)
    decoded: list[object] = []
    monkeypatch.setattr(module, "prepare", lambda path, *rest: decoded.append(path) or prepare(path, *rest))
    loader = Loader(data, (8, 8), 3)
    for _ in range(3):
        loader.pictures(np.arange(20))
    assert len(decoded) == 20
    del decoded[:]
    none_kept = Loader(data, (8, 8), 3, cache_bytes=0)
    for _ in range(2):
        none_kept.pictures(np.arange(20))
    assert len(decoded) == 40


@pytest.mark.parametrize("files", [False, True])
def test_prefetch_is_in_order_and_complete(files: bool, tmp_path: Path) -> None:
    data = in_files(tmp_path) if files else in_memory(channels=3)
    loader = Loader(data, (8, 8), 3)
    batches = [np.arange(begin, min(begin + 3, 20)) for begin in range(0, 20, 3)]
    found = list(loader.prefetch(iter(batches)))
    assert [indices.tolist() for indices, _ in found] == [batch.tolist() for batch in batches]
    everything = loader.pictures(np.arange(20))
    assert np.array_equal(np.concatenate([pictures for _, pictures in found]), everything)


def test_prefetch_runs_ahead_but_not_away(tmp_path: Path) -> None:
    asked: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for begin in range(0, 20, 2):
            asked.append(begin)
            yield np.arange(begin, begin + 2)

    running = Loader(in_files(tmp_path), (8, 8), 3, cache_bytes=0).prefetch(batches(), ahead=2)
    next(running)
    assert len(asked) == 3
    running.close()  # type: ignore[attr-defined]
    assert len(asked) == 3


def test_a_file_that_breaks_later_is_an_error_never_another_picture(tmp_path: Path) -> None:
    """B30: nothing is substituted; the file is named."""
    data = in_files(tmp_path)
    (tmp_path / "a" / "003.jpg").write_bytes(b"broken")
    loader = Loader(data, (8, 8), 3)
    with pytest.raises(InputError, match=r"a/003\.jpg"):
        loader.pictures(np.arange(20))
    with pytest.raises(InputError, match=r"a/003\.jpg"):
        list(loader.prefetch([np.arange(2), np.arange(2, 5)]))
    assert loader.pictures(np.array([0, 1])).shape == (2, 8, 8, 3)


def test_datasets_refuse_what_does_not_fit() -> None:
    pictures = np.zeros((2, 4, 4, 1), np.uint8)
    for bad in (
        lambda: ArrayDataset(pictures.astype(np.float32), [0, 1], "ab", "ab"),  # type: ignore[arg-type]
        lambda: ArrayDataset(pictures[0], [0, 1], "ab", "ab"),
        lambda: ArrayDataset(pictures, [0, 2], "ab", "ab"),
        lambda: ArrayDataset(pictures, [0, -1], "ab", "ab"),
        lambda: ArrayDataset(pictures, [0], "ab", "ab"),
        lambda: ArrayDataset(pictures, [0, 1], "a", "ab"),
        lambda: FileDataset(Path(), [Path("a")], [0, 1], "ab"),
        lambda: Loader(in_memory(), (0, 8), 1),
        lambda: Loader(in_memory(), (8, 8), 2),
    ):
        with pytest.raises(ValueError, match=r"\d"):
            bad()


def test_protocol_holds() -> None:
    assert isinstance(in_memory(), Dataset)
    assert isinstance(Subset(in_memory(), np.arange(2)), Dataset)
