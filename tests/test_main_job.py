"""The whole line, as a user runs it: data in, a model with its proofs out; and what a stranger may do wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

DANLU = [sys.executable, "-m", "danlu"]


def danlu(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh process and return what it printed."""
    return subprocess.run(
        [*DANLU, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )


def write_shapes(root: Path, classes: dict[str, tuple[int, int, int]], count: int = 30) -> Path:
    """Write ``count`` JPEGs a class: noise around a colour, of many sizes and shapes."""
    rng = np.random.default_rng(0)
    for name, colour in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            height, width = rng.integers(24, 90, 2)
            pixels = rng.normal(colour, 40, (height, width, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"图片 {number:03}.jpg")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("my data") / "颜色 pictures"
    return write_shapes(root, {"red": (200, 60, 60), "绿 green": (60, 200, 60), "<script>": (60, 60, 200)})


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("digits")
    done = danlu("run", "digits", "--json", "--threads", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs/digits-lenet5-1", json.loads(done.stdout)


def test_digits_reaches_98_percent(digits_run: tuple[Path, dict[str, Any]]) -> None:
    run, printed = digits_run
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    assert printed["record"] == record
    accuracy = record["results"]["test"]["accuracy"]
    assert accuracy["value"] >= 0.98
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert record["data"]["sizes"]["test"] == accuracy["n"]


def test_every_stage_left_its_record(digits_run: tuple[Path, dict[str, Any]]) -> None:
    run, printed = digits_run
    record = printed["record"]
    names = [stage["name"] for stage in record["stages"]]
    assert names == ["data", "train", "evaluate", "analyze", "export", "benchmark"]
    assert record["analysis"]["parameters"] == 61_706
    proof = record["parity"]["fp32"]
    assert proof["validation"]["passed"]
    assert proof["validation"]["flips"] == 0
    assert proof["validation"]["n"] == record["data"]["sizes"]["validation"]
    assert (run / "model.onnx").stat().st_size == record["artifacts"]["fp32"]["bytes"]
    assert record["parity"]["int8"]["delivered"] == (run / "model.int8.onnx").exists()
    runtimes = {(row["runtime"], row["batch"]) for row in record["benchmark"]["rows"]}
    assert {("pytorch eager", 1), ("pytorch eager", 32), ("onnxruntime fp32", 1)} <= runtimes
    assert (run / "report.html").stat().st_size > 20_000


def test_the_report_repeats_the_command(digits_run: tuple[Path, dict[str, Any]]) -> None:
    text = (digits_run[0] / "report.html").read_text(encoding="utf-8")
    assert "danlu run digits --threads 1" in text


def test_predict_agrees_with_the_recorded_predictions(digits_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The artifact, fed PNG files in a process that cannot import torch, answers as the evaluation did."""
    from danlu.data.load import load_data

    run, _ = digits_run
    data = load_data("digits")
    files = []
    for index in range(20):
        sample = data.test[index]
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(np.asarray(sample.picture)[:, :, 0]).save(files[-1])
    block = "import sys; sys.modules['torch'] = None; from danlu.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", block, "predict", str(run / "model.onnx"), *map(str, files), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    lines = (run / "predictions-test.csv").read_text(encoding="utf-8-sig").splitlines()
    predicted = [line.split(",")[lines[0].split(",").index("predicted")] for line in lines[1:21]]
    assert [row["class"] for row in rows] == predicted


def test_a_folder_of_jpegs_goes_the_whole_way(pictures: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in pictures.rglob("*")}
    for path in [*pictures.rglob("*"), pictures]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = danlu("run", pictures, "--epochs", "3", "--json", "--threads", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    record = printed["record"]
    assert record["data"]["classes"] == sorted(["red", "绿 green", "<script>"])
    assert record["results"]["test"]["accuracy"]["value"] > 0.5
    assert record["parity"]["fp32"]["validation"]["passed"]
    assert {path: path.stat().st_mtime_ns for path in pictures.rglob("*")} == before
    text = (tmp_path / printed["run"] / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in text.replace("<script nonce", "").split("</style>")[1].split("<script")[0]


GBK = {"LC_ALL": "zh_CN.GBK", "LANG": "zh_CN.GBK", "PYTHONIOENCODING": "gbk:strict"}
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [GBK, ASCII], ids=["GBK", "ASCII"])
def test_names_and_locales(pictures: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """Folders with spaces and 中文, in a locale that is not UTF-8 (B57)."""
    out = tmp_path / "输出 out"
    done = danlu("train", pictures, "--epochs", "1", "--out", out, "--threads", "1", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "record.json").read_text(encoding="utf-8"))["data"]["classes"][2] == "绿 green"
    shown = danlu("eval", out, pictures, cwd=tmp_path, **environment)
    assert shown.returncode == 0, shown.stderr
    listed = danlu("models", "show", "lenet5", cwd=tmp_path, **environment)
    assert listed.returncode == 0, listed.stderr


def test_broken_files_are_listed_and_many_of_them_stop(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", {"a": (200, 60, 60), "b": (60, 60, 200)}, count=40)
    (root / "a" / "cut.jpg").write_bytes((root / "a" / "图片 000.jpg").read_bytes()[:300])
    (root / "a" / "notes.txt").write_text("hello")
    done = danlu("train", root, "--epochs", "1", "--json", "--threads", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    problems = json.loads(done.stdout)["record"]["data"]["problems"]
    assert "cut.jpg" in json.dumps(problems, ensure_ascii=False)
    assert "notes.txt" in json.dumps(problems, ensure_ascii=False)
    for number in range(8):
        (root / "b" / f"bad {number}.jpg").write_bytes(b"<html>")
    runs = sorted((tmp_path / "runs").iterdir())
    stopped = danlu("train", root, "--epochs", "1", cwd=tmp_path)
    assert stopped.returncode == 2
    assert "bad 0.jpg" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert sorted((tmp_path / "runs").iterdir()) == runs


@pytest.mark.parametrize("kind", ["missing", "empty", "one class", "text only", "file", "read-only target"])
def test_a_strangers_mistakes(kind: str, tmp_path: Path) -> None:
    target, words = tmp_path / "data", ["--epochs", "1"]
    if kind == "empty":
        target.mkdir()
    elif kind == "one class":
        write_shapes(target, {"only": (9, 9, 9)}, count=5)
    elif kind == "text only":
        for name in ("a", "b"):
            (target / name).mkdir(parents=True)
            (target / name / "x.txt").write_text("no picture")
    elif kind == "file":
        target.write_text("x")
    elif kind == "read-only target":
        write_shapes(target, {"a": (200, 9, 9), "b": (9, 9, 200)}, count=10)
        words += ["--out", "/proc/danlu-run"]
    before = sorted(tmp_path.rglob("*"))
    done = danlu("run", target, *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "mend:" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    first = danlu("train", "digits", "--epochs", "1", "--out", "mine", "--threads", "1", cwd=tmp_path)
    second = danlu("train", "digits", "--epochs", "1", "--out", "mine", "--threads", "1", cwd=tmp_path)
    assert (first.returncode, second.returncode) == (0, 2)
    assert "not empty" in second.stderr
