"""INT8 by NNCF: a folder that OpenVINO reads, quiet, near the float answers, float where it was asked for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from danlu.core.errors import InputError
from danlu.core.silence import silence
from tests.compress.test_quantize import make_model, pictures

silence()
ov = pytest.importorskip("openvino")
pytest.importorskip("nncf")

from danlu.compress.quantize_openvino import quantize_openvino  # noqa: E402


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("浮点") / "float.onnx"
    model = make_model()
    onnx.save(model, path)
    return path


def answers(path: Path) -> Any:
    core = ov.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(pictures(50, seed=9))[0])


def test_the_folder_answers_nearly_as_the_float_file(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        report = quantize_openvino(source, [pictures(64), pictures(64, 1)], tmp_path / "整数", subset=96)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("nncf")]
    assert sorted(path.name for path in (tmp_path / "整数").iterdir()) == ["model.bin", "model.xml"]
    assert (report.pictures, len(report.layers), report.float_layers) == (96, 3, ())
    float_answers, int8_answers = answers(source), answers(tmp_path / "整数" / "model.xml")
    assert 0 < np.abs(int8_answers - float_answers).max() < 0.1 * np.abs(float_answers).max()
    text = (tmp_path / "整数" / "model.xml").read_text(encoding="utf-8")
    assert 'element_type="i8"' in text


def test_layers_stay_in_float_where_asked(source: Path, tmp_path: Path) -> None:
    first = quantize_openvino(source, [pictures(16)], tmp_path / "a")
    second = quantize_openvino(source, [pictures(16)], tmp_path / "b", keep_float=[first.layers[1]], preset="mixed")
    assert second.float_layers == (first.layers[1],)
    assert second.preset == "mixed"
    with pytest.raises(InputError, match="no layer 'nowhere'"):
        quantize_openvino(source, [pictures(16)], tmp_path / "c", keep_float=["nowhere"])


def test_accuracy_control_gives_layers_back(source: Path, tmp_path: Path) -> None:
    reference = answers(source).argmax(axis=1)
    asked: list[float] = []

    def score(answer: Any) -> float:
        # Quantised answers are said to be wrong, so that every layer must go back.
        logits = np.concatenate([answer(pictures(50, seed=9)[k : k + 25]) for k in (0, 25)])
        asked.append(float((logits.argmax(axis=1) == reference).mean()))
        return asked[-1]

    report = quantize_openvino(source, [pictures(32)], tmp_path / "a", score=score, max_drop=0.5)
    assert asked[0] == 1.0
    got = answers(tmp_path / "a" / "model.xml").argmax(axis=1)
    assert (got == reference).mean() >= 1 - 0.005
    assert report.max_drop == 0.5
    with pytest.raises(ValueError, match="belong together"):
        quantize_openvino(source, [pictures(32)], tmp_path / "a", max_drop=0.5)


def test_bad_input(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        quantize_openvino(source, [pictures(0)], tmp_path / "a")
    with pytest.raises(InputError, match="no such file"):
        quantize_openvino(tmp_path / "none.onnx", [pictures(1)], tmp_path / "a")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="OpenVINO cannot read"):
        quantize_openvino(tmp_path / "bad.onnx", [pictures(1)], tmp_path / "a")
    assert not (tmp_path / "a").exists()
