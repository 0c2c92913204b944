"""What is chosen for the user, and that it says why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from danlu.core.errors import InputError
from danlu.data.load import PictureInfo
from danlu.train import precision
from danlu.train.choose import choose_model, choose_pictures, choose_recipe
from danlu.train.precision import autocast, choose_device, choose_precision
from danlu.train.settings import TrainConfig
from tests.train.helpers import digits


@pytest.mark.parametrize(
    ("picture", "classes", "model", "reason"),
    [
        (PictureInfo(8, 8, 1, True), 10, "lenet5", "grey pictures of 8×8 px, 10 classes"),
        (PictureInfo(32, 32, 1, True), 50, "lenet5", "LeNet-5"),
        (PictureInfo(32, 32, 1, True), 51, "resnet20", "of more than 50 classes"),
        (PictureInfo(33, 20, 1, True), 10, "resnet20", "larger than 32 px"),
        (PictureInfo(32, 32, 3, True), 10, "resnet20", "in colour"),
        (PictureInfo(200, 300, 3, False), 100, "resnet20", "in colour and larger than 32 px and of more than 50"),
        (PictureInfo(28, 27, 1, False), 3, "lenet5", "about 28×27 px"),
    ],
)
def test_the_model_by_the_pictures(picture: PictureInfo, classes: int, model: str, reason: str) -> None:
    found, why = choose_model("auto", picture, classes)
    assert found == model
    assert reason in why
    assert choose_model("resnet20", picture, classes) == ("resnet20", "asked for")


def test_small_pictures_get_the_small_form(caplog: pytest.LogCaptureFixture) -> None:
    small, large = PictureInfo(32, 64, 3, True), PictureInfo(65, 40, 3, False)
    with caplog.at_level("INFO", logger="danlu"):
        name, why = choose_model("resnet18", small, 10)
    assert name == "resnet18_cifar"
    assert why == "resnet18 was asked for; on pictures of 64 px, at most 64, it is trained in its small form"
    assert why in caplog.text
    assert choose_model("resnet18", large, 10) == ("resnet18", "asked for")
    assert choose_model("resnet18", small, 10, picture_size=224) == ("resnet18", "asked for")
    assert choose_model("resnet18", large, 10, picture_size=64)[0] == "resnet18_cifar"
    assert choose_model("resnet18_cifar", large, 10) == ("resnet18_cifar", "asked for")
    assert choose_model("mobilenetv2", large, 10) == ("mobilenet_v2", "asked for as mobilenetv2")
    with pytest.raises(InputError, match="facenet_nn2 is for embedding"):
        choose_model("facenet_nn2", large, 10)


def test_the_recipe_by_data_and_model() -> None:
    assert choose_recipe(None, "digits", "lenet5")[0] == "digits-lenet5"
    assert choose_recipe(None, "digits", "resnet20")[0] == "default"
    assert choose_recipe(None, "my folder", "lenet5")[0] == "default"
    assert choose_recipe("mnist-lenet5", "my folder", "lenet5") == ("mnist-lenet5", "asked for")
    with pytest.raises(InputError, match="did you mean: mnist-lenet5"):
        choose_recipe("mnist-lenet", "digits", "lenet5")


@pytest.mark.parametrize(
    ("picture", "asked", "model", "size", "reason"),
    [
        (PictureInfo(8, 8, 1, True), None, "lenet5", (8, 8), "the size of all pictures"),
        (PictureInfo(28, 28, 1, True), None, "lenet5", (28, 28), "the size of all pictures"),
        (PictureInfo(60, 44, 3, True), None, "resnet20", (60, 44), "the size of all pictures"),
        (PictureInfo(300, 200, 3, False), None, "resnet20", (64, 64), "their median is 300×200"),
        (PictureInfo(40, 35, 3, False), None, "resnet20", (32, 32), "their median is 40×35"),
        (PictureInfo(300, 200, 3, True), None, "resnet20", (64, 64), "brought to what resnet20 takes"),
        (PictureInfo(300, 200, 3, False), 96, "resnet20", (96, 96), "asked for"),
        (PictureInfo(8, 8, 1, True), 16, "lenet5", (16, 16), "asked for"),
        (PictureInfo(300, 200, 3, False), None, "resnet18", (192, 192), "their median is 300×200"),
        (PictureInfo(900, 700, 3, False), None, "resnet18", (224, 224), "their median is 900×700"),
    ],
)
def test_the_picture_size(
    picture: PictureInfo, asked: int | None, model: str, size: tuple[int, int], reason: str
) -> None:
    channels = picture.channels
    data = replace(digits(), picture=picture, mean=(0.5,) * channels, std=(0.2,) * channels)
    settings, why = choose_pictures(TrainConfig(picture_size=asked), data, model)
    assert settings.picture_size == size
    assert reason in why
    assert f"{size[0]}×{size[1]} px" in why


def test_a_picture_size_the_network_cannot_take() -> None:
    with pytest.raises(InputError, match="picture_size = 64: lenet5 would get 32×32"):
        choose_pictures(TrainConfig(picture_size=64), digits(), "lenet5")


@pytest.mark.parametrize(
    ("features", "expected"),
    [(["avx2", "amx_bf16"], "bf16"), (["avx512_bf16"], "bf16"), (["avx2", "avx512f"], "fp32"), ([], "fp32")],
)
def test_bfloat16_where_the_processor_has_it(
    features: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_features", lambda: features)
    found, why = choose_precision("auto", torch.device("cpu"))
    assert found == expected
    assert why
    assert choose_precision("fp32", torch.device("cpu")) == ("fp32", "asked for")
    assert choose_precision("bf16", torch.device("cpu")) == ("bf16", "asked for")


def test_a_strip_is_made_higher_and_shorter() -> None:
    long = replace(digits(), picture=PictureInfo(1, 20_000, 1, True))
    settings, why = choose_pictures(TrainConfig(), long, "resnet20")
    assert settings.picture_size == settings.input_size == (8, 64)
    assert "brought to what resnet20 takes" in why
    upright = replace(digits(), picture=PictureInfo(20_000, 7, 1, True))
    assert choose_pictures(TrainConfig(), upright, "resnet20")[0].input_size == (64, 8)


def test_autocast_computes_in_what_it_says() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(torch.device("cpu"), name):
            assert layer(x).dtype == dtype


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:", "cuda:-1", "CPU", "meta", ""):
        with pytest.raises(InputError, match="unknown device"):
            choose_device(name)
