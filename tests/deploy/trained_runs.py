"""Small networks that were really trained on the digits, as run folders and as open networks."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.core.files import sha256_file, write_json
from danlu.core.records import RunFolder
from danlu.data.load import Data, load_data
from danlu.deploy.artifact import sealed
from danlu.models import create_model
from danlu.models.base import Stage, VisionModel
from danlu.tasks.classification import Classification
from danlu.tasks.preprocess import PictureModel, Preprocess, PreprocessSettings, choose_preprocess
from danlu.tasks.trained import Trained


class TinyNet(VisionModel):
    """Two convolutions with batch normalisation and a linear layer, for pictures of 8×8 and about that."""

    stages = (Stage("first", 8, 1), Stage("second", 16, 2))

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.classifier = nn.Linear(16 * 16, num_classes)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        out = {}
        x = out["first"] = F.relu(self.norm1(self.conv1(x)))
        out["second"] = F.relu(self.conv2(x))
        return out

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x.flatten(1))
        return logits

    def reset_head(self, num_classes: int) -> None:
        self.classifier = nn.Linear(16 * 16, num_classes)


@functools.cache
def digits() -> Data:
    """Return the embedded digits, split by seed 0."""
    return load_data("digits")


def fit_network(model: VisionModel, settings: PreprocessSettings, data: Data, steps: int) -> None:
    """Train for ``steps`` batches of 64, which is enough to be right on nearly all digits."""
    network = PictureModel(Preprocess(settings), model).train()
    pictures = torch.from_numpy(np.stack([np.asarray(data.train[i].picture) for i in range(len(data.train))]))
    labels = torch.from_numpy(np.asarray(data.train.labels))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(pictures), (64,), generator=draw)
        loss = F.cross_entropy(network(pictures[chosen]), labels[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()


def described(data: Data, model: str, settings: PreprocessSettings) -> dict[str, Any]:
    """Return the ``config.json`` that training writes."""
    used = {"name": data.name, "source": data.source, "hash": data.hash}
    used |= {"classes": list(data.classes), "seed": data.seed}
    return {
        "schema": 1,
        "requested": {"model": model},
        "effective": {
            "data": used,
            "task": "classification",
            "model": {"name": model, "num_classes": len(data.classes), "in_channels": settings.channels},
            "preprocess": settings.model_dump(mode="json"),
            "train": {},
            "seed": data.seed,
        },
    }


def tiny_trained(folder: Path, data: Data, steps: int = 150) -> Trained:
    """Return a trained :class:`TinyNet` in ``folder``."""
    torch.manual_seed(0)
    model = TinyNet(len(data.classes), data.picture.channels)
    size = (8, 8)
    settings = PreprocessSettings(
        picture_size=size, input_size=size, fit="none", channels=data.picture.channels, mean=data.mean, std=data.std
    )
    fit_network(model, settings, data, steps)
    return Trained(
        model=model.eval(),
        preprocess=Preprocess(settings).eval(),
        task=Classification(data.classes),
        classes=data.classes,
        config=described(data, "tiny", settings),
        run=RunFolder(folder),
        weights_hash="0" * 64,
        model_name="tiny",
        which="best",
    )


def save_changed(path: Path, model: onnx.ModelProto) -> None:
    """Write an artifact that was changed on purpose: its digest is that of what it now is."""
    path.write_bytes(sealed(model))


def lenet_run(folder: Path, data: Data, steps: int = 150) -> Path:
    """Write the run folder of a LeNet-5 trained on ``data``."""
    torch.manual_seed(0)
    model = create_model("lenet5", num_classes=len(data.classes), in_channels=data.picture.channels)
    picture = (data.picture.height, data.picture.width)
    settings = choose_preprocess(picture, data.picture.channels, data.mean, data.std, [1, 32, 32], True)
    fit_network(model, settings, data, steps)
    checkpoint = folder / "checkpoints" / "step-000001"
    checkpoint.mkdir(parents=True)
    safetensors.torch.save_file(model.state_dict(), checkpoint / "weights.safetensors")
    hashes = {"weights.safetensors": sha256_file(checkpoint / "weights.safetensors")}
    write_json(checkpoint / "manifest.json", {"schema": 1, "step": 1, "epoch": 1, "files": hashes})
    pointers = {"schema": 1, "best": checkpoint.name, "last": checkpoint.name}
    write_json(folder / "checkpoints" / "pointers.json", pointers)
    write_json(folder / "config.json", described(data, "lenet5", settings))
    return folder
