from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.core import files
from danlu.core.errors import InputError


def test_write_whole_replaces_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "名字 with space.json"
    files.write_whole(path, "one")
    files.write_whole(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "record.json"
    files.write_whole(path, "old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="no space left"):
        files.write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_write_whole_is_never_torn_by_kill(tmp_path: Path) -> None:
    """A process that rewrites one file in a loop is killed; the file is always one of its whole contents."""
    script = (
        "import sys, itertools; from pathlib import Path; from danlu.core.files import write_whole\n"
        "path = Path(sys.argv[1])\n"
        "for i in itertools.count(): write_whole(path, str(i % 10) * 2_000_000)"
    )
    path = tmp_path / "big"
    for delay in (0.01, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)])
        while not path.exists():
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_text()
        assert len(content) == 2_000_000
        assert len(set(content)) == 1


def test_whole_folder_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    with files.whole_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(RuntimeError), files.whole_folder(target) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError
    assert (target / "a").read_text() == "1"
    with files.whole_folder(target) as folder:
        (folder / "b").write_text("3")
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"a": NaN}', "no number"),
        ('{"a": ', "line 1"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_read_json_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        files.read_json(path)
    assert "x.json" in str(caught.value)


def test_json_refuses_what_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.b\[1\] is nan"):
        files.write_json(tmp_path / "x.json", {"a": {"b": [1.0, float("nan")]}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["../x", "; rm -rf ~", "$(x)", "a/b\\c", "..", "\0", "", "C:\\x", "x" * 500, "中文 名"]
)
def test_slug_is_one_safe_name(name: str) -> None:
    made = files.slug(name)
    assert made
    assert len(made) <= 80
    assert made == Path(made).name
    assert not set(made) & set("/\\.;$(): \0")


def test_slug_keeps_letters_of_any_script() -> None:
    assert files.slug("中文 名") == "中文-名"


def test_lock_refuses_a_second_process(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from danlu.core.files import lock\nwith lock(Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with files.lock(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process is working" in second.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_check_writable_finds_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="a folder is needed"):
        files.check_writable(tmp_path / "taken" / "deeper")
    files.check_writable(tmp_path / "new" / "deeper")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_check_space(tmp_path: Path) -> None:
    files.check_space(tmp_path / "new", 1)
    with pytest.raises(InputError, match="are free"):
        files.check_space(tmp_path / "new", 2**60)
