"""From uint8 pictures to the network's input, exactly, in eager mode and in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.core.settings import make_settings
from danlu.models import MODELS
from danlu.tasks.preprocess import PictureModel, Preprocess, PreprocessSettings, choose_preprocess

GREY = {"channels": 1, "mean": (0.1307,), "std": (0.3081,)}
COLOUR = {"channels": 3, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def settings(picture: tuple[int, int], size: tuple[int, int], fit: str, **rest: Any) -> PreprocessSettings:
    return PreprocessSettings(picture_size=picture, input_size=size, fit=fit, **rest)  # type: ignore[arg-type]


CASES = [
    settings((32, 32), (32, 32), "none", **COLOUR),
    settings((28, 28), (32, 32), "pad", **GREY),
    settings((27, 30), (32, 33), "pad", **COLOUR),
    settings((8, 8), (32, 32), "resize", **GREY),
    settings((5, 9), (12, 11), "resize", **COLOUR),
]


def bilinear(x: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear resize of [B, H, W, C]: pixel i covers [i, i + 1), edges are repeated."""
    for axis, length in ((1, size[0]), (2, size[1])):
        count = x.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * count / length - 0.5, 0, count - 1)
        low = np.minimum(at.astype(int), count - 1)
        high = np.minimum(low + 1, count - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def expected(pictures: NDArray[np.uint8], s: PreprocessSettings) -> NDArray[np.float64]:
    """The definition, in float64: [B, h, w, C] -> [B, C, H, W]."""
    x = pictures.astype(np.float64) / 255
    if s.fit == "pad":
        rows, columns = s.input_size[0] - s.picture_size[0], s.input_size[1] - s.picture_size[1]
        sides = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
        x = np.pad(x, sides)
    elif s.fit == "resize":
        x = bilinear(x, s.input_size)
    return ((x - np.array(s.mean)) / np.array(s.std)).transpose(0, 3, 1, 2)


def pictures_for(s: PreprocessSettings, batch: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, *s.picture_size, s.channels), dtype=np.uint8)


@pytest.mark.parametrize("case", CASES, ids=lambda s: f"{s.fit}{s.channels}")
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_values(case: PreprocessSettings, batch: int) -> None:
    pictures = pictures_for(case, batch)
    before = pictures.copy()
    found = Preprocess(case)(torch.from_numpy(pictures))
    assert found.shape == (batch, case.channels, *case.input_size)
    assert found.dtype == torch.float32
    assert (pictures == before).all()
    if batch:
        assert np.abs(found.numpy() - expected(pictures, case)).max() < 2e-6


@pytest.mark.parametrize("case", CASES, ids=lambda s: f"{s.fit}{s.channels}")
def test_channels_last(case: PreprocessSettings) -> None:
    found = Preprocess(case)(torch.from_numpy(pictures_for(case)))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_every_level_is_exact() -> None:
    """All 256 levels of a channel: what float32 can hold of (x / 255 - mean) / std."""
    s = settings((16, 16), (16, 16), "none", **GREY)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = Preprocess(s)(torch.from_numpy(levels)).double().numpy()
    exact = expected(levels, s)
    assert (np.abs(found - exact) <= 4 * np.finfo(np.float32).eps * np.maximum(1, np.abs(exact))).all()
    assert len(np.unique(found)) == 256


def test_a_padded_pixel_is_a_zero_pixel() -> None:
    s = settings((2, 2), (5, 4), "pad", **COLOUR)
    found = Preprocess(s)(torch.zeros(1, 2, 2, 3, dtype=torch.uint8))
    for channel in range(3):
        zero = -COLOUR["mean"][channel] / COLOUR["std"][channel]  # type: ignore[index]
        assert found[0, channel].numpy() == pytest.approx(zero, abs=1e-6)
    marked = Preprocess(s)(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))[0, 0]
    bright = marked > 0
    # Three rows and two columns are missing: one row above and two below, one column on each side.
    assert bright.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 28, 28, 3), (1, 28, 27, 1), (1, 1, 28, 28)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"(?s)pictures of shape.*\[B, 28, 28, 1\]"):
        Preprocess(CASES[1])(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[3]], ids=lambda s: s.fit)
def test_onnx(case: PreprocessSettings) -> None:
    import onnxruntime

    module = Preprocess(case).eval()
    program = torch.onnx.export(
        module,
        (torch.from_numpy(pictures_for(case, 2)),),
        dynamo=True,
        verbose=False,
        input_names=["pictures"],
        dynamic_shapes={"pictures": {0: torch.export.Dim("batch")}},
        opset_version=18,
    )
    assert program is not None
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        pictures = pictures_for(case, batch)
        (found,) = session.run(None, {"pictures": pictures})
        assert np.abs(found - module(torch.from_numpy(pictures)).numpy()).max() < 2e-6


def test_picture_model() -> None:
    network = torch.nn.Flatten()
    model = PictureModel(Preprocess(CASES[1]), network)
    assert model(torch.zeros(2, 28, 28, 1, dtype=torch.uint8)).shape == (2, 1024)
    assert not model.state_dict()  # preprocessing is no weight


def chosen(name: str, picture: tuple[int, int], channels: int = 1) -> tuple[tuple[int, int], tuple[int, int], str]:
    facts = MODELS.index[name]
    rest = COLOUR if channels == 3 else GREY
    s = choose_preprocess(
        picture,
        channels,
        rest["mean"],
        rest["std"],
        facts["input"],
        facts["fixed_input"],
        facts["smallest"],  # type: ignore[arg-type]
    )
    return s.picture_size, s.input_size, s.fit


@pytest.mark.parametrize(
    ("name", "picture", "result"),
    [
        ("lenet5", (28, 28), ((28, 28), (32, 32), "pad")),
        ("lenet5", (24, 32), ((24, 32), (32, 32), "pad")),
        ("lenet5", (32, 32), ((32, 32), (32, 32), "none")),
        ("lenet5", (8, 8), ((8, 8), (32, 32), "resize")),
        ("lenet5", (20, 12), ((32, 32), (32, 32), "none")),  # decoding enlarges and crops: nothing is distorted
        ("lenet5", (300, 400), ((32, 32), (32, 32), "none")),
        ("lenet5", (28, 40), ((32, 32), (32, 32), "none")),
        ("resnet20", (32, 32), ((32, 32), (32, 32), "none")),
        ("resnet20", (8, 8), ((8, 8), (8, 8), "none")),
        ("resnet20", (48, 64), ((48, 64), (48, 64), "none")),
        ("resnet20", (300, 400), ((64, 64), (64, 64), "none")),
        ("resnet20", (5, 20), ((8, 20), (8, 20), "none")),
    ],
)
def test_choice(name: str, picture: tuple[int, int], result: Any) -> None:
    assert chosen(name, picture) == result
    assert chosen(name, picture, 3) == result


def test_a_constant_channel_is_no_division_by_zero() -> None:
    s = choose_preprocess((8, 8), 1, (0.5,), (0.0,), (1, 32, 32), False)
    assert s.std == (1.0,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fit": "none", "input_size": (32, 32)}, "needs equal sizes"),
        ({"fit": "pad", "input_size": (20, 32)}, "only enlarges"),
        ({"fit": "resize", "input_size": (20, 20)}, "only enlarges"),
        ({"fit": "stretch"}, "none"),
        ({"channels": 2}, "channels = 2 is not known\n  allowed: 1, 3"),
        ({"mean": (0.1, 0.2)}, "as many means"),
        ({"std": (0.0,)}, "must be positive"),
        ({"picture_size": (0, 28)}, "from 1 to"),
        ({"picture_size": (28, 200_000)}, "from 1 to 16384"),
        ({"mean": (float("nan"),)}, "finite"),
    ],
)
def test_settings_that_contradict(changes: dict[str, Any], words: str) -> None:
    values = {"picture_size": (28, 28), "input_size": (28, 28), "fit": "none", **GREY}
    make_settings(PreprocessSettings, values, "config")
    with pytest.raises(InputError, match=words):
        make_settings(PreprocessSettings, {**values, **changes}, "config")


def test_unknown_key_gets_the_nearest() -> None:
    values = {"picture_size": (28, 28), "input_size": (28, 28), "fit": "none", **GREY, "picture_sise": 3}
    with pytest.raises(InputError, match="did you mean: picture_size"):
        make_settings(PreprocessSettings, values, "config")


def test_settings_survive_json() -> None:
    for case in CASES:
        assert PreprocessSettings.model_validate_json(case.model_dump_json()) == case
        assert make_settings(PreprocessSettings, case.model_dump(mode="json"), "config") == case
