"""The command line as a stranger meets it: help, nearest names, exit codes, nothing written by a refused command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu import cli, verbs
from danlu.verbs.common import overrides_of, requested_of

DANLU = [sys.executable, "-m", "danlu"]


def call(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DANLU, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
    )


def test_help_lists_every_verb_and_imports_nothing_heavy(tmp_path: Path) -> None:
    shown = call("--help", cwd=tmp_path)
    assert shown.returncode == 0
    words = {name.split()[0] for name in verbs.VERBS}
    listed = {match[1] for match in re.finditer(r"^  (\w+)[ |]", shown.stdout, re.MULTILINE)}
    assert words <= listed
    for name in verbs.VERBS:
        assert all(word in shown.stdout for word in name.split())
    code = (
        "import sys; from danlu.cli import main; main(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pydantic', 'cyclopts', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("verb", sorted(verbs.VERBS))
def test_every_verb_explains_itself_without_torch(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: danlu " + verb in text
    assert "--json" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu", "digits"], 'Did you mean "run"?'),
        (["run", "digit"], "digits"),
        (["run", "Fashion_MNIST"], "fashion-mnist"),
        (["run", "digits", "--modle", "x"], "--model"),
        (["run", "digits", "--model", "lenet"], "lenet5"),
        (["run", "digits", "--recipe", "digits_lenet"], "did you mean"),
        (["run", "digits", "--set", "epohcs=3"], "epochs"),
        (["run", "digits", "--set", "epochs=3", "--epochs", "4"], "given twice"),
        (["run", "digits", "--epochs", "0"], "epochs"),
        (["run", "digits", "--epochs", "1.5"], "'1.5' is no whole number"),
        (["run", "digits", "--threads", "two"], "'two' is no whole number"),
        (["bench", "x.onnx", "--batch", "1.5"], "1.5"),
        (["train", "digits", "--set", 'augment=[{"name":'], "is no JSON"),
        (["run", "digits", "--set", "optimizer.lr=-1"], "greater than 0"),
        (["run", "digits", "--device", "tpu"], "cpu"),
        (["run", "digits", "--threads", "0"], "--threads"),
        (["run", "digits", "--lang", "fr"], "zh"),
        (["run", "digits", "--budget", "soon"], "10min"),
        (["run", "digits", "--weights", "missing.pth"], "missing.pth"),
        (["run"], "requires an argument"),
        (["train", "no-such-folder"], "no-such-folder"),
        (["resume", "no-such-run"], "no run folder"),
        (["predict", "no-such.onnx", "a.png"], "no-such.onnx"),
        (["models", "show", "lenet_5"], "lenet5"),
        (["data", "get", "mnits"], "mnist"),
        (["analyze", "lenet5", "--input", "3"], "--input"),
        (["export", "."], "no run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_message_and_no_side_effect(
    words: list[str], message: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    # Stages may have been announced; what is wrong is the last thing said.
    assert message in output.err[output.err.index("danlu: ") :]
    assert "Traceback" not in output.err
    assert list(in_tmp.iterdir()) == []


def test_help_ends_where_the_terminal_does_not_know_its_width(tmp_path: Path) -> None:
    for columns in ("0", "1", "2"):
        shown = call("predict", "--help", cwd=tmp_path, COLUMNS=columns)
        assert shown.returncode == 0, shown.stderr
        assert "Usage: danlu predict" in shown.stdout


def test_debug_shows_the_traceback(in_tmp: Path) -> None:
    shown = call("resume", "nowhere", "--debug", cwd=in_tmp)
    assert "Traceback" in shown.stderr
    assert shown.returncode == 2


@pytest.mark.parametrize(
    "words",
    [
        ["digits"],
        ["my data/猫", "--model", "lenet5", "--epochs", "3", "--seed", "7"],
        ["digits", "--set", "clip=null", "--set", 'augment=[{"name": "pad_crop", "padding": 1}]', "--no-int8"],
        ["digits", "--set", "optimizer.nesterov=false", "--budget", "90s", "--weights", "a b.pth", "--int8"],
        ["mnist", "--download", "--device", "cpu", "--threads", "1", "--recipe", "default"],
    ],
)
def test_the_recorded_command_asks_for_the_same(words: list[str]) -> None:
    def asked(words: list[str]) -> dict[str, Any]:
        _, bound, _ = cli._app().parse_args(["run", *words], exit_on_error=False, print_error=False)
        given = dict(bound.arguments)
        common = given.pop("common", None) or verbs.Training()
        overrides = overrides_of(given.pop("set", None), given.pop("epochs", None), given.pop("budget", None))
        flags = {name: given.get(name, default) for name, default in (("int8", None), ("download", False))}
        model, recipe, weights = given.get("model", "auto"), given.get("recipe"), given.get("weights")
        made = requested_of("run", given["data"], model, recipe, overrides, weights, common, **flags)
        return {**made, "seed": common.seed, "weights": weights}

    first = asked(words)
    again = shlex.split(first["command"])
    assert again[:2] == ["danlu", "run"]
    assert asked(again[2:]) == first


def test_options_that_mean_nothing_are_refused(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["env", "--seed", "3"], ["resume", "run", "--threads", "2"], ["report", "run", "--out", "x"]):
        assert cli.main(words) == 2
        assert "Unknown option" in capsys.readouterr().err


def test_names_survive_json_in_any_encoding(in_tmp: Path) -> None:
    shown = call("models", "show", "lenet5", "--json", cwd=in_tmp, PYTHONIOENCODING="ascii")
    assert json.loads(shown.stdout)["authors"].startswith("Yann LeCun, Léon Bottou")


def test_a_closed_or_full_output(in_tmp: Path) -> None:
    command = " ".join(DANLU)
    closed = subprocess.run(["bash", "-c", f"{command} --help | true; echo ${{PIPESTATUS[0]}}"], capture_output=True)
    assert (closed.stdout, closed.stderr) == (b"141\n", b""), "as every program ends that nobody listens to"
    full = subprocess.run(["bash", "-c", f"{command} env > /dev/full"], capture_output=True, text=True)
    assert full.returncode == 2
    assert "standard output cannot be written" in full.stderr


def test_json_is_one_document(in_tmp: Path) -> None:
    shown = call("models", "list", "--json", cwd=in_tmp)
    rows = json.loads(shown.stdout)
    assert {"lenet5", "resnet20"} <= {row["name"] for row in rows}
    assert next(row for row in rows if row["name"] == "lenet5")["parameters"] == 61_706


def test_an_internal_error_is_code_70(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise KeyError("x")

    monkeypatch.setattr(cli, "_app", broken)
    assert cli.main(["env"]) == 70
    assert "--debug" in capsys.readouterr().err


def test_a_damaged_run_is_shown_as_far_as_it_goes(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "run").mkdir()
    (in_tmp / "run/config.json").write_text(
        '{"schema": 1, "requested": {}, "effective": {"seed": 3}}', encoding="utf-8"
    )
    assert cli.main(["runs", "show", "run"]) == 0
    assert "seed        3" in capsys.readouterr().out
