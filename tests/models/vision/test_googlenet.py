"""GoogLeNet of 2014 against table 1, and both forms' auxiliary heads."""

from __future__ import annotations

import pytest
import torch

from danlu.analyze.counting import stage_shapes
from danlu.models.vision import googlenet, googlenet_bn

# Table 1: side and channels of each module.
ROWS = {
    "3a": (28, 256),
    "3b": (28, 480),
    "4a": (14, 512),
    "4b": (14, 512),
    "4c": (14, 512),
    "4d": (14, 528),
    "4e": (14, 832),
    "5a": (7, 832),
    "5b": (7, 1024),
}


def test_modules_are_the_rows_of_table_1() -> None:
    with torch.device("meta"):
        model = googlenet.VARIANTS[0].build()
    shapes = stage_shapes(model, (1, 3, 224, 224))
    for name, (side, channels) in ROWS.items():
        assert shapes[f"inception{name}"] == [1, channels, side, side]


@pytest.mark.parametrize("module", [googlenet, googlenet_bn])
def test_auxiliary_heads_speak_in_train_mode_alone_and_take_new_classes(module: object) -> None:
    model = module.VARIANTS[1].twin().build(num_classes=5)  # type: ignore[attr-defined]
    x = torch.randn(2, 3, 32, 32)
    assert set(model.train()(x)) == {"logits", "aux1", "aux2"}
    assert model.eval()(x).shape == (2, 5)
    model.reset_head(4)
    assert {tuple(one.shape) for one in model.train()(x).values()} == {(2, 4)}
