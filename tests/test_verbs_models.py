"""`danlu models list` keeps what is asked for, and says what it did not understand."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.core.errors import InputError
from danlu.models import MODELS
from danlu.verbs.models import models_list, models_show


def names(*pattern: str, **filters: Any) -> list[str]:
    return [row["name"] for row in models_list(*pattern, **filters).document]


def test_all_are_listed() -> None:
    assert names() == MODELS.names()


def test_filters() -> None:
    assert names("lenet5") == ["lenet5"]
    assert set(names("resnet??")) >= {"resnet20", "resnet32", "resnet18"}
    assert "mobilenet_v2" in names("mobilenetv2"), "other names count"
    for row in models_list(min_parameters="250k", max_parameters="1M", max_macs="0.1G", year="2015-2016").document:
        assert 250_000 <= row["parameters"] <= 1_000_000
        assert row["macs"] <= 100_000_000
        assert row["year"] in ("2015", "2016")
    assert set(names(year="-1998")) >= {"lenet5"}
    assert "lenet5" not in names(year="1999-")
    assert "resnet20" in names(year="2015")
    assert names(min_macs="1e9".replace("e9", "000_000_000"), max_macs="1,000,000,000") == []


def test_picture_sizes() -> None:
    assert "lenet5" in names(picture_size=32)
    assert "lenet5" not in names(picture_size=28), "it takes 32×32 only"
    assert "resnet20" in names(picture_size=28)
    assert "resnet20" not in names(picture_size=7)


def test_nothing_left() -> None:
    output = models_list("no such network")
    assert output.document == []
    assert output.text == "no network is like that"


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"year": "20x"}, "--year '20x'"),
        ({"year": "2015-16"}, "--year"),
        ({"max_parameters": "lots"}, "--max-parameters 'lots' is no number"),
        ({"min_macs": "-5"}, "--min-macs"),
        ({"task": "clasification"}, "did you mean: classification"),
    ],
)
def test_what_is_not_understood(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        models_list(**filters)


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_a_card_has_words_for_everything(name: str) -> None:
    text = models_show(name).text
    for words in ("paper", "what was new", "parameters", "published accuracy", "parity", "learns", "ONNX", "stages"):
        assert words in text
    assert "None" not in text
