"""Class-activation maps in the artifact: they add up to the scores, in float32 and INT8; other heads have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from danlu.core.records import RunFolder
from danlu.data.load import Data
from danlu.deploy.activation import MAPS, add_activation_maps
from danlu.deploy.artifact import read_artifact
from danlu.deploy.capture import capture
from danlu.deploy.export import export
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime
from danlu.models.base import Stage, VisionModel
from danlu.tasks.trained import Trained
from tests.deploy.trained_runs import TinyNet, described, fit_network


class PooledNet(TinyNet):
    """TinyNet whose head is the mean over all places and one linear layer."""

    stages = (Stage("first", 8, 1), Stage("second", 16, 2))

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__(num_classes, in_channels)
        self.classifier = torch.nn.Linear(16, num_classes)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory, tiny_once: Trained, data: Data) -> Trained:
    torch.manual_seed(0)
    model: VisionModel = PooledNet(len(data.classes), data.picture.channels)
    settings = tiny_once.preprocess.settings
    fit_network(model, settings, data, 60)
    config = described(data, "tiny", settings)
    return replace(tiny_once, model=model.eval(), config=config, run=RunFolder(tmp_path_factory.mktemp("pooled")))


def test_the_maps_add_up_to_the_scores(pooled: Trained, data: Data) -> None:
    found = export(pooled, data, threads=1)
    pictures = np.stack([np.asarray(data.test[place].picture) for place in range(7)])
    head = pooled.model.classifier
    bias = head.bias.detach().numpy()
    for name, loose in (("fp32", 1e-4), ("int8", 0.15)):
        if not found["artifacts"][name]["file"]:
            continue
        path = pooled.run.path / found["artifacts"][name]["file"]
        info = read_artifact(path)
        (described,) = [output for output in info.outputs if output["name"] == MAPS]
        assert described["shape"] == ["batch", 5, "map_height", "map_width"]
        runtime = OnnxRuntime.load(path, threads=1)
        answer = runtime.predict(pictures)
        maps, logits = answer[MAPS], answer["logits"]
        assert maps.shape == (7, 5, 4, 4)
        best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        scores = np.take_along_axis(logits, best, axis=1)
        largest = np.abs(logits).max()
        assert np.abs(maps.mean(axis=(2, 3)) + bias[best] - scores).max() < loose * largest
        alone = runtime.predict(pictures, ["probabilities"])["probabilities"]
        assert np.array_equal(alone, answer["probabilities"])
        assert "MatMul" not in runtime.describe()["operators"]
    assert found["artifacts"]["fp32"]["file"]


def test_another_head_gets_no_maps(tiny_once: Trained, lenet: tuple[Path, dict[str, object]]) -> None:
    graph = capture(tiny_once)
    before = graph.SerializeToString()
    assert not add_activation_maps(graph, "stage.second")
    assert graph.SerializeToString() == before
    assert [output["name"] for output in read_artifact(lenet[0] / "model.onnx").outputs] == ["logits", "probabilities"]


def test_pooling_of_another_stage_gets_no_maps(pooled: Trained) -> None:
    assert not add_activation_maps(capture(pooled), "stage.first")
    assert add_activation_maps(capture(pooled), "stage.second")
