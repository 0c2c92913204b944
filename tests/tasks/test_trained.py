"""Opening what a run has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.core.errors import InputError
from danlu.core.files import sha256_file
from danlu.tasks.trained import open_trained
from tests.evaluate.fabricated import CLASSES, edit_config, make_data, make_run, write_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "跑 1"
    make_run(path, make_data())
    return path


@pytest.mark.parametrize("model", ["lenet5", "resnet20"])
def test_opened(tmp_path: Path, model: str) -> None:
    data = make_data()
    network = make_run(tmp_path / "run", data, model)
    trained = open_trained(tmp_path / "run")
    assert trained.model_name == model
    assert trained.classes == trained.task.classes == CLASSES
    assert trained.task.label_smoothing == 0.1
    assert not any(part.training for part in trained.model.modules())
    assert trained.weights_hash == sha256_file(tmp_path / "run/checkpoints/step-000001/weights.safetensors")
    size = (32, 32) if model == "lenet5" else (12, 12)
    assert trained.input_shape == (1, 1, *size)
    pictures = torch.from_numpy(np.stack([data.test[i].picture for i in range(5)]))
    with torch.no_grad():
        found = trained.picture_model(pictures)
        assert torch.equal(found, network(trained.preprocess(pictures)))


def test_last_is_another_network(run: Path) -> None:
    best, last = open_trained(run, "best"), open_trained(run, "last")
    assert best.weights_hash != last.weights_hash
    x = torch.randn(1, 1, 12, 12)
    assert not torch.equal(best.model(x), last.model(x))


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run folder"):
        open_trained(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("effective",), ..., "has no section 'effective'"),
        (("effective", "preprocess"), ..., "has no section 'preprocess'"),
        (("effective", "task"), "detection", "unknown task 'detection'"),
        (("effective", "task"), {"_target_": "os.system"}, "cannot be opened"),
        (("effective", "model", "name"), "torchvision.models.resnet18", "unknown model"),
        (("effective", "model", "name"), "resnet2O", "did you mean: .*resnet20"),
        (("effective", "model", "name"), 5, "is no text"),
        (("effective", "model", "num_classes"), 10, r"model\.num_classes = 10 disagrees"),
        (("effective", "model", "in_channels"), 3, r"model\.in_channels = 3 disagrees"),
        (("effective", "data", "classes"), [], "no list of names"),
        (("effective", "data", "classes"), ["a", 1], "no list of names"),
        (("effective", "preprocess", "mean"), [0.1, 0.2], "as many means"),
        (("effective", "preprocess", "_instantiator"), "x", "unknown key '_instantiator'"),
        (("schema",), 2, "schema 2 is newer"),
    ],
)
def test_a_config_that_is_not_understood(run: Path, keys: tuple[str, ...], value: Any, words: str) -> None:
    """B3, B10, B42: named by file and key; nothing in it is imported."""
    edit_config(run, *keys, value=value)
    with pytest.raises(InputError, match=words) as caught:
        open_trained(run)
    assert "config.json" in str(caught.value)


def test_b6_a_damaged_checkpoint(run: Path) -> None:
    path = run / "checkpoints/step-000001/weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 64
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"weights\.safetensors: was changed or damaged"):
        open_trained(run)
    open_trained(run, "last")


def test_b9_a_checkpoint_of_another_network(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", make_data(), "lenet5")
    write_checkpoint(run / "checkpoints/step-000001", other.state_dict())
    with pytest.raises(InputError, match="does not fit CIFARResNet"):
        open_trained(run)
