"""`danlu models check` finds every kind of broken model, and `models show` reads its card from the code."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import danlu.models.vision.resnet_cifar as resnet
from danlu.core.errors import CheckFailed, InputError
from danlu.data.catalog import is_present
from danlu.models import MODELS, list_models
from danlu.models.base import Stage, Variant
from danlu.models.vision.lenet import LeNet5
from danlu.models.vision.resnet_cifar import BasicBlock, CIFARResNet
from danlu.proof import CHECKS, check_models, model_card, randomise, read_docstring
from danlu.proof.checks import agrees

SLOW = ("learns", "onnx")


def failing(variant: Variant) -> set[str]:
    """Return the names of the checks ``variant`` fails, the slow ones left out."""
    failed = set()
    for name, check in CHECKS.items():
        if name in ("onnx", "learns"):
            continue
        try:
            torch.manual_seed(0)
            check(variant)
        except (CheckFailed, RuntimeError, ValueError, KeyError):
            failed.add(name)
    return failed


def broken(name: str, model: Any = None, **changes: Any) -> Variant:
    variant = MODELS.get(name)
    return dataclasses.replace(variant, **({"model": model} if model else {}), **changes)


class DeadBranch(LeNet5):
    """F6 does not reach the output."""

    def head(self, x: Tensor) -> Tensor:
        x = F.relu(self.c5(x.flatten(1)))
        return self.output(F.relu(self.f6(x)) * 0 + 1)


class NeighboursMatter(LeNet5):
    def features(self, x: Tensor) -> dict[str, Tensor]:
        return super().features(x - x.mean(dim=0, keepdim=True))


class NotComposed(LeNet5):
    """Its forward drops a ReLU that its head has."""

    def forward(self, x: Tensor) -> Tensor:
        s4 = self.features(x)["s4"].flatten(1)
        return self.output(F.relu(self.f6(self.c5(s4))))


class Silent(LeNet5):
    """Takes any picture size and fails where it hurts."""

    def check_pictures(self, x: Tensor) -> None:
        return None


class Padded(LeNet5):
    """C1 with padding, as in the 28×28 variants people write: same parameters, other shapes and MACs."""

    stages = (Stage("c1", 6, 1), Stage("s2", 6, 2), Stage("c3", 16, 2), Stage("s4", 16, 4))

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.c1 = nn.Conv2d(self.in_channels, 6, 5, padding=2)
        self.c3 = nn.Conv2d(6, 16, 5, stride=1)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        self.check_pictures(x)
        out = {}
        x = out["c1"] = F.relu(self.c1(x))
        x = out["s2"] = F.max_pool2d(x, 2)
        x = out["c3"] = F.relu(self.c3(x))
        x = out["s4"] = F.adaptive_max_pool2d(x, 5)
        return out


class Extra(LeNet5):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spare = nn.Linear(3, 3)


class WrongStages(CIFARResNet):
    stages = (Stage("stem", 16, 1), Stage("stage1", 16, 1), Stage("stage2", 32, 4), Stage("stage3", 64, 4))


class SwappedStages(CIFARResNet):
    stages = (Stage("stem", 16, 1), Stage("stage2", 32, 2), Stage("stage1", 16, 1), Stage("stage3", 64, 4))


class FirstStageStrided(CIFARResNet):
    """Stride 2 in stage1 instead of stage2: the same parameters."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.stage1[0] = BasicBlock(16, 16, 2)
        self.stage2[0] = BasicBlock(16, 32, 1)


class Forgets(LeNet5):
    """Keeps something that no state dict holds."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.gain = float(torch.rand(()))

    def head(self, x: Tensor) -> Tensor:
        return super().head(x) * self.gain


def test_the_registered_ones_fail_nothing() -> None:
    assert failing(MODELS.get("lenet5")) == failing(MODELS.get("resnet20")) == set()


@pytest.mark.parametrize(
    ("variant", "checks"),
    [
        (broken("lenet5", parameters=61_705), {"parameters"}),
        (broken("lenet5", macs=416_521), {"macs"}),
        (broken("lenet5", DeadBranch), {"gradients"}),
        (broken("lenet5", NeighboursMatter), {"batch_independence"}),
        (broken("lenet5", NotComposed), {"composition", "parity"}),
        (broken("lenet5", Silent), {"input"}),
        (broken("lenet5", Padded), {"macs"}),
        (broken("lenet5", Extra), {"parameters", "gradients"}),
        (broken("lenet5", Forgets), {"state_dict"}),
        (broken("lenet5", paper=dataclasses.replace(MODELS.get("lenet5").paper, year=1989)), {"docstring"}),
        (broken("resnet20", WrongStages), {"stages"}),
        (broken("resnet20", SwappedStages), {"stages"}),
        (broken("resnet20", FirstStageStrided), {"stages", "macs", "parity"}),
        (broken("resnet20", arguments={"blocks": 4}), {"parameters", "macs"}),
        (
            broken(
                "resnet20",
                mapping=dataclasses.replace(resnet.VARIANTS[0].mapping, rename=lambda name: name[-9:]),
            ),
            {"mapping", "parity"},
        ),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else None,
)
def test_a_broken_model_is_found(variant: Variant, checks: set[str]) -> None:
    assert checks <= failing(variant)


class Unexportable(LeNet5):
    """Computes one thing in ONNX and another in PyTorch."""

    def head(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            x = x * 1.01
        return super().head(x)


def test_an_export_that_differs_is_found() -> None:
    with pytest.raises(CheckFailed, match="ONNX at batch 3: differs by"):
        CHECKS["onnx"](broken("lenet5", Unexportable))


class Stuck(LeNet5):
    """Starts with weights so small that nothing reaches the first layer."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


@pytest.mark.skipif(not is_present("mnist"), reason="danlu data get mnist")
def test_what_does_not_learn_is_found() -> None:
    with pytest.raises(CheckFailed, match="% of 512 pictures after 120 steps"):
        CHECKS["learns"](broken("lenet5", Stuck))


@pytest.mark.parametrize(
    ("published", "exact", "same"),
    [
        ("25,557,032", 25_557_032, True),
        ("25,557,032", 25_557_033, False),
        ("25.6 M", 25_557_032, True),
        ("25.5 M", 25_557_032, True),  # some papers cut
        ("25.4 M", 25_557_032, False),
        ("25.7 M", 25_557_032, False),
        ("4.0892 G", 4_089_184_256, True),
        ("4.1 G", 4_089_184_256, True),
        ("4 G", 4_089_184_256, True),
        ("46.4 M", 46_440_000, True),
    ],
)
def test_published_digits(published: str, exact: int, same: bool) -> None:
    assert agrees(published, exact) is same


def test_a_published_text_that_is_no_number() -> None:
    with pytest.raises(CheckFailed, match="is not like"):
        agrees("about 25 million", 25_557_032)


def test_rows() -> None:
    state = torch.random.get_rng_state()
    (row,) = check_models(["resnet20"], skip=SLOW)
    assert row["ok"]
    assert row["why"] == ""
    assert (row["model"], row["parameters"], row["macs"]) == ("resnet20", 269_722, 40_551_040)
    assert set(row["checks"]) == set(CHECKS) - set(SLOW)
    assert set(row["checks"].values()) == {"ok"}
    assert row["stages"][2] == {"name": "stage2", "channels": 32, "stride": 2, "output": [1, 32, 16, 16]}
    assert len(row["source_hash"]) == 64
    assert torch.equal(torch.random.get_rng_state(), state)
    json.dumps(row)


def test_a_row_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._things, "lenet5", broken("lenet5", DeadBranch, macs=1))
    (row,) = check_models(["lenet5"], skip=SLOW)
    assert not row["ok"]
    assert "macs: MACs: 416520, expected 1" in row["why"]
    assert "gradients: no gradient for" in row["why"]

    class Crashes(LeNet5):
        def features(self, x: Tensor) -> dict[str, Tensor]:
            raise RuntimeError("boom")

    monkeypatch.setitem(MODELS._things, "lenet5", broken("lenet5", Crashes))
    (row,) = check_models(["lenet5"], skip=SLOW)
    assert "output: RuntimeError: boom" in row["why"]
    assert row["stages"][0]["output"] == []


def test_unknown_names_before_any_work() -> None:
    with pytest.raises(InputError, match="did you mean"):
        check_models(["lenet5", "resnet2O"])


def test_randomise_hides_no_branch() -> None:
    model = randomise(MODELS.get("resnet20").build())
    for name, tensor in model.state_dict().items():
        assert tensor.any(), name
        if name.endswith(("norm1.weight", "norm2.weight", "running_var")):
            assert 0.5 <= float(tensor.min()) <= float(tensor.max()) <= 1.5
    same, other = (randomise(MODELS.get("resnet20").build(), seed) for seed in (0, 1))
    assert torch.equal(same.stem_conv.weight, model.stem_conv.weight)
    assert not torch.equal(other.stem_conv.weight, model.stem_conv.weight)


@pytest.mark.parametrize("name", list_models())
def test_card(name: str) -> None:
    card = model_card(name)
    variant = MODELS.get(name)
    assert card["title"] == variant.paper.title
    assert card["authors"].split(",")[0].split()[-1] == variant.paper.authors.split(",")[0].removesuffix(" et al.")
    assert card["year"] == variant.paper.year
    assert card["deviations"]
    assert all(line and not line.startswith("-") for line in card["deviations"])
    assert card["stages"][0]["output"]
    assert card["parameters"] == variant.parameters
    json.dumps(card)


def test_docstring_fields() -> None:
    text = """One line.

    Title: A
    Authors: B, C
    Year: 2020
    Link: https://d
    New: it goes on
      over two lines
    Table: 1

    Deviations:
    - first, which is
      long
    - second
    """
    fields = read_docstring(text)
    assert fields["New"] == "it goes on over two lines"
    assert fields["Deviations"].split("\n") == ["- first, which is long", "- second"]
    assert read_docstring(text.split("- first")[0].replace("Deviations:", "Deviations: none"))["Deviations"] == "none"
    with pytest.raises(CheckFailed, match="does not say: Year, Deviations"):
        read_docstring(text.replace("    Year: 2020\n", "").split("Deviations:")[0])
