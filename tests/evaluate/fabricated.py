"""Run folders and data sets made by hand, in the form training writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from danlu.core.files import sha256_file
from danlu.data.load import Data, PictureInfo
from danlu.data.sample import ArrayDataset
from danlu.models import MODELS, create_model
from danlu.models.base import VisionModel
from danlu.proof import randomise
from danlu.tasks.preprocess import choose_preprocess

CLASSES = ("猫", "=cmd()", "<script>")


def make_data(
    seed: int = 0, sizes: tuple[int, int, int] = (24, 12, 20), classes: tuple[str, ...] = CLASSES, **changes: Any
) -> Data:
    """Grey 12×12 pictures whose brightness says their class, so that a network could learn them."""
    rng = np.random.default_rng(7)
    parts = []
    for number, size in enumerate(sizes):
        labels = rng.integers(0, len(classes), size)
        pictures = rng.integers(0, 60, (size, 12, 12, 1)) + 60 * labels[:, None, None, None]
        ids = [f"{'-=+@'[i % 4]}{number}/张 {i}\n.png" for i in range(size)]
        parts.append(ArrayDataset(pictures.astype(np.uint8), labels, ids, classes))
    values: dict[str, Any] = {
        "name": "made",
        "source": "made",
        "classes": classes,
        "train": parts[0],
        "validation": parts[1],
        "test": parts[2],
        "picture": PictureInfo(12, 12, 1, True),
        "hash": "ab" * 32,
        "test_given": False,
        "problems": [],
        "licence": None,
        "citation": None,
        "mean": (0.35,),
        "std": (0.2,),
        "seed": seed,
    }
    return Data(**{**values, **changes})


def make_run(path: Path, data: Data, model: str = "resnet20", steps: tuple[int, ...] = (1, 2)) -> VisionModel:
    """Write a run folder with a random network; ``best`` is the first step, ``last`` the last. Return the best."""
    facts = MODELS.index[model]
    preprocess = choose_preprocess(
        (data.picture.height, data.picture.width),
        data.picture.channels,
        data.mean,
        data.std,
        facts["input"],
        facts["fixed_input"],
        facts["smallest"],
    )
    config = {
        "schema": 1,
        "requested": {"model": model},
        "effective": {
            "data": {
                "name": data.name,
                "source": data.source,
                "hash": data.hash,
                "classes": list(data.classes),
                "seed": data.seed,
            },
            "task": "classification",
            "model": {"name": model, "num_classes": len(data.classes), "in_channels": data.picture.channels},
            "preprocess": preprocess.model_dump(mode="json"),
            "train": {"label_smoothing": 0.1},
            "machine": {"device": "cpu", "threads": 1, "precision": "fp32", "channels_last": True},
            "seed": data.seed,
        },
        "why": {},
    }
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    first = None
    for step in steps:
        network = randomise(
            create_model(model, num_classes=len(data.classes), in_channels=data.picture.channels), seed=step
        )
        first = first or network.eval()
        write_checkpoint(path / "checkpoints" / f"step-{step:06d}", network.state_dict(), step)
    pointers = {"schema": 1, "best": f"step-{steps[0]:06d}", "last": f"step-{steps[-1]:06d}"}
    (path / "checkpoints" / "pointers.json").write_text(json.dumps(pointers))
    assert first is not None
    return first


def write_checkpoint(folder: Path, state: dict[str, torch.Tensor], step: int = 1) -> Path:
    """Write a checkpoint folder with its manifest; return the weights file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    manifest = {"schema": 1, "step": step, "epoch": 1, "files": {path.name: sha256_file(path)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return path


def edit_config(path: Path, *keys: str, value: Any) -> None:
    """Replace one entry of a run's config.json, or drop it when ``value`` is ``...``."""
    document = json.loads((path / "config.json").read_text(encoding="utf-8"))
    target = document
    for key in keys[:-1]:
        target = target[key]
    if value is ...:
        del target[keys[-1]]
    else:
        target[keys[-1]] = value
    (path / "config.json").write_text(json.dumps(document), encoding="utf-8")
