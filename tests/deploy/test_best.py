"""The choice of the fastest artifact: only what holds its accuracy, only what was measured, and opened as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu import cli
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.data.load import Data
from danlu.deploy import best as choosing
from danlu.deploy.best import best
from danlu.deploy.opening import is_artifact, open_artifact, read_choice, runtime_of
from danlu.deploy.predict import predict
from danlu.deploy.subjects import open_subject


def forms_of(run: Path) -> list[Any]:
    form = choosing._Form
    return [
        form("onnxruntime fp32", "onnxruntime", run / "model.onnx", 0.0, None),
        form("onnxruntime int8", "onnxruntime", run / "model.int8.onnx", 0.6, "loses 0.60 points, 0.3 are allowed"),
        form("openvino bf16", "openvino", None, None, "openvino is not installed"),
    ]


@pytest.fixture
def run(lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    shutil.copytree(lenet[0], tmp_path / "run")
    return tmp_path / "run"


def test_the_fastest_is_taken_and_can_be_opened(run: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_forms", lambda trained, *_: forms_of(trained.run.path))
    monkeypatch.setattr(choosing, "usable_cores", lambda: 2)
    out = run.parent / "结果"
    found = best(run, data, batch=4, seconds=0.3, out=out)
    measured = {row["runtime"]: row["median_ms"] for row in found["measured"]}
    assert next(iter(measured.values())) == min(measured.values())
    assert list(measured)[-1] == "pytorch eager"
    assert all(row["b"] == next(iter(measured)) for row in found["ratios"])
    assert {row["a"]: row["median"] for row in found["ratios"]}["pytorch eager"] > 1
    verdicts = [(row["form"], row["verdict"]) for row in found["tried"]]
    assert [verdict for form, verdict in verdicts if form == "onnxruntime int8"] == [
        "loses 0.60 points, 0.3 are allowed"
    ]
    assert [verdict for form, verdict in verdicts if form == "openvino bf16"] == ["openvino is not installed"]
    assert sorted(verdict for form, verdict in verdicts if form == "onnxruntime fp32") == ["slower", "slower", "taken"]
    assert json.loads((out / "best.json").read_text(encoding="utf-8")) == found
    assert json.loads((run / "record.json").read_text(encoding="utf-8"))["best"] == found
    runtime, info = open_artifact(out / "best.json")
    plain, _ = open_artifact(run / "model.onnx", threads=1)
    pictures = np.zeros((2, *info.picture_size, info.channels), np.uint8)
    assert runtime.threads == found["threads"]
    assert np.allclose(runtime.predict(pictures)["logits"], plain.predict(pictures)["logits"], atol=1e-4)
    assert runtime_of(out / "best.json") == "onnxruntime"


def test_a_drop_is_judged_by_validation_alone(run: Path) -> None:
    from danlu.tasks.trained import open_trained

    trained = open_trained(run)

    def reason(lost: float, test: float = 0.0, file: str | None = "model.int8.onnx") -> str | None:
        parity = {"validation": {"accuracy_difference": -lost}, "test": {"accuracy_difference": -test}, "reason": "why"}
        record = {"artifacts": {"int8": {"file": file}}, "parity": {"int8": parity}}
        return choosing._form(trained, record, "int8", "onnxruntime", 0.3).reason

    assert reason(0.003) is None
    assert reason(0.0, test=0.4) is None
    assert reason(-0.01) is None
    assert reason(0.0031) == "loses 0.31 points, 0.3 are allowed"
    assert reason(0.0, file=None) == "why"


def test_thread_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, counts in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])):
        monkeypatch.setattr(choosing, "usable_cores", lambda cores=cores: cores)
        assert choosing._thread_counts() == counts


@pytest.mark.parametrize("wrong", [{"max_drop": -0.1}, {"max_drop": 0.6}, {"max_drop": float("nan")}, {"batch": 0}])
def test_bad_options(run: Path, data: Data, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="allowed"):
        best(run, data, **wrong)


CHOICE = {"schema": 1, "artifact": "model.onnx", "runtime": "onnxruntime", "threads": 1, "options": {}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"artifact": "../model.onnx"}, "does not lie beside it"),
        ({"artifact": "/etc/passwd"}, "does not lie beside it"),
        ({"artifact": "a\\b.onnx"}, "does not lie beside it"),
        ({"artifact": ".."}, "does not lie beside it"),
        ({"artifact": 3}, "does not lie beside it"),
        ({"artifact": "none.onnx"}, "no such file"),
        ({"runtime": "pickle"}, "runtime 'pickle'"),
        ({"threads": True}, "threads = True"),
        ({"threads": 0}, "threads = 0"),
        ({"options": {"spin": 3}}, "options"),
        ({"options": {"source": "x"}}, "options"),
        ({"options": []}, "options"),
        ({"schema": 2}, "newer"),
        ({"schema": None}, "no schema"),
    ],
)
def test_a_bad_choice_opens_nothing(run: Path, change: dict[str, Any], told: str) -> None:
    path = run / "best.json"
    path.write_text(json.dumps({**CHOICE, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=told):
        open_artifact(path)


def test_what_counts_as_an_artifact(run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/artifact.json").write_text("{}", encoding="utf-8")
    assert is_artifact(run / "model.onnx")
    assert is_artifact(tmp_path / "none.onnx")
    assert is_artifact(tmp_path / "folder")
    assert not is_artifact(run)
    (run / "best.json").write_text(json.dumps(CHOICE), encoding="utf-8")
    assert read_choice(run / "best.json").artifact == run / "model.onnx"


@pytest.fixture
def own_log() -> Iterator[None]:
    """What the command line does to the logger ends with the test."""
    kept = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = kept[0], kept[2]
    logger.setLevel(kept[1])


@pytest.mark.usefixtures("own_log")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "{run}", "--best", "--max-drop", "0.6"], "--max-drop"),
        (["export", "{run}", "--best", "--batch", "0"], "--batch"),
        (["export", "{run}", "--best", "--out", "{run}"], "no empty folder"),
        (["export", "{run}", "--best", "--int8"], "leaves nothing to choose"),
        (["export", "{run}", "--best", "--to", "ncnn"], "leaves nothing to choose"),
        (["export", "{run}", "--best", "--download"], "leaves nothing to choose"),
        (["export", "{run}", "--batch", "3"], "add --best"),
        (["export", "{run}", "--package", "x.tgz"], "is for --to web"),
        (["export", "{run}", "--to", "openvino", "--download"], "is for --to web"),
        (["export", "{run}", "--to", "ncnn", "--max-drop", "0"], "leave it out"),
        (["bench"], "nothing to measure"),
        (["bench", "{run}/none.onnx"], "no such file"),
        (["bench", "{run}/none.json"], "no such file"),
        (["bench", "{run}/nothing"], "no run folder"),
        (["bench", "{run}/model.onnx", "--threads", "99"], "allowed"),
        (["bench", "{run}/model.onnx", "--threads", "0"], "allowed"),
        (["bench", "{run}/model.onnx", "--batch", "0"], "batches"),
        (["bench", "{run}/model.onnx", "--batch", "100000"], "batches"),
        (["bench", "{run}/model.onnx", "--batch", "2", "--batch", "2"], "each once"),
        (["bench", "{run}/model.onnx", "--seconds", "-1"], "seconds"),
        (["bench", "{run}/model.onnx", "--seconds", "nan"], "seconds"),
        (["bench", "{run}/model.onnx", "--cold", "-1"], "cold"),
        (["bench", "{run}/model.onnx", "--scenario", "servre"], "unknown scenario"),
        (["bench", "{run}/model.onnx", "--rate", "10"], "--scenario server"),
        (["bench", "{run}/model.onnx", "--scenario", "offline", "--rate", "10"], "--scenario server"),
        (["bench", "{run}/model.onnx", "--bound-ms", "-5"], "--scenario server"),
        (["bench", "{run}/model.onnx", "--scenario", "server", "--rate", "0"], "rate"),
        (["bench", "{run}/model.onnx", "--scenario", "server", "--bound-ms", "nan"], "bound"),
        (["bench", "{run}/model.onnx", "{run}/model.onnx"], "given twice"),
        (["bench", "{run}/cut.onnx"], "changed since it was exported"),
        (["bench", "{run}/page.onnx"], "is no ONNX file"),
        (["bench", "{run}/empty.onnx"], "empty"),
        (["bench", "{run}", "--eager", "fp16"], "unknown precision"),
    ],
)
def test_hostile_command_lines(run: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = (run / "model.onnx").read_bytes()
    (run / "cut.onnx").write_bytes(content[:-7])
    (run / "page.onnx").write_bytes(b"<!doctype html>")
    (run / "empty.onnx").write_bytes(b"")
    before = sorted(path.name for path in run.iterdir())
    assert cli.main([word.format(run=run) for word in words]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert [path for path in sorted(path.name for path in run.iterdir()) if "lock" not in path] == before


def test_predict_takes_a_choice(run: Path, data: Data) -> None:
    from PIL import Image

    Image.fromarray(np.asarray(data.test[0].picture)[..., 0]).save(run / "digit.png")
    (run / "best.json").write_text(json.dumps(CHOICE), encoding="utf-8")
    assert predict(run / "best.json", [run / "digit.png"]) == predict(run / "model.onnx", [run / "digit.png"])


def test_parity_takes_a_choice(run: Path) -> None:
    (run / "best.json").write_text(json.dumps(CHOICE), encoding="utf-8")
    assert open_subject(run / "best.json", 1).name == str(run / "model.onnx")
