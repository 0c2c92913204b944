"""The doctor finds what is wrong, lists it, and changes nothing (B22, B24, B29–B31, B39)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from danlu.core.errors import InputError
from danlu.data import examine as examine_module
from danlu.data.doctor import check, check_corrupt_share
from danlu.data.examine import FileFacts, cache_path, examine
from danlu.data.findings import Problem, find_duplicates
from danlu.data.formats.shards import Shards
from danlu.data.load import load_data
from danlu.data.sample import FileDataset
from tests.data.pictures import encoded, jpeg, make_folder, noise, snapshot


def reasons(problems: list[Problem]) -> dict[str, str]:
    return {problem.id: problem.reason for problem in problems}


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    """A folder with one of each sickness among 60 sound pictures."""
    root = make_folder(tmp_path / "有 空格", {"cat": 30, "dog": 30})
    (root / "cat" / "cut.jpg").write_bytes(jpeg(900, 64)[:-700])
    (root / "cat" / "empty.jpg").write_bytes(b"")
    (root / "cat" / "page.jpg").write_bytes(b"<!DOCTYPE html><html>moved</html>")
    (root / "cat" / "really.jpg").write_bytes(encoded(noise(9, 9, seed=901)))
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "green", "blue")]
    frames[0].save(root / "dog" / "moves.gif", save_all=True, append_images=frames[1:])
    (root / "cat" / "notes.txt").write_text("notes")
    (root / "dog" / "picture.dat").write_bytes(jpeg(902))
    (root / "dog" / "Thumbs.db").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / "README.md").write_text("read me")
    (root / "dog" / "copy.jpg").write_bytes((root / "dog" / "000.jpg").read_bytes())
    (root / "cat" / "traitor.jpg").write_bytes((root / "dog" / "001.jpg").read_bytes())
    return root


def test_every_sickness_is_found_and_nothing_is_changed(sick: Path) -> None:
    before = snapshot(sick)
    report = check(sick)
    assert snapshot(sick) == before
    corrupt = reasons(report.corrupt)
    assert set(corrupt) == {"cat/cut.jpg", "cat/empty.jpg", "cat/page.jpg"}
    assert "truncated" in corrupt["cat/cut.jpg"]
    assert "0 bytes" in corrupt["cat/empty.jpg"]
    assert "HTML" in corrupt["cat/page.jpg"]
    others = reasons(report.others)
    assert set(others) == {"cat/notes.txt", "dog/picture.dat", "dog/Thumbs.db", ".git", "README.md"}
    assert "rename" in others["dog/picture.dat"]
    warned = reasons(report.warnings)
    assert "content is PNG" in warned["cat/really.jpg"]
    assert "3 frames" in warned["dog/moves.gif"]
    assert "another class" in warned["dog/001.jpg"] or "another class" in warned["cat/traitor.jpg"]
    assert ("dog/000.jpg", "dog/copy.jpg") in report.duplicates.within
    assert report.counts == {"all": [32, 32]}
    assert report.pictures == 64
    assert not report.ok
    text = report.text()
    for shown in ("cat/cut.jpg", "cat/notes.txt", "cat/really.jpg", "dog/copy.jpg", "有 空格", "something is wrong"):
        assert shown in text


def test_a_sound_folder_is_ok_and_described(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train/cat": 3, "train/dog": 5, "val/cat": 2, "val/dog": 1, "test/dog": 2})
    report = check(str(root))
    assert report.ok
    assert report.counts == {"train": [3, 5], "validation": [2, 1], "test": [0, 2]}
    record = report.to_record()
    assert record["sizes_min_median_max"] == {"different": 1, "height": [24] * 3, "width": [24] * 3}
    assert record["modes"] == {"RGB": 13}
    assert "from 'dog' with 8 to 'cat' with 5 pictures" in report.text()
    assert "nothing is wrong" in report.text()


def test_named_data_sets_are_checked_too() -> None:
    report = check("digits")
    assert report.ok
    assert report.pictures == 1797
    assert "1,797 usable pictures" in report.text()


def test_same_picture_in_two_splits_is_told_in_pairs(tmp_path: Path) -> None:
    """B29, also across the splits drawn here."""
    root = make_folder(tmp_path, {"train/cat": 12, "train/dog": 12, "test/cat": 3, "test/dog": 3})
    (root / "test" / "dog" / "leak.jpg").write_bytes((root / "train" / "dog" / "004.jpg").read_bytes())
    assert check(root).duplicates.across == [("train/dog/004.jpg", "test/dog/leak.jpg")]
    data = load_data(root)
    (pair,) = data.duplicates
    assert set(pair) == {"train/dog/004.jpg", "test/dog/leak.jpg"}
    assert data.to_record()["duplicates"] == {"count": 1, "first": [list(pair)]}


def test_duplicates_are_paired_with_the_first_so_that_lists_stay_short() -> None:
    found = find_duplicates(
        {
            "train": (["a", "b", "c", "z"], ["1", "1", "1", "9"], [0, 0, 1, 0]),
            "test": (["d", "e"], ["1", "1"], [0, 0]),
        }
    )
    assert found.within == [("a", "b"), ("a", "c"), ("d", "e")]
    assert found.across == [("a", "d")]
    assert found.contrary == [("a", "c")]


@pytest.mark.parametrize(("broken", "stops"), [(0, False), (1, False), (2, False), (3, True), (40, True)])
def test_more_than_five_percent_broken_stops(broken: int, stops: bool, tmp_path: Path) -> None:
    """B30: 40 pictures, so that two are exactly 5 %."""
    root = make_folder(tmp_path, {"cat": 20, "dog": 20})
    for path in sorted(root.rglob("*.jpg"))[:broken]:
        path.write_bytes(path.read_bytes()[:200])
    if not stops:
        data = load_data(root)
        assert len(data.problems) == broken
        assert len(data.train) + len(data.validation) + len(data.test) == 40 - broken
        ids = {*data.train.ids, *data.validation.ids, *data.test.ids}
        assert not ids & {problem.id for problem in data.problems}, "never replaced, never used"
        return
    with pytest.raises(InputError) as error:
        load_data(root)
    message = str(error.value)
    assert f"{broken} of 40 pictures cannot be used, more than 5%" in message
    assert "cat/000.jpg: " in message
    assert message.count("\n  cat") <= 10
    assert "danlu data check" in message


def test_share_counts_pictures_not_other_files() -> None:
    check_corrupt_share([], 0, "x")
    with pytest.raises(InputError):
        check_corrupt_share([Problem("a", "b")], 1, "x")


def test_works_on_a_read_only_folder(tmp_path: Path) -> None:
    """B31. Root may write anywhere, so the folder's content and times are compared as well."""
    root = make_folder(tmp_path / "data", {"cat": 6, "dog": 6})
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(tmp_path)
    try:
        load_data(root)
        assert snapshot(tmp_path) == before
    finally:
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)


def test_what_was_seen_is_remembered_outside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B12: a second look decodes nothing; a changed file is looked at again; nothing lies in the data set."""
    root = make_folder(tmp_path, {"cat": 20, "dog": 20})
    looked: list[Path] = []
    look = examine_module._look
    monkeypatch.setattr(examine_module, "_look", lambda path: looked.append(path) or look(path))
    first = check(root)
    assert len(looked) == 40
    assert cache_path(root).is_file()
    assert root not in cache_path(root).parents
    assert check(root).hash == first.hash
    assert len(looked) == 40, "remembered"
    changed = root / "cat" / "003.jpg"
    changed.write_bytes(jpeg(777))
    os.utime(changed, ns=(1, 1))
    assert check(root).hash != first.hash
    assert looked[40:] == [changed]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"decoder": 1}', "NaN", '{"files": {"cat/000.jpg": 7}}'])
def test_a_broken_memory_is_not_believed(content: str, tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"cat": 2, "dog": 2})
    expected = check(root).hash
    cache_path(root).write_text(content)
    assert check(root).hash == expected


def test_a_planted_memory_row_is_not_believed_when_malformed(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"cat": 2, "dog": 2})
    expected = check(root).hash
    text = cache_path(root).read_text(encoding="utf-8")
    planted = text.replace(",null,24,24,", ",null,0,24,")
    assert planted != text
    cache_path(root).write_text(planted, encoding="utf-8")
    assert check(root).hash == expected


def test_no_cache_is_a_warning_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(tmp_path / "data", {"cat": 2, "dog": 2})
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "file"))
    with caplog.at_level("WARNING", logger="danlu"):
        assert check(root).pictures == 4
    assert "cannot be remembered" in caplog.text


def test_files_are_decoded_in_parallel_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks must be under way at once: each waits for the other."""
    root = make_folder(tmp_path, {"cat": 2 * examine_module._CHUNK})
    meeting = threading.Barrier(2, timeout=20)

    def look(path: Path) -> FileFacts:
        if path.name in ("000.jpg", f"{examine_module._CHUNK:03d}.jpg"):
            meeting.wait()
        return FileFacts("0" * 64, path.name)

    monkeypatch.setattr(examine_module, "_look", look)
    paths = [Path("cat") / f"{index:03d}.jpg" for index in range(2 * examine_module._CHUNK)]
    assert [facts.fault for facts in examine(root, paths, threads=2)] == [path.name for path in paths]


def test_what_was_seen_before_a_stop_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path, {"cat": 40, "dog": 2})
    look = examine_module._look

    def stopped(path: Path) -> FileFacts:
        if path.name == "020.jpg":
            raise KeyboardInterrupt
        return look(path)

    monkeypatch.setattr(examine_module, "_look", stopped)
    with pytest.raises(KeyboardInterrupt):
        check(root)
    looked: list[Path] = []
    monkeypatch.setattr(examine_module, "_look", lambda path: looked.append(path) or look(path))
    check(root)
    assert 0 < len(looked) < 42


def test_an_unreadable_file_is_listed(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"cat": 30, "dog": 30})
    (root / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert "cannot be read" in reasons(check(root).corrupt)["cat/gone.jpg"]


def test_links_to_folders_are_listed_not_followed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", {"cat": 3, "dog": 3})
    (root / "cat" / "loop").symlink_to(root)
    report = check(root)
    assert report.pictures == 6
    assert "link" in reasons(report.others)["cat/loop"]


def test_what_is_wrong_with_a_single_class_is_said(tmp_path: Path) -> None:
    report = check(make_folder(tmp_path, {"cat": 6}))
    assert not report.ok
    assert "1 class: there is nothing to tell apart, two or more are needed" in report.text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"cat": 3, "dog": 3})
    os.mkfifo(root / "cat" / "pipe.png")
    os.mkfifo(root / "pipe")
    others = reasons(check(root).others)
    assert others["cat/pipe.png"] == others["pipe"] == "is no file"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>".replace("/", ""), "=cmd()", "🐱‍👤 emoji", "-rf", "con"])
def test_strange_class_names_are_warned_about_and_work(name: str, tmp_path: Path) -> None:
    """B39."""
    data = load_data(make_folder(tmp_path, {name: 6, "other": 6}))
    assert name in data.classes
    assert name in [problem.id for problem in data.warnings] or "emoji" in name


def test_names_that_clash_elsewhere_are_warned_about(tmp_path: Path) -> None:
    """B19."""
    root = make_folder(tmp_path, {"Cat": 3, "cat": 3})
    if len(list(root.iterdir())) < 2:
        pytest.skip("this file system has one name for both")
    assert any("letter case" in problem.reason for problem in check(root).warnings)


def test_two_files_that_change_places_are_looked_at_again(tmp_path: Path) -> None:
    """Of one size and one date, as an archive leaves them: their number on the disk tells."""
    root = make_folder(tmp_path, {"cat": 3, "dog": 3})
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.with_suffix(".bmp").write_bytes(encoded(noise(8, 8, seed=number), "BMP"))
        os.utime(path.with_suffix(".bmp"), (10**9, 10**9))
        path.unlink()
    before = check(root).hash
    (root / "cat" / "000.bmp").rename(root / "aside")
    (root / "dog" / "000.bmp").rename(root / "cat" / "000.bmp")
    (root / "aside").rename(root / "dog" / "000.bmp")
    after = check(root).hash
    assert after != before
    cache_path(root).unlink()
    assert check(root).hash == after


def test_too_little_memory_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path, {"cat": 2, "dog": 2})
    with monkeypatch.context() as short:

        def fail(image: object) -> None:
            raise MemoryError

        short.setattr(ImageFile.ImageFile, "load", fail)
        assert {problem.reason for problem in check(root).corrupt} == {"does not fit into memory"}
    assert check(root).ok


def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(tmp_path, {"cat": 20, "dog": 20})
    assert check(root).ok
    size = cache_path(root).stat().st_size
    assert size < 40 * 150 + 200, "so that the pictures of ImageNet stay below the limit of 256 MiB"
    cache_path(root).unlink()
    monkeypatch.setattr(examine_module, "JSON_LIMIT", size - 1)
    assert check(root).ok
    assert not cache_path(root).exists()
    assert "cannot be remembered" in caplog.text


def test_packed_pictures_are_all_read(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", {"cat": 3, "dog": 3})
    paths = [Path(name) / f"{number:03d}.jpg" for name in ("cat", "dog") for number in range(3)]
    Shards().write({"all": FileDataset(root, paths, [0] * 3 + [1] * 3, ["cat", "dog"])}, tmp_path / "packed")
    assert check(tmp_path / "packed").ok
    shard = tmp_path / "packed" / "all-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    report = check(tmp_path / "packed")
    assert not report.ok
    assert (report.counts, report.pictures) == ({"all": [2, 3]}, 5)
    assert "is damaged" in reasons(report.corrupt)["all/00000000"]
    assert "all-000000.tar, bytes 512 to" in reasons(report.corrupt)["all/00000000"]
    assert len(load_data(tmp_path / "packed").train), "to load it reads no more than it needs"


def test_names_cannot_write_lines_of_their_own(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"cat": 30, "dog": 30})
    (root / "cat" / "x\x1b[31m\nnothing is wrong\n.png").write_bytes(b"")
    text = check(root).text()
    assert "\x1b" not in text
    assert "nothing is wrong" not in text.splitlines()
    assert r"'cat/x\x1b[31m\nnothing is wrong\n.png': is empty" in text


def test_single_pictures_beside_the_classes_leave_a_split_a_split(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train/cat": 6, "train/dog": 6, "test/cat": 3, "test/dog": 3})
    expected = check(root).hash
    for part in ("train", "test"):
        (root / part / "overview.jpg").write_bytes(jpeg(900))
    report = check(root)
    assert report.counts == {"train": [6, 6], "test": [3, 3]}
    assert reasons(report.others) == {f"{part}/overview.jpg": "lies in no class folder" for part in ("train", "test")}
    assert report.hash == expected


def test_a_class_called_train_may_hold_folders(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"bus": 3, "train": 3, "train/express": 3})
    assert check(root).counts == {"all": [3, 6]}


def refuse(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no one list a folder: the tests may run as root, who may read all."""
    listed, scanned = Path.iterdir, os.scandir

    def denied(path: object) -> None:
        if os.fspath(path) == str(folder):  # type: ignore[call-overload]
            raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", lambda path: denied(path) or listed(path))
    monkeypatch.setattr(os, "scandir", lambda path=".": denied(path) or scanned(path))


def test_a_folder_that_may_not_be_read_is_listed_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "a", {"train/cat": 6, "train/dog": 6, "test/cat": 3, "test/dog": 3, "aside": 1})
    with monkeypatch.context() as one:
        refuse(root / "aside", one)
        assert check(root).counts == {"train": [6, 6], "test": [3, 3]}
    with monkeypatch.context() as one:
        refuse(root / "test", one)
        with pytest.raises(InputError, match="test: may not be read"):
            check(root)
    root = make_folder(tmp_path / "b", {"cat": 6, "dog": 6, "bird": 6})
    with monkeypatch.context() as one:
        refuse(root / "bird", one)
        report = check(root)
        assert reasons(report.others) == {"bird": "cannot be read (Permission denied)"}
        assert report.empty_classes == ["bird"]
