"""Counting against closed forms, against the published figures of torchvision's models, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.analyze import count
from danlu.analyze.counting import stage_shapes
from danlu.core.errors import InputError
from danlu.models import create_model


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 10 * 12 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2), (2, 3, 11, 11), 2 * 5 * 5 * 8 * 3 * 9),
        (nn.Conv2d(6, 12, 3, groups=3, dilation=2), (1, 6, 9, 9), 5 * 5 * 12 * 2 * 9),
        (nn.Conv2d(8, 8, 5, groups=8, padding=2), (1, 8, 7, 7), 7 * 7 * 8 * 25),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (1, 4, 5, 5), 5 * 5 * 4 * 6 * 9),
        (nn.Conv1d(4, 6, 3), (1, 4, 10), 8 * 6 * 4 * 3),
        (nn.Conv3d(2, 3, 3), (1, 2, 5, 5, 5), 27 * 3 * 2 * 27),
        (nn.Linear(7, 5), (4, 7), 4 * 7 * 5),
        (nn.Linear(7, 5, bias=False), (2, 3, 7), 6 * 7 * 5),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout()), (1, 3, 8, 8), 0),
        # Input and recurrent products of four gates over six steps.
        (nn.LSTM(3, 5, batch_first=True), (1, 6, 3), 6 * 4 * 5 * (3 + 5)),
    ],
)
def test_closed_forms(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert count(module, shape).macs == macs


class Attention(nn.Module):
    """Self-attention in one of the ways people write it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        heads = x.reshape(*x.shape[:2], 4, 4).transpose(1, 2)
        if self.way == "module":
            return self.attention(x, x, x, need_weights=False)[0]
        if self.way == "fused":
            return F.scaled_dot_product_attention(heads, heads, heads)
        if self.way == "einsum":
            return torch.einsum("bhnm,bhmd->bhnd", torch.einsum("bhnd,bhmd->bhnm", heads, heads), heads)
        return (heads @ heads.transpose(-1, -2)).softmax(-1) @ heads


@pytest.mark.parametrize("way", ["module", "fused", "einsum", "products"])
def test_attention_however_it_is_written(way: str) -> None:
    tokens, width = 10, 16
    products = 2 * tokens * tokens * width
    projections = 4 * tokens * width * width if way == "module" else 0
    assert count(Attention(way), (1, tokens, width)).macs == products + projections


def test_encoder_layer_has_no_fast_path() -> None:
    """In eval mode torch runs the whole layer as one operator, which hides its products."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    for training in (True, False):
        counted = count(layer.train(training), (1, 10, 16))
        assert counted.macs == 10 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 10 * 10 * 16
        assert layer.training is training


@pytest.mark.parametrize(
    ("name", "giga", "parameters"),
    [("resnet18", "1.814", 11_689_512), ("vit_b_16", "17.564", 86_567_656), ("mobilenet_v2", "0.301", 3_504_872)],
)
def test_published_figures(name: str, giga: str, parameters: int) -> None:
    """What torchvision publishes beside its weights (GMACs at 3×224×224)."""
    import torchvision

    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    counted = count(model, (1, 3, 224, 224))
    assert f"{counted.macs / 1e9:.3f}" == giga
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(own.macs for own in counted.modules.values()) == counted.macs
    assert counted.output == [1, 1000]


def test_batches_count_as_many_times() -> None:
    model = create_model("resnet20")
    assert count(model, (5, 3, 32, 32)).macs == 5 * count(model, (1, 3, 32, 32)).macs == 5 * 40_551_040


def test_macs_stand_beside_the_module_that_made_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 8)
            self.twice = nn.Linear(8, 8)
            self.unused = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.twice(self.twice(self.first(x)).relu())
            return x @ self.unused.weight.T

    counted = count(Net(), (1, 4))
    assert {name: own.macs for name, own in counted.modules.items()} == {"": 16, "first": 32, "twice": 128}
    assert counted.modules["twice"].calls == 2
    assert counted.modules["first"].output == [1, 8]
    assert counted.modules[""].output == [1, 2]


def test_bytes() -> None:
    """400 bytes in; a linear layer makes 800; a view none; relu 800, in place none; halves 400."""
    linear = nn.Linear(100, 200)
    for tail, made, peak in (
        (nn.Identity(), 800, 1200),
        (nn.Flatten(), 800, 1200),
        (nn.ReLU(), 1600, 1600),  # the input dies as soon as the first layer's output is there
        (nn.ReLU(inplace=True), 800, 1200),
    ):
        counted = count(nn.Sequential(linear, tail), (1, 100))
        assert counted.activation_bytes == made
        assert counted.peak_activation_bytes in (peak, peak + 400)  # whether the caller still holds the input


def test_peak_is_far_below_the_sum_in_a_deep_network() -> None:
    deep, shallow = (count(create_model(name), (1, 3, 32, 32)) for name in ("resnet110", "resnet20"))
    assert deep.activation_bytes > 5 * shallow.activation_bytes
    assert deep.peak_activation_bytes == shallow.peak_activation_bytes
    # At the widest point: the block's input, its residual and one tensor in the making, beside what features() holds.
    assert 3 * 65_536 <= shallow.peak_activation_bytes <= 6 * 65_536


def test_shared_weights_stay_shared_and_nothing_is_touched() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).train()
    model[1].weight = model[0].weight  # type: ignore[union-attr]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count(model, (1, 4)).macs == 32
    assert model.training
    assert model[1].weight is model[0].weight
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model._forward_hooks
    assert all(p.device.type == "cpu" and p.requires_grad for p in model.parameters())


def test_a_network_that_asks_for_values() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(InputError, match=r"Asks: cannot be counted without values"):
        count(Asks(), (1, 4))


def test_an_input_the_network_refuses() -> None:
    with pytest.raises(InputError, match="32×32 only"):
        count(create_model("lenet5"), (1, 1, 28, 28))


def test_stage_shapes() -> None:
    assert stage_shapes(create_model("resnet20"), (1, 3, 17, 32)) == {
        "stem": [1, 16, 17, 32],
        "stage1": [1, 16, 17, 32],
        "stage2": [1, 32, 9, 16],
        "stage3": [1, 64, 5, 8],
    }
