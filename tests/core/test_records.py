from __future__ import annotations

from pathlib import Path

import pytest

from danlu.core import files
from danlu.core.errors import InputError
from danlu.core.records import RunFolder, new_run_folder, open_run_folder


def test_run_folders_are_numbered_and_safe(in_tmp: Path) -> None:
    first = new_run_folder(None, "../x; rm", "lenet5")
    second = new_run_folder(None, "../x; rm", "lenet5")
    assert [first.path.name, second.path.name] == ["x-rm-lenet5-1", "x-rm-lenet5-2"]
    assert first.path.parent == Path("runs")


def test_out_must_be_empty(in_tmp: Path) -> None:
    out = in_tmp / "out"
    out.mkdir()
    new_run_folder(out, "d", "m")
    (out / "x").write_text("")
    with pytest.raises(InputError, match="not empty"):
        new_run_folder(out, "d", "m")
    with pytest.raises(InputError, match="not empty"):
        new_run_folder(out / "x", "d", "m")


def test_log_is_cut_back_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append_log(kind="step", loss=1.0)
    length = run.log_length()
    run.append_log(kind="step", loss=2.0)
    with open(run.log_path, "ab") as file:
        file.write(b'{"kind": "st')
    assert [entry["loss"] for entry in run.read_log()] == [1.0, 2.0]
    run.truncate_log(length)
    assert [entry["loss"] for entry in run.read_log()] == [1.0]


def test_records_of_a_newer_schema_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.update_record(results={"x": 1})
    run.update_record(parity={"y": 2})
    assert run.read_record() == {"schema": 1, "results": {"x": 1}, "parity": {"y": 2}}
    files.write_json(run.record_path, {"schema": 2})
    with pytest.raises(InputError, match="newer"):
        run.read_record()


def test_opening_what_is_no_run_lists_the_runs(in_tmp: Path) -> None:
    run = new_run_folder(None, "digits", "lenet5")
    files.write_json(run.config_path, {"schema": 1})
    with pytest.raises(InputError, match="runs/digits-lenet5-1"):
        open_run_folder(Path("runs/digits"))
    assert open_run_folder(run.path).read_config() == {"schema": 1}
