"""Every registered runtime: loads a file and its bytes, answers alike at any batch size, says what it executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, numpy_helper, parser

from danlu.core.errors import InputError
from danlu.core.registry import index_text
from danlu.deploy.artifact import ArtifactInfo
from danlu.deploy.runtimes import RUNTIMES, Runtime

GRAPH = """<ir_version: 10, opset_import: ["" : 18]>
small (uint8[batch, height, width, 3] pictures) => (float[batch, 2] logits, float[batch, 2] probabilities) {
  cast = Cast <to = 1> (pictures)
  channels_first = Transpose <perm = [0, 3, 1, 2]> (cast)
  convolved = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (channels_first, weight)
  summed = GlobalAveragePool (convolved)
  logits = Flatten (summed)
  probabilities = Softmax (logits)
}"""


# Those that load the one file; what loads a folder alone is tested where the folder is made.
@pytest.fixture(params=[name for name in RUNTIMES.names() if "onnx" in RUNTIMES.index[name]["artifacts"]])
def runtime_class(request: pytest.FixtureRequest) -> type[Runtime]:
    return RUNTIMES.get(request.param)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """An artifact small enough to compute by hand."""
    model = parser.parse_model(GRAPH)
    weight = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32) / 100
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    info = ArtifactInfo(
        task="classification",
        model="small",
        precision="fp32",
        classes=("a", "b"),
        picture_size=(5, 7),
        channels=3,
        outputs=({"name": "logits"}, {"name": "probabilities"}),
        stages={},
        hashes={},
    )
    for key, value in info.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    path = tmp_path / "小 model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def by_hand(path: Path, pictures: Any) -> Any:
    weight = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).astype(np.float64)
    padded = np.pad(pictures.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = pictures.shape[1:3]
    total = sum(padded[:, i : i + height, j : j + width] @ weight[:, :, i, j].T for i in range(3) for j in range(3))
    return np.asarray(total).mean(axis=(1, 2))


def test_index_is_current() -> None:
    text = RUNTIMES.index_path.read_text(encoding="utf-8")
    assert text == index_text(RUNTIMES.build_index())
    assert all({"title", "devices", "artifacts"} <= set(facts) for facts in json.loads(text).values())


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_answers_what_the_graph_says(runtime_class: type[Runtime], artifact: Path, batch: int) -> None:
    pictures = np.random.default_rng(batch).integers(0, 256, (batch, 5, 7, 3), dtype=np.uint8)
    runtime = runtime_class.load(artifact, threads=1)
    found = runtime.predict(pictures)
    assert list(found) == ["logits", "probabilities"]
    assert np.abs(found["logits"] - by_hand(artifact, pictures)).max() < 1e-4
    assert found["probabilities"].sum(axis=1) == pytest.approx(np.ones(batch))
    from_bytes = runtime_class.load(artifact.read_bytes(), threads=1).predict(pictures, ["probabilities"])
    assert list(from_bytes) == ["probabilities"]
    assert np.array_equal(from_bytes["probabilities"], found["probabilities"])


def test_one_answer_does_not_depend_on_its_batch(runtime_class: type[Runtime], artifact: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (8, 5, 7, 3), dtype=np.uint8)
    runtime = runtime_class.load(artifact)
    together = runtime.predict(pictures)["logits"]
    alone = np.concatenate([runtime.predict(pictures[i : i + 1])["logits"] for i in range(8)])
    assert np.abs(together - alone).max() < 1e-4


def test_says_what_it_executed(runtime_class: type[Runtime], artifact: Path) -> None:
    runtime = runtime_class.load(artifact, threads=1)
    said = runtime.describe()
    assert {"runtime", "version", "provider", "threads", "precision"} <= set(said)
    assert said["runtime"] == runtime_class.name
    assert said["precision"] == "fp32"
    assert said["threads"] == runtime.threads == 1
    json.dumps(said, allow_nan=False)
    assert runtime.metadata["danlu.model"] == '"small"'
    assert runtime_class.load(artifact).threads >= 1


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((1, 5, 7, 1), np.uint8),
        np.zeros((5, 7, 3), np.uint8),
        np.zeros((0, 5, 7, 3), np.uint8),
        np.zeros((1, 5, 7, 3), np.float32),
    ],
)
def test_refuses_other_pictures(runtime_class: type[Runtime], artifact: Path, pictures: Any) -> None:
    with pytest.raises(InputError, match=r"uint8 \[B, H, W, 3\]"):
        runtime_class.load(artifact, threads=1).predict(pictures)


@pytest.mark.parametrize("given", ["file", "bytes"])
@pytest.mark.parametrize("operator", ["MatMul", "Add"])
def test_never_reads_data_outside_the_file(
    runtime_class: type[Runtime],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    given: str,
    operator: str,
) -> None:
    """Neither beside the file nor in the working folder; an Add is folded, a MatMul reads its weight late."""
    monkeypatch.chdir(tmp_path)
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        outside (uint8[batch, height, width, 4] pictures) => (float[batch, height, width, 4] logits) {{
          cast = Cast <to = 1> (pictures)
          logits = {operator} (cast, weight)
        }}"""
    )
    weight = np.ones((4, 4), np.float32)
    weight.tofile(tmp_path / "weight.bin")
    tensor = numpy_helper.from_array(weight, "weight")
    external_data_helper.set_external_data(tensor, location="weight.bin", offset=0, length=weight.nbytes)
    tensor.ClearField("raw_data")
    model.graph.initializer.append(tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"cannot load|outside the file"):
        runtime_class.load(path if given == "file" else path.read_bytes(), threads=1)
    assert capfd.readouterr() == ("", "")


def test_refuses_unknown_outputs_and_files(
    runtime_class: type[Runtime], artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures = np.zeros((1, 5, 7, 3), np.uint8)
    with pytest.raises(InputError, match="did you mean: logits"):
        runtime_class.load(artifact, threads=1).predict(pictures, ["logit"])
    for content in (b"", b"garbage", artifact.read_bytes()[:100]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.onnx"):
            runtime_class.load(tmp_path / "bad.onnx")
    with pytest.raises(InputError, match="no such file"):
        runtime_class.load(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="threads = 0"):
        runtime_class.load(artifact, threads=0)
    assert capfd.readouterr() == ("", "")
