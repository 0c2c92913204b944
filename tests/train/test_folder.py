"""A folder of pictures of many sizes: decoded ahead, brought to one size, trained, stopped and resumed alike."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from danlu.core.errors import Stopped
from danlu.data.load import load_data
from danlu.train import resume, train
from danlu.train.loop import Training
from tests.train.helpers import curve, hashes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "花 flowers"
    rng = np.random.default_rng(0)
    for label, colour in enumerate(("红", "green", "blue")):
        (root / colour).mkdir(parents=True)
        for number in range(16):
            height, width = rng.integers(36, 46, 2)
            pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
            pixels[..., label] += 120
            Image.fromarray(pixels).save(root / colour / f"{number} é.jpg")
    return root


def test_a_folder_is_trained_on_and_resumed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"epochs": 4, "precision": "fp32"}
    whole = train(load_data(folder), overrides=overrides, out=tmp_path / "whole", threads=1, device="cpu")
    config = whole.read_config()
    assert config["effective"]["model"]["name"] == "resnet20"
    assert config["effective"]["recipe"] == "default"
    assert config["effective"]["preprocess"]["picture_size"] == [32, 32]
    assert "in colour" in config["why"]["model"]
    assert whole.read_record()["train"]["best"]["accuracy"] > 0.6
    do = Training.do_step

    def do_step(self: Training, batch: Any, lr: float, number: int) -> Any:
        if number == 4:
            monkeypatch.setattr(Training, "do_step", do)
            signal.raise_signal(signal.SIGTERM)
        return do(self, batch, lr, number)

    monkeypatch.setattr(Training, "do_step", do_step)
    with pytest.raises(Stopped):
        train(load_data(folder), overrides=overrides, out=tmp_path / "parts", threads=1, device="cpu")
    parts = resume(tmp_path / "parts")  # loads the folder again, from where config.json says
    assert hashes(parts) == hashes(whole)
    assert curve(parts) == curve(whole)
