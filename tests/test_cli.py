"""The command line as a stranger meets it: help, nearest names, exit codes, nothing written by a refused command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from danlu import cli, verbs

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


def test_debug_shows_the_traceback(in_tmp: Path) -> None:
    shown = call("resume", "nowhere", "--debug", cwd=in_tmp)
    assert "Traceback" in shown.stderr
    assert shown.returncode != 0


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
