"""No verb asks the network for anything: each runs where only loopback exists, and every attempt is written down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.verbs import VERBS

ROOT = Path(__file__).parents[1]

# Before anything else in every Python process that is started: note who looks up a host or connects to one.
HOOK = """
import os, sys

def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        told = repr(arguments[1:] if event.startswith(("socket.connect", "socket.sendto")) else arguments)
        if "127.0.0.1" in told or "localhost" in told or "'::1'" in told or ".sock" in told:
            return
        with open(os.environ["DANLU_TEST_ATTEMPTS"], "a") as file:
            file.write(f"{event} {told}\\n")

sys.addaudithook(note)
"""

# All verbs in one process, as the imports are what takes the time.
RUN = """
import json, sys
from danlu import cli
codes = {}
for name, words in json.loads(sys.argv[1]):
    try:
        codes[name] = cli.main(words)
    except SystemExit as stopped:
        codes[name] = stopped.code
print("CODES " + json.dumps(codes), file=sys.stderr)
"""

# `data get` is named for the network, and is not run. What is not here is asked for its help.
WORDS: dict[str, list[str]] = {
    "data list": ["data", "list"],
    "models list": ["models", "list"],
    "models show": ["models", "show", "lenet5"],
    "run": ["run", "digits", "--model", "lenet5", "--epochs", "1", "--no-int8", "--out", "run"],
    "runs list": ["runs", "list"],
    "runs show": ["runs", "show", "run"],
    "analyze": ["analyze", "run"],
    "export": ["export", "run", "--to", "openvino"],
    "parity": ["parity", "run", "run/model.openvino", "digits"],
    "eval": ["eval", "run", "digits"],
    "report": ["report", "run"],
    "env": ["env"],
}


def attempts_of(tmp_path: Path, code: str, *words: str) -> tuple[list[str], str]:
    """Run ``code`` in a process without a network; return what it tried, and what it said."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK, encoding="utf-8")
    noted = tmp_path / "attempts"
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTHONPATH")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "hook"), str(ROOT)]),
        "DANLU_TEST_ATTEMPTS": str(noted),
        "HOME": str(tmp_path),
        "DANLU_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code, *words]
    if os.name == "posix" and hasattr(os, "geteuid") and os.geteuid() == 0 and (alone := shutil.which("unshare")):
        with_none = [alone, "-n", "true"]
        if subprocess.run(with_none, capture_output=True, check=False).returncode == 0:
            command = [alone, "-n", *command]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return noted.read_text(encoding="utf-8").splitlines() if noted.exists() else [], ended.stderr


def test_no_verb_asks_the_network(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="what would send telemetry is not installed")
    named = {**WORDS, **{verb: [*verb.split(), "--help"] for verb in VERBS if verb not in WORDS and verb != "data get"}}
    # The order of the table first: later verbs need what earlier ones made.
    tried, said = attempts_of(tmp_path, RUN, json.dumps(list(named.items())))
    codes: dict[str, Any] = json.loads(next(line for line in said.splitlines() if line.startswith("CODES "))[6:])
    assert {verb: code for verb, code in codes.items() if code not in (0, None)} == {}, said[-3000:]
    assert tried == []
    assert not (tmp_path / "intel").exists()


def test_the_trap_catches_what_it_must(tmp_path: Path) -> None:
    code = "import socket\ntry: socket.getaddrinfo('example.org', 443)\nexcept OSError: pass"
    tried, _ = attempts_of(tmp_path, code)
    assert len(tried) == 1
    assert "example.org" in tried[0]


def test_openvino_left_to_itself_would_ask(tmp_path: Path) -> None:
    """The reason for all this; where it no longer tries, this test says that the remedy may go."""
    pytest.importorskip("openvino_telemetry", reason="nothing here would send telemetry")
    code = "import openvino, time; time.sleep(2)"
    tried, _ = attempts_of(tmp_path, code)
    assert tried
