from __future__ import annotations

from pathlib import Path

import pytest

from danlu.core import files
from danlu.core.errors import InputError
from danlu.core.records import RunFolder, check_outside, new_run_folder, open_run_folder


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
    config = {"schema": 1, "requested": {}, "effective": {}}
    files.write_json(run.config_path, config)
    with pytest.raises(InputError, match="runs/digits-lenet5-1"):
        open_run_folder(Path("runs/digits"))
    assert open_run_folder(run.path).read_config() == config


@pytest.mark.parametrize("text", ['{"schema": 1}', '{"schema": 1, "requested": 5, "effective": {}}', "[]", "{"])
def test_a_damaged_config_is_named(tmp_path: Path, text: str) -> None:
    run = RunFolder(tmp_path)
    run.config_path.write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        run.read_config()


@pytest.mark.parametrize("line", ["{", "5", "\xff"])
def test_a_damaged_log_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    run = RunFolder(tmp_path)
    run.append_log(kind="step")
    run.log_path.write_bytes(run.log_path.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=r"log\.jsonl, line 2"):
        run.read_log()


def test_what_was_killed_before_its_first_step_may_be_deleted(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    with pytest.raises(InputError, match="or delete it"):
        new_run_folder(tmp_path, "d", "m")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="danlu resume"):
        new_run_folder(tmp_path, "d", "m")


def test_results_never_go_into_the_folder_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "pets"
    (data / "cat").mkdir(parents=True)
    for out in (data, data / "runs" / "a", data / "cat"):
        with pytest.raises(InputError, match="lies in the folder of the data"):
            check_outside(out, data)
    check_outside(tmp_path / "pets-run", data)
    check_outside(None, "digits")
    monkeypatch.chdir(data)
    with pytest.raises(InputError, match="give an --out elsewhere"):
        check_outside(None, ".")


def test_sections_are_dropped_by_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.update_record(data={"a": 1}, results={"b": 2}, parity={})
    assert run.keep_only("data", "train") == ["results", "parity"]
    assert run.read_record() == {"schema": 1, "data": {"a": 1}}
    assert run.keep_only("data") == []
