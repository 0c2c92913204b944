"""Creating models by name, and what the two families say of themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from danlu.core.errors import InputError
from danlu.models import MODELS, create_model, list_models
from danlu.models.vision.lenet import LeNet5
from danlu.models.vision.resnet_cifar import CIFARResNet


def test_names_are_listed_without_torch() -> None:
    code = "import sys; from danlu.models import list_models; print(list_models()); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert {"lenet5", "resnet20", "resnet110"} <= set(eval(done.stdout))  # noqa: S307  # our own output


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"(?s)unknown model 'lenet-5'.*did you mean: lenet5"):
        create_model("lenet-5")
    with pytest.raises(InputError, match=r"did you mean: .*resnet20"):
        create_model("ResNet_20")


@pytest.mark.parametrize("name", ["danlu.models.vision.lenet:LeNet5", "os.system", "../lenet5"])
def test_a_path_is_no_name(name: str) -> None:
    """B3: what a config names is looked up in the registry, never imported."""
    with pytest.raises(InputError, match="unknown model"):
        create_model(name)


@pytest.mark.parametrize("key", ["num_classes", "in_channels"])
def test_counts_below_one(key: str) -> None:
    with pytest.raises(InputError, match=f"{key} = 0: must be at least 1"):
        create_model("lenet5", **{key: 0})


def test_published_facts() -> None:
    """The counts and errors the papers and their tables give, digit by digit."""
    counts = {name: (MODELS.get(name).parameters, MODELS.get(name).macs) for name in list_models()}
    assert counts["lenet5"] == (61_706, 416_520)
    published = {
        "resnet20": (269_722, "40.55", 8.75),
        "resnet32": (464_154, "68.86", 7.51),
        "resnet44": (658_586, "97.17", 7.17),
        "resnet56": (853_018, "125.49", 6.97),
        "resnet110": (1_727_962, "252.89", 6.43),
    }
    for name, (parameters, macs, error) in published.items():
        assert counts[name][0] == parameters
        assert f"{counts[name][1] / 1e6:.2f}" == macs
        assert MODELS.get(name).published.accuracy["CIFAR-10"] == pytest.approx(100 - error)


def test_lenet_says_why_it_wants_32_pixels() -> None:
    with pytest.raises(ValueError, match=r"(?s)28×28.*32×32 only: C5 .* 16×5×5.*pad or resize"):
        create_model("lenet5")(torch.zeros(1, 1, 28, 28))
    with pytest.raises(ValueError, match=r"(?s)3 channels.*built for 1.*in_channels=3"):
        create_model("lenet5")(torch.zeros(1, 3, 32, 32))


def test_resnet_says_why_it_wants_8_pixels() -> None:
    with pytest.raises(ValueError, match=r"(?s)7×32.*8×8 and larger"):
        create_model("resnet20")(torch.zeros(1, 3, 7, 32))


def test_lenet_starts_for_relu() -> None:
    torch.manual_seed(0)
    model = LeNet5()
    for layer, fan_in in ((model.c3, 150), (model.c5, 400), (model.f6, 120)):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_resnet_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    model = CIFARResNet(blocks=3)
    block = model.stage3[1]
    assert float(block.conv1.weight.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)  # type: ignore[union-attr]
    assert len(model.stage1) == len(model.stage2) == len(model.stage3) == 3
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if "shortcut" in name]  # option A has no parameters
    assert not [name for name in names if "conv" in name and name.endswith("bias")]


def test_reset_head_starts_afresh() -> None:
    for name, layer in (("lenet5", "output"), ("resnet20", "classifier")):
        torch.manual_seed(0)
        model = create_model(name).double()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model.reset_head(4)
        after = model.state_dict()
        assert model.num_classes == 4
        assert after[f"{layer}.weight"].shape[0] == 4
        assert after[f"{layer}.weight"].dtype == torch.float64
        assert not after[f"{layer}.bias"].any()
        assert all(torch.equal(after[key], before[key]) for key in before if not key.startswith(layer))
