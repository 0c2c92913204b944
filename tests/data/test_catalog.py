"""Named data sets: pinned, never silent, every source tried and named, one fetch at a time (B20, B21)."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from danlu.core import fetch
from danlu.core.errors import InputError
from danlu.data import catalog, sources
from danlu.data.arrays import array_names, content_hash
from danlu.data.formats import FORMATS
from danlu.data.load import load_data
from danlu.data.sample import ArrayDataset
from danlu.data.sources import DebianPackage, HttpsArchive, HttpsFiles, NpmPackage


def small(seed: int = 0) -> dict[str, ArrayDataset]:
    draw = np.random.default_rng(seed)
    return {
        part: ArrayDataset(
            draw.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8),
            np.arange(count) % 2,
            array_names(part, count),
            "ab",
        )
        for part, count in (("train", 20), ("test", 6))
    }


@dataclass
class Stand:
    """A source that gives ``result``, or raises it."""

    result: dict[str, ArrayDataset] | Exception
    title: str = "stand-in"
    brought: list[Path] = field(default_factory=list)
    wait: float = 0.0

    def bring(self, work: Path) -> dict[str, ArrayDataset]:
        self.brought.append(work)
        time.sleep(self.wait)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., catalog.Entry]:
    """Add a small data set called ``toy`` with the given sources to the catalogue."""
    monkeypatch.delenv("DANLU_OFFLINE", raising=False)

    def add(*sources: Stand) -> catalog.Entry:
        entry = catalog.Entry(
            name="toy",
            title="toy",
            licence="none",
            citation="none",
            classes=("a", "b"),
            channels=1,
            size=(4, 4),
            counts={"train": 20, "test": 6},
            hash=content_hash(small()),
            form="idx",
            sources=sources,
        )
        monkeypatch.setitem(catalog.CATALOG, "toy", entry)
        return entry

    return add


def test_the_first_source_that_succeeds_is_used(toy: Callable[..., catalog.Entry], own_cache: Path) -> None:
    sources = [Stand(InputError("is gone", where="host")), Stand(small()), Stand(small())]
    toy(*sources)
    assert not catalog.is_present("toy")
    path = catalog.get("toy")
    assert path == own_cache / "data" / "toy"
    assert catalog.is_present("toy")
    assert [len(source.brought) for source in sources] == [1, 1, 0]
    assert list((own_cache / "downloads").iterdir()) == [], "what was fetched is tidied away"
    data = load_data("toy")
    assert data.hash == catalog.CATALOG["toy"].hash
    assert len(data.test) == 6
    catalog.get("toy")
    assert [len(source.brought) for source in sources] == [1, 1, 0], "nothing is fetched twice"


def test_other_content_is_refused_whatever_its_source(toy: Callable[..., catalog.Entry], own_cache: Path) -> None:
    """B20: right sizes and a wrong pixel; a wrong label; a missing split; the report names every source and reason."""
    pixel, label = small(), small()
    pixel["train"].pictures[3, 2, 1] ^= 1
    label["test"].labels[0] ^= 1
    parts = {"train": small()["train"]}
    stands = [pixel, label, parts, InputError("cannot be fetched (refused)", where="https://a", mend="do b")]
    toy(*[Stand(result, f"source {number}") for number, result in enumerate(stands)])
    with pytest.raises(InputError) as error:
        catalog.get("toy")
    message = str(error.value)
    assert re.search(r"1\. source 0: content hash is [0-9a-f]{64}, expected", message)
    assert re.search(r"2\. source 1: content hash is", message)
    assert "3. source 2: test holds nothing" in message
    assert "4. source 3: https://a: cannot be fetched (refused) (do b)" in message
    assert not catalog.is_present("toy")
    assert not list((own_cache / "data").glob("toy*"))


def test_nothing_is_fetched_silently(toy: Callable[..., catalog.Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(small())
    toy(stand)
    with pytest.raises(InputError, match="danlu data get toy`, or give --download"):
        load_data("toy")
    monkeypatch.setenv("DANLU_OFFLINE", "1")
    for call in (lambda: catalog.get("toy"), lambda: load_data("toy", download=True)):
        with pytest.raises(InputError, match="DANLU_OFFLINE"):
            call()
    assert stand.brought == []
    monkeypatch.delenv("DANLU_OFFLINE")
    assert len(load_data("toy", download=True).test) == 6


def test_changed_files_are_found_at_load_and_fetched_again_by_get(toy: Callable[..., catalog.Entry]) -> None:
    toy(Stand(small()))
    file = catalog.get("toy") / "train-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        InputError, match=r"its files were changed: .*\n  mend: delete this folder, then danlu data get"
    ):
        load_data("toy")
    catalog.get("toy")
    assert load_data("toy").hash == catalog.CATALOG["toy"].hash


def test_without_a_pinned_hash_the_one_seen_when_fetched_counts(
    toy: Callable[..., catalog.Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-100: only the official archive's checksum is known beforehand; what it held must not change later."""
    entry = toy(Stand(small()))
    monkeypatch.setitem(catalog.CATALOG, "toy", replace(entry, hash=""))
    folder = catalog.get("toy")
    assert load_data("toy").hash == entry.hash
    file = folder / "train-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="its files were changed"):
        load_data("toy")
    (folder / "content.sha256").unlink()
    with pytest.raises(InputError, match="the one seen when it was fetched"):
        load_data("toy")
    catalog.get("toy")
    assert load_data("toy").hash == entry.hash


def test_two_downloads_at_once(toy: Callable[..., catalog.Entry]) -> None:
    """B21: one fetches, the other waits and finds it done."""
    stand = Stand(small(), wait=0.5)
    toy(stand)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(catalog.get("toy"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(stand.brought) == 1


def test_a_kill_while_fetching_leaves_no_half_data_set(own_cache: Path) -> None:
    """The folder appears by one rename; a process that dies while writing leaves none, and no lock that holds."""
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
from danlu.data import catalog
from danlu.data.formats import FORMATS
from tests.data.test_catalog import Stand, small
from danlu.data.arrays import content_hash
entry = catalog.Entry("toy", "t", "l", "c", ("a", "b"), 1, (4, 4), {"train": 20, "test": 6},
                      content_hash(small()), "idx", (Stand(small()),))
catalog.CATALOG["toy"] = entry
write = os.replace
os.replace = lambda *a: os._exit(9)
catalog.get("toy")
"""
    root = Path(catalog.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(root)], cwd=root, capture_output=True, check=False)
    assert done.returncode == 9, done.stderr
    assert not (own_cache / "data" / "toy").exists()
    code = code.replace("os.replace = lambda *a: os._exit(9)", "")
    done = subprocess.run([sys.executable, "-c", code, str(root)], cwd=root, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (own_cache / "data" / "toy" / "train-images-idx3-ubyte").exists()


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean: fashion-mnist"):
        catalog.get("fashion mnist")


def test_embedded_digits_are_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for file in catalog._EMBEDDED_FILES:
        (tmp_path / file).write_bytes((catalog._EMBEDDED / file).read_bytes())
    monkeypatch.setattr(catalog, "_EMBEDDED", tmp_path)
    assert len(catalog.read("digits")["all"]) == 1797
    content = bytearray((tmp_path / "digits-labels-idx1-ubyte.gz").read_bytes())
    content[60] ^= 1
    (tmp_path / "digits-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(InputError, match="was changed"):
        load_data("digits")


def test_entries_are_complete_and_their_addresses_https() -> None:
    for name, entry in catalog.CATALOG.items():
        assert entry.name == name
        assert re.fullmatch(r"[0-9a-f]{64}", entry.hash) or name == "cifar100"
        assert len(entry.classes) == len(set(entry.classes)) == (100 if name == "cifar100" else 10)
        assert entry.licence
        assert entry.citation
        assert entry.channels in (1, 3)
        assert entry.pictures == sum(entry.counts.values())
        for source in entry.sources:
            if isinstance(source, HttpsFiles):
                assert all(url.startswith("https://") and url.endswith("/") for url in source.mirrors)
                assert all(re.fullmatch(r"[0-9a-f]{32}", file.md5) for file in source.files)
            if isinstance(source, HttpsArchive):
                assert all(url.startswith("https://") for url in source.urls)
            if isinstance(source, NpmPackage):
                assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
    assert all(len(catalog.CATALOG[name].sources) > 1 for name in ("mnist", "fashion-mnist", "cifar10"))


def test_official_files_from_the_next_mirror(
    toy: Callable[..., catalog.Entry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The https source end to end, with the transfer alone stood in for: gzipped IDX files become the data set."""
    import gzip

    from danlu.data.formats.idx import encode_idx

    files: dict[str, bytes] = {}
    for part, stem in (("train", "train"), ("test", "t10k")):
        files[f"{stem}-images-idx3-ubyte.gz"] = gzip.compress(encode_idx(small()[part].pictures[..., 0]))
        files[f"{stem}-labels-idx1-ubyte.gz"] = gzip.compress(encode_idx(small()[part].labels.astype(np.uint8)))
    asked: list[str] = []

    def download(url: str, target: Path, *, checksum: str, limit: int, title: str | None = None) -> Path:
        asked.append(url)
        if url.startswith("https://first"):
            raise InputError("no answer in time", where=url)
        target.write_bytes(files[target.name])
        return target

    monkeypatch.setattr(fetch, "download", download)
    official = [catalog.RemoteFile(name, "0" * 32, len(content)) for name, content in files.items()]
    source = HttpsFiles(("https://first.test/", "https://second.test/"), tuple(official), "idx")
    entry = toy()
    monkeypatch.setitem(catalog.CATALOG, "toy", replace(entry, sources=(source,)))
    catalog.get("toy")
    assert load_data("toy").hash == entry.hash
    assert len(asked) == 8


@pytest.mark.parametrize("held", ["elsewhere", "usr/share/toy"])
def test_a_package_without_the_data_is_followed_by_the_next_source(
    held: str, toy: Callable[..., catalog.Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is missing, or holds no data."""

    def content(package: Path, target: Path, *, limit: int) -> Path:
        (target / held).mkdir(parents=True)
        return target

    monkeypatch.setattr(fetch, "debian_package", lambda name, folder: folder / "toy.deb")
    monkeypatch.setattr(sources, "deb_content", content)
    package, second = DebianPackage("toy", "usr/share/toy", "idx"), Stand(small())
    monkeypatch.setitem(catalog.CATALOG, "toy", replace(toy(), sources=(package, second)))
    catalog.get("toy")
    assert len(second.brought) == 1


def test_a_folder_without_idx_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no IDX files"):
        FORMATS.get("idx").read(tmp_path)
