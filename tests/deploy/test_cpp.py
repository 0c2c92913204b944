"""The C++ example compiles against ONNX Runtime's own header, links against the wheel's library, and answers alike."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from danlu.data.load import Data
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime

SOURCE = Path(__file__).parents[2] / "examples/cpp/classify.cpp"
HEADER = "onnxruntime_c_api.h"


def include_folder() -> Path:
    """Return where the header of ONNX Runtime lies on this machine; the wheel has none."""
    told = os.environ.get("DANLU_ORT_INCLUDE")
    folders = [told] if told else ["/usr/include/onnxruntime", "/usr/include", "/usr/local/include/onnxruntime"]
    found = next((Path(folder) for folder in folders if (Path(folder) / HEADER).is_file()), None)
    if found is None:
        pytest.skip(f"no {HEADER} (DANLU_ORT_INCLUDE may name the `include` folder of an ONNX Runtime release)")
    version = re.search(r"#define ORT_API_VERSION (\d+)", (found / HEADER).read_text(encoding="utf-8"))
    if version is None or int(version[1]) > int(onnxruntime.__version__.split(".")[1]):
        pytest.skip(f"{found / HEADER} is of a newer ONNX Runtime than {onnxruntime.__version__}")
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    include = include_folder()
    compiler = shutil.which("g++")
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if compiler is None or not libraries:
        pytest.skip("no g++, or a wheel without a shared library to link against")
    folder = tmp_path_factory.mktemp("cpp")
    # The library's own name for itself is shorter than the wheel's name for it.
    (folder / "libonnxruntime.so.1").symlink_to(libraries[0])
    target = folder / "classify"
    strict = ["-std=c++17", "-Wall", "-Werror", f"-I{include}"]
    linked = [str(libraries[0]), f"-Wl,-rpath,{libraries[0].parent}:{folder}"]
    subprocess.run([compiler, *strict, str(SOURCE), "-o", str(target), *linked], check=True, timeout=120)
    return target


def answer(program: Path, *words: str, pixels: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(program), *words], input=pixels, capture_output=True, timeout=60, check=False)


def test_it_answers_as_python_does(program: Path, lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    model = lenet[0] / "model.onnx"
    runtime = OnnxRuntime.load(model, threads=1)
    for picture in (np.asarray(data.test[0].picture), np.full((30, 21, 1), 90, np.uint8)):
        height, width, channels = picture.shape
        ended = answer(program, str(model), str(height), str(width), str(channels), pixels=picture.tobytes())
        assert ended.returncode == 0, ended.stderr
        found = [float(line.split()[1]) for line in ended.stdout.decode().splitlines()]
        assert found == pytest.approx(runtime.predict(picture[None])["probabilities"][0].tolist(), abs=1e-6)


def test_it_says_what_is_wrong(program: Path, lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    model = str(lenet[0] / "model.onnx")
    assert answer(program, model, "8", "8", "1", pixels=b"too few").returncode == 2
    assert answer(program, str(tmp_path / "none.onnx"), "1", "1", "1", pixels=b"x").returncode == 1
    refused = answer(program, model, "8", "8", "3", pixels=bytes(192))
    assert refused.returncode == 1
    assert refused.stderr


def test_it_is_short_enough_to_be_read() -> None:
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) <= 60
