"""Prediction: the same answers as evaluation, in order, nothing dropped, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from danlu.core.errors import CheckFailed, InputError
from danlu.data.load import Data
from danlu.deploy.predict import predict
from danlu.tasks.trained import open_trained
from tests.deploy.trained_runs import save_changed


@pytest.fixture
def files(tmp_path: Path, data: Data) -> list[Path]:
    """Forty test digits, in names no shell likes."""
    paths = []
    for i in range(40):
        path = tmp_path / f"图 {i:02d} é.png"
        Image.fromarray(np.asarray(data.test[i].picture)[..., 0]).save(path)
        paths.append(path)
    return paths


def test_the_answers_are_the_networks(lenet: tuple[Path, dict[str, Any]], data: Data, files: list[Path]) -> None:
    chosen = files[::-1] + files[:3]
    rows = predict(lenet[0] / "model.onnx", chosen, threads=1)
    pictures = np.stack([np.asarray(data.test[int(path.name[2:4])].picture) for path in chosen])
    with torch.inference_mode():
        expected = open_trained(lenet[0]).picture_model(torch.from_numpy(pictures)).softmax(1).numpy()
    assert [row["file"] for row in rows] == [str(path) for path in chosen]
    for row, probabilities in zip(rows, expected, strict=True):
        assert row["class"] == data.classes[probabilities.argmax()] == row["top"][0]["class"]
        assert row["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
        assert [r["probability"] for r in row["top"]] == pytest.approx(np.sort(probabilities)[::-1][:3], abs=1e-5)
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize(("top", "listed"), [(1, 1), (10, 10), (99, 10)])
def test_top_lists_the_most_probable(
    lenet: tuple[Path, dict[str, Any]], files: list[Path], top: int, listed: int
) -> None:
    (row,) = predict(str(lenet[0] / "model.int8.onnx"), [str(files[0])], top=top)
    values = [entry["probability"] for entry in row["top"]]
    assert len(values) == listed
    assert values == sorted(values, reverse=True)


def test_pictures_of_any_size_and_mode(lenet: tuple[Path, dict[str, Any]], tmp_path: Path, data: Data) -> None:
    digit = Image.fromarray(np.asarray(data.test[0].picture)[..., 0])
    large = digit.resize((96, 80), Image.Resampling.BICUBIC)
    large.save(tmp_path / "grey.png")
    large.convert("RGB").save(tmp_path / "colour.png")
    large.convert("RGBA").save(tmp_path / "alpha.png")
    grey, colour, alpha = predict(
        lenet[0] / "model.onnx", [tmp_path / name for name in ("grey.png", "colour.png", "alpha.png")]
    )
    assert grey["class"] == colour["class"] == alpha["class"]
    assert grey["probability"] == pytest.approx(colour["probability"], abs=1e-6)


def test_broken_pictures_are_all_named(lenet: tuple[Path, dict[str, Any]], files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html>")
    (tmp_path / "cut.png").write_bytes(files[0].read_bytes()[:60])
    given = [*files[:35], tmp_path / "page.jpg", files[36], tmp_path / "cut.png", tmp_path / "none.png", tmp_path]
    with pytest.raises(InputError, match="4 of 40 pictures cannot be read, so none is answered") as caught:
        predict(lenet[0] / "model.onnx", given)
    message = str(caught.value)
    for name in ("page.jpg: is an HTML page", "cut.png", "none.png: no such file", "is a folder"):
        assert name in message
    with pytest.raises(InputError, match=r"^.*page\.jpg: is an HTML page"):
        predict(lenet[0] / "model.onnx", [tmp_path / "page.jpg"])


def test_bad_calls(lenet: tuple[Path, dict[str, Any]], files: list[Path], tmp_path: Path) -> None:
    model = lenet[0] / "model.onnx"
    with pytest.raises(InputError, match="no pictures"):
        predict(model, [])
    with pytest.raises(InputError, match="top = 0"):
        predict(model, files[:1], top=0)
    with pytest.raises(InputError, match="threads = 0"):
        predict(model, files[:1], threads=0)
    with pytest.raises(InputError, match=r"is a folder, an \.onnx file is needed"):
        predict(lenet[0], files[:1])
    with pytest.raises(InputError, match="no such file"):
        predict(tmp_path / "none.onnx", files[:1])
    changed = onnx.load(model)
    next(entry for entry in changed.metadata_props if entry.key == "danlu.task").value = '"detection"'
    save_changed(tmp_path / "other.onnx", changed)
    with pytest.raises(InputError, match="is for detection"):
        predict(tmp_path / "other.onnx", files[:1])


def test_what_is_not_finite_is_no_answer(lenet: tuple[Path, dict[str, Any]], files: list[Path], tmp_path: Path) -> None:
    changed = onnx.load(lenet[0] / "model.onnx")
    tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == "output.bias")
    bias = onnx.numpy_helper.to_array(tensor).copy()
    bias[3] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(bias, tensor.name))
    save_changed(tmp_path / "spoilt.onnx", changed)
    with pytest.raises(CheckFailed, match=r"not finite") as caught:
        predict(tmp_path / "spoilt.onnx", files[:2])
    assert str(files[0]) in str(caught.value)
    assert "spoilt.onnx" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_flipped_bit_never_answers(lenet: tuple[Path, dict[str, Any]], files: list[Path], tmp_path: Path) -> None:
    content = (lenet[0] / "model.onnx").read_bytes()
    path = tmp_path / "flipped.onnx"
    for place in np.linspace(0, len(content) - 200, 60).astype(int).tolist():
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"flipped\.onnx: the file has changed since it was exported"):
            predict(path, files[:1])


GUARDED = """
import sys

ALLOWED = {"onnxruntime", "numpy", "PIL", "danlu"}


class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ("torch", "torchvision", "pydantic", "onnx", "onnxscript", "safetensors", "rich", "cyclopts"):
            raise ImportError("predict must not import " + name)
        return None


sys.meta_path.insert(0, Guard())
from danlu.deploy.predict import predict

rows = predict(sys.argv[1], sys.argv[2:], threads=1)
print([row["class"] for row in rows])
"""


def test_needs_onnxruntime_numpy_and_pillow_only(lenet: tuple[Path, dict[str, Any]], files: list[Path]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", "-c", GUARDED, str(lenet[0] / "model.onnx"), *map(str, files[:3])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    expected = [row["class"] for row in predict(lenet[0] / "model.onnx", files[:3])]
    assert done.stdout.strip() == str(expected)
