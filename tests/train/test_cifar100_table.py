"""The 43 networks of the much-used CIFAR-100 table can each be trained, under the names that table has."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from danlu.core.records import RunFolder
from danlu.data.arrays import array_names
from danlu.data.formats import FORMATS
from danlu.data.load import PictureInfo, load_data
from danlu.data.sample import ArrayDataset
from danlu.models import MODELS, create_model
from danlu.tasks.classification import Classification
from danlu.train import train
from danlu.train.choose import choose_model

TABLE = """
squeezenet mobilenet mobilenetv2 shufflenet shufflenetv2 vgg11_bn vgg13_bn vgg16_bn vgg19_bn densenet121 densenet161
densenet201 googlenet inceptionv3 inceptionv4 inceptionresnetv2 xception resnet18 resnet34 resnet50 resnet101 resnet152
preactresnet18 preactresnet34 preactresnet50 preactresnet101 preactresnet152 resnext50 resnext101 resnext152 attention56
attention92 seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 nasnet wideresnet stochasticdepth18
stochasticdepth34 stochasticdepth50 stochasticdepth101
"""
NAMES = re.findall(r"\S+", TABLE)


def test_there_are_43() -> None:
    assert len(NAMES) == len(set(NAMES)) == 43


@pytest.mark.parametrize("name", NAMES)
def test_one_step(name: str) -> None:
    """A step of the task on two pictures moves the network, in the form for small pictures, which says so."""
    found, why = choose_model(name, PictureInfo(32, 32, 3, True), 100)
    assert MODELS.index[found]["input"] == [3, 32, 32]
    assert "small form" in why or "asked for as" in why
    torch.manual_seed(0)
    model = create_model(found, num_classes=100, in_channels=3).train()
    task = Classification([str(number) for number in range(100)])
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    batch = task.collate(pictures, np.array([3, 99]), ["a", "b"])

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, x: torch.Tensor) -> object:
            return self.network(x.permute(0, 3, 1, 2).float() / 128 - 1)

    losses = task.loss(Scaled(), batch)
    assert 2.0 < float(losses["cross_entropy"]) < 8.0
    losses["loss"].backward()
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in moved)
    assert all(torch.isfinite(parameter.grad).all() for parameter in moved if parameter.grad is not None)


def test_from_the_true_file_format(tmp_path: Path) -> None:
    """A folder as the official archive unpacks to, 100 classes of 32×32 pictures, trained under the table's name."""
    draw = np.random.default_rng(0)
    classes = tuple(f"class {number}" for number in range(100))
    splits = {}
    for part, count in (("train", 400), ("test", 100)):
        pictures = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        splits[part] = ArrayDataset(pictures, np.arange(count) % 100, array_names(part, count), classes)
    FORMATS.get("cifar100").write(splits, tmp_path / "cifar-100-binary")
    data = load_data(tmp_path / "cifar-100-binary")
    assert len(data.classes) == 100
    run: RunFolder = train(
        data, model="shufflenet", overrides={"epochs": 1, "batch_size": 32}, out=tmp_path / "run", threads=1
    )
    config = run.read_config()
    assert config["effective"]["model"]["name"] == "shufflenet_v1_g3_cifar"
    assert "small form" in config["why"]["model"]
    assert config["requested"]["model"] == "shufflenet"
