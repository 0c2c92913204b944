"""FaceNet NN2 row by row against table 2 of its paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from danlu.analyze.counting import count, stage_shapes
from danlu.models.vision.facenet_nn2 import TABLE_2, VARIANTS, FaceNetNN2, L2Pool

# Table 2: type, output side, channels, params and FLOPS in the digits printed: thousands and millions.
ROWS = [
    ("conv1", 112, 64, 9, 119),
    ("inception2", 56, 192, 115, 360),
    ("inception3a", 28, 256, 164, 128),
    ("inception3b", 28, 320, 228, 179),
    ("inception3c", 14, 640, 398, 108),
    ("inception4a", 14, 640, 545, 107),
    ("inception4b", 14, 640, 595, 117),
    ("inception4c", 14, 640, 654, 128),
    ("inception4d", 14, 640, 722, 142),
    ("inception4e", 7, 1024, 717, 56),
    ("inception5a", 7, 1024, 1600, 78),
    ("inception5b", 7, 1024, 1600, 78),
]


@pytest.fixture(scope="module")
def model() -> FaceNetNN2:
    with torch.device("meta"):
        return FaceNetNN2((64, 192), TABLE_2)


def _module(model: FaceNetNN2, stage: str) -> nn.Module:
    row = stage.removeprefix("inception")
    return model.inception[row] if row in model.inception else model.get_submodule(stage)


def test_stages_are_the_output_sizes_of_table_2(model: FaceNetNN2) -> None:
    shapes = stage_shapes(model, (1, 3, 224, 224))
    assert shapes == {name: [1, channels, side, side] for name, side, channels, _, _ in ROWS}


@pytest.mark.parametrize(("stage", "side", "channels", "thousands", "millions"), ROWS)
def test_parameters_of_every_row(
    model: FaceNetNN2, stage: str, side: int, channels: int, thousands: int, millions: int
) -> None:
    found = sum(p.numel() for p in _module(model, stage).parameters())
    digit = 100 if thousands >= 1000 else 1  # 1.6M, 545K
    assert abs(found / 1000 - thousands) <= 0.55 * digit


@pytest.mark.parametrize(("stage", "side", "channels", "thousands", "millions"), ROWS)
def test_flops_of_every_row_are_multiply_adds_with_biases(
    model: FaceNetNN2, stage: str, side: int, channels: int, thousands: int, millions: int
) -> None:
    counted = count(model, (1, 3, 224, 224)).modules
    prefix = next(name for name, module in model.named_modules() if module is _module(model, stage))
    inside = {name: own for name, own in counted.items() if name == prefix or name.startswith(f"{prefix}.")}
    biases = sum(
        torch.Size(own.output).numel()
        for name, own in inside.items()
        if isinstance(model.get_submodule(name), nn.Conv2d)
    )
    found = sum(own.macs for own in inside.values()) + biases
    assert abs(found / 1e6 - millions) <= 1


def test_the_rows_add_up_to_the_papers_totals() -> None:
    assert round(VARIANTS[0].parameters / 1e6, 1) == 7.5
    assert round(VARIANTS[0].macs / 1e9, 1) == 1.6


def test_embeddings_lie_on_the_sphere() -> None:
    model = VARIANTS[0].twin().build()
    lengths = model(torch.randn(3, 3, 32, 32)).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(3), atol=1e-5)


def test_l2_pooling_is_the_norm_of_the_window_with_a_finite_gradient_at_zero() -> None:
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0], x[0, 0, 2, 0] = torch.tensor([3.0, 0.0, 0.0]), 4.0
    assert L2Pool()(x)[0, 0, 1, 1] == pytest.approx(5.0)
    zero = torch.zeros(1, 1, 3, 3, requires_grad=True)
    L2Pool()(zero).sum().backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()
