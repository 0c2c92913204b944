"""GoogLeNet of 2014 against table 1, and both forms' auxiliary heads."""

from __future__ import annotations

import pytest
import torch

from danlu.analyze.counting import stage_shapes
from danlu.models.vision import googlenet, googlenet_bn

# Table 1: side, channels and thousands of parameters of each module; the paper rounds them all down or to the nearest.
ROWS = {
    "3a": (28, 256, 159),
    "3b": (28, 480, 380),
    "4a": (14, 512, 364),
    "4b": (14, 512, 437),
    "4c": (14, 512, 463),
    "4d": (14, 528, 580),
    "4e": (14, 832, 840),
    "5a": (7, 832, 1072),
    "5b": (7, 1024, 1388),
}


def test_modules_are_the_rows_of_table_1() -> None:
    with torch.device("meta"):
        model = googlenet.VARIANTS[0].build()
    shapes = stage_shapes(model, (1, 3, 224, 224))
    for name, (side, channels, thousands) in ROWS.items():
        assert shapes[f"inception{name}"] == [1, channels, side, side]
        found = sum(p.numel() for p in model.get_submodule(f"inception.{name}").parameters())
        # The paper counts kibi-parameters: 163,696 / 1024 = 159.9.
        assert 0 <= found / 1024 - thousands < 1.5


@pytest.mark.parametrize("module", [googlenet, googlenet_bn])
def test_auxiliary_heads_speak_in_train_mode_alone_and_take_new_classes(module: object) -> None:
    model = module.VARIANTS[1].twin().build(num_classes=5)  # type: ignore[attr-defined]
    x = torch.randn(2, 3, 32, 32)
    assert set(model.train()(x)) == {"logits", "aux1", "aux2"}
    assert model.eval()(x).shape == (2, 5)
    model.reset_head(4)
    assert {tuple(one.shape) for one in model.train()(x).values()} == {(2, 4)}
