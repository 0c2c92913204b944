"""Quantisation-aware training: packed bits on disk, folded norms, a fresh process that answers bit for bit."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from danlu.compress import qat
from danlu.compress.base import Compressed, Subject
from danlu.compress.dlz import open_dlz, write_dlz
from danlu.compress.edits.quantise import Quantised, pack, plain, quantise, quantised_layers, unpack
from danlu.compress.qat import Qat, QatSettings, plan_layers
from danlu.compress.retrain import validate
from danlu.core.errors import InputError
from tests.compress.subjects import subject

NETWORKS = ("lenet5", "resnet20", "mobilenet_v2_cifar", "vit_s_16")


def apply(network: Subject, **settings: Any) -> Compressed:
    with network.settled():
        return Qat().apply(network, QatSettings(**{"epochs": 0, "calibrate": 32, **settings}))


def pictures(network: Subject, count: int = 16) -> torch.Tensor:
    return qat._pictures(network, count)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packing_is_a_round_trip_of_exactly_these_bits(bits: int) -> None:
    for count in (1, 2, 3, 4, 5, 33):
        whole = torch.from_numpy(np.random.default_rng(count).integers(0, 2**bits, count).astype(np.uint8))
        packed = pack(whole, bits)
        assert packed.numel() == -(-count * bits // 8)
        assert torch.equal(unpack(packed, bits, count), whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_rounded_saved_and_read_again(name: str, tmp_path: Path) -> None:
    network = subject(name)
    x = pictures(network)
    reference = network.model(x).detach()
    done = apply(network, bits=8, ranges="lsq")
    answer = done.model(x).detach()
    assert (answer - reference).abs().max() < 0.2 * reference.abs().max() > 0
    assert not torch.equal(answer, reference)
    path = tmp_path / "网络.dlz"
    write_dlz(path, network, done, "qat", {})
    again = open_dlz(path)
    assert torch.equal(again.model(x), answer)
    layers = [name for name, _ in quantised_layers(again.model)]
    assert layers == [name for name, _ in quantised_layers(done.model)]
    assert len(layers) + len(done.report["float"]) >= 4
    assert not [row for row in done.report["float"] if not row["reason"]]
    assert done.report["weight_bytes"] < path.stat().st_size


@pytest.mark.parametrize(("ranges", "bits"), list(itertools.product(("lsq", "pact", "minmax"), (8, 4, 2))))
def test_a_trained_network_answers_alike_before_and_after_it_is_packed(
    ranges: Any, bits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = subject("resnet20")
    x = pictures(network)
    seen: dict[str, Any] = {}
    deploy = qat._deploy

    def watch(model: nn.Module, plan: Any, counts: Any) -> Any:
        seen["answer"] = model.eval()(x).detach()
        return deploy(model, plan, counts)

    monkeypatch.setattr(qat, "_deploy", watch)
    done = apply(network, bits=bits, ranges=ranges, epochs=2, frozen=1)
    answer = done.model(x).detach()
    # A value at the edge between two integers may fall to the other side when a norm is folded.
    close = (answer - seen["answer"]).abs().amax(1) <= 1e-3 * seen["answer"].abs().max()
    assert close.float().mean() >= 0.5
    assert len(done.report["folded"]) == sum(isinstance(m, nn.Identity) for m in done.model.modules()) > 5
    path = tmp_path / "a.dlz"
    coded = write_dlz(path, network, done, "qat", {})
    state = done.model.state_dict()
    inner = [row for row in done.report["layers"] if row["bits"] == bits and row["layer"] != "classifier"]
    for row in inner:
        assert state[f"{row['layer']}.codes"].numel() == -(-row["weights"] * bits // 8)
    assert sum(len(one.payload) for one in coded.values()) < sum(row["weights"] for row in done.report["layers"]) * 8
    ends = [row["bits"] for row in done.report["layers"]]
    assert (ends[0], ends[-1]) == (8, 8)
    assert ends[1:-1] == [bits] * (len(ends) - 2)


def test_training_moves_ranges_and_weights_and_helps(tmp_path: Path) -> None:
    network = subject("lenet5", count=256)
    reference = copy.deepcopy(network.model)
    rounded = apply(subject("lenet5", count=256), bits=2)
    trained = apply(network, bits=2, epochs=6, optimizer={"name": "sgd", "lr": 0.05})
    before, after = (done.report["layers"][1]["input_step"] for done in (rounded, trained))
    assert before != after
    with network.settled():
        scores = [validate(network, model)["accuracy"] for model in (rounded.model, trained.model)]
        assert validate(network, reference)["accuracy"] < 0.4
    assert scores[1] > scores[0] + 0.1
    assert [row["accuracy"] for row in trained.report["epochs"]][-1] == pytest.approx(scores[1], abs=0.02)


def test_frozen_statistics_do_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    network = subject("resnet20", count=64)
    states: list[torch.Tensor] = []
    retrain = qat.retrain

    def watch(*args: Any, **kwargs: Any) -> Any:
        states.append(cast(Any, network.model).stem_norm.running_mean.clone())
        return retrain(*args, **kwargs)

    monkeypatch.setattr(qat, "retrain", watch)
    monkeypatch.setattr(
        qat, "_deploy", lambda model, *rest: states.append(model.stem_norm.running_mean.clone()) or _stop()
    )
    with pytest.raises(StopIteration):
        apply(network, epochs=2, frozen=1)
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[2])


def _stop() -> None:
    raise StopIteration


def test_layers_that_read_one_tensor_share_its_range() -> None:
    network = subject("resnet18_cifar")
    plan = plan_layers(network.model, pictures(network, 2))
    assert plan.shared
    done = apply(network)
    rows = {row["layer"]: row for row in done.report["layers"]}
    for name, first in plan.shared.items():
        assert rows[name]["input_step"] == rows[first]["input_step"]


def test_a_norm_that_cannot_be_folded_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return (self.norm(y) + y).mean((2, 3))  # the output of the convolution is needed as it is

    torch.manual_seed(0)
    net = Net().eval()
    net.norm.running_mean.add_(0.5)  # type: ignore[operator]
    assert plan_layers(net, torch.randn(2, 1, 8, 8)).norms == {}


def test_plain_layers_answer_with_the_same_weights() -> None:
    network = subject("lenet5")
    done = apply(network, bits=4)
    layers = dict(quantised_layers(done.model))
    weights = {name: layer.weight.clone() for name, layer in layers.items()}
    for layer in layers.values():
        plain(cast(nn.Module, layer))
    assert not any(isinstance(module, Quantised) for module in done.model.modules())
    found = dict(done.model.named_parameters())
    for name, weight in weights.items():
        assert torch.equal(found[f"{name}.weight"], weight)
        assert len(torch.unique(weight[0])) <= 256
    assert done.model(pictures(network)).shape == (16, 10)


def test_a_fresh_process_answers_bit_for_bit(tmp_path: Path) -> None:
    network = subject("lenet5")
    done = apply(network, bits=4, epochs=1)
    x = pictures(network, 4)
    write_dlz(tmp_path / "a.dlz", network, done, "qat", {})
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import sys, torch, numpy; from danlu.compress.dlz import open_dlz; torch.set_num_threads(1)\n"
        "y = open_dlz(sys.argv[1]).model(torch.from_numpy(numpy.load(sys.argv[2])))\n"
        "print(y.detach().numpy().tobytes().hex())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.dlz"), str(tmp_path / "x.npy")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    with network.settled():
        assert told.stdout.strip() == done.model(x).detach().numpy().tobytes().hex()


def test_bad_input() -> None:
    network = subject("lenet5")
    with pytest.raises(InputError, match="no layer that can be quantised"):
        apply(network, skip=["nowhere"])
    with pytest.raises(InputError, match="has no layer that can be quantised"):
        names = plan_layers(network.model, pictures(network, 2)).layers
        apply(network, skip=names)
    for layers, what in (({"x": [8, 8]}, "no layer"), ({"conv1": [3, 8]}, "has bits"), ({"conv1": [8]}, "has bits")):
        name = names[0] if "conv1" in layers else "x"
        with pytest.raises(InputError, match=what):
            quantise(subject("lenet5").model, {name: next(iter(layers.values()))})
    with pytest.raises(InputError, match="no batch norm"):
        quantise(subject("lenet5").model, {}, folded=[names[0]])
    with pytest.raises(InputError, match="not quantised"):
        quantise(subject("lenet5").model, {}, biases=[names[0]])
    model = subject("lenet5").model
    quantise(model, {names[0]: [8, 8]})
    with pytest.raises(InputError, match="which is not quantised"):
        quantise(model, {names[0]: [8, 8]})


def test_the_report_is_plain_json() -> None:
    report = apply(subject("lenet5"), bits=4).report
    assert json.loads(json.dumps(report)) == report
    assert report["layers"][1].keys() >= {"layer", "bits", "input_bits", "bytes", "weights", "input_step"}
