"""The analysis of a network: its table adds up, its times are taken, a run's record gets its section."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import danlu.analyze
from danlu.analyze import analyze, analyze_run, measure
from danlu.core.errors import InputError
from danlu.core.records import RunFolder
from danlu.models import create_model
from danlu.report import build_report
from danlu.single import analyze_any
from tests.evaluate.fabricated import make_data, make_run


@pytest.mark.parametrize(
    ("name", "parameters", "macs"), [("lenet5", 61_706, 416_520), ("resnet20", 269_722, 40_551_040)]
)
def test_the_table_adds_up(name: str, parameters: int, macs: int) -> None:
    analysis = analyze(name, repeats=3)
    assert (analysis.parameters, analysis.macs) == (parameters, macs)
    assert sum(layer.parameters for layer in analysis.layers) == parameters
    assert sum(layer.macs for layer in analysis.layers) == macs
    assert sum(layer.activation_bytes for layer in analysis.layers) == analysis.activation_bytes
    assert analysis.peak_activation_bytes < analysis.activation_bytes
    assert analysis.seconds is not None
    assert analysis.seconds > 0
    assert all(layer.seconds is not None and layer.seconds >= 0 for layer in analysis.layers)
    json.dumps(analysis.to_record(), allow_nan=False)


def test_lenet_layer_by_layer() -> None:
    """Section II-B of the paper: maps and connections of the modern form."""
    analysis = analyze("lenet5", timed=False)
    rows = {layer.name: (layer.type, layer.output, layer.parameters, layer.macs) for layer in analysis.layers}
    assert rows == {
        "": ("LeNet5", [1, 10], 0, 0),
        "c1": ("Conv2d", [1, 6, 28, 28], 156, 117_600),
        "c3": ("Conv2d", [1, 16, 10, 10], 2_416, 240_000),
        "c5": ("Linear", [1, 120], 48_120, 48_000),
        "f6": ("Linear", [1, 84], 10_164, 10_080),
        "output": ("Linear", [1, 10], 850, 840),
    }
    assert [stage["output"] for stage in analysis.stages] == [
        [1, 6, 28, 28],
        [1, 6, 14, 14],
        [1, 16, 10, 10],
        [1, 16, 5, 5],
    ]
    assert analysis.input == [1, 1, 32, 32]
    assert analysis.weight_bytes == 4 * 61_706
    assert analysis.seconds is None
    assert analysis.layers[1].seconds is None


def test_weight_bytes_include_buffers() -> None:
    model = nn.BatchNorm2d(8)
    analysis = analyze(model, (1, 8, 4, 4), timed=False)
    assert analysis.weight_bytes == 4 * 4 * 8 + 8
    assert analysis.parameters == 16


def test_a_module_that_never_ran_is_listed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    rows = {layer.name: layer for layer in analyze(Net(), (1, 4), timed=False).layers}
    assert (rows["idle"].parameters, rows["idle"].macs, rows["idle"].output) == (15, 0, [])
    assert "" not in rows  # the network itself does nothing


class Clock:
    """A clock that only moves when told, so that no neighbour on the machine can."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Busy(nn.Module):
    """Takes ``seconds`` by the clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds
        return x + 1


class Nested(nn.Module):
    """Takes 20 ms itself and twice 15 ms in its child."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.child = clock, Busy(clock, 0.015)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 0.02
        return self.child(self.child(x))


def test_times_are_a_modules_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("danlu.analyze.timing.time", clock)
    timing = measure(Nested(clock), torch.zeros(1), repeats=5, warmup=1)
    assert timing.modules["child"] == pytest.approx(0.03)
    assert timing.modules[""] == pytest.approx(0.02)
    assert timing.seconds == pytest.approx(0.05)
    assert timing.repeats == 5


def test_times_leave_the_network_alone() -> None:
    model = create_model("resnet20").train()
    model.stage1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    timing = measure(model, torch.randn(1, 3, 32, 32), threads=threads + 1, repeats=2, warmup=1)
    assert timing.threads == threads + 1
    assert torch.get_num_threads() == threads
    assert model.training
    assert not model.stage1.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_times_leave_the_network_alone_when_it_fails() -> None:
    model = create_model("resnet20").train()
    threads = torch.get_num_threads()
    with pytest.raises(InputError):
        measure(model, torch.randn(1, 1, 32, 32), threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert model.training


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"unknown model 'resnet2'"):
        analyze("resnet2")
    with pytest.raises(InputError, match=r"(?s)Linear: has no input size.*give the input"):
        analyze(nn.Linear(3, 4))
    with pytest.raises(InputError, match="each at least 1"):
        analyze("resnet20", (1, 3, 0, 32))
    with pytest.raises(InputError, match="4 channels"):
        analyze("resnet20", (1, 4, 32, 32))
    for wrong in ({"repeats": 0}, {"threads": 0}):
        with pytest.raises(InputError, match="1 and more of each"):
            analyze("lenet5", **wrong)


def test_the_verb_keeps_what_it_finds_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make_run(path, make_data(), "lenet5")
    found = analyze_any(str(path), threads=1)
    assert RunFolder(path).read_record()["analysis"] == found.to_record()
    text = (path / "report.html").read_text(encoding="utf-8")
    assert "<code>danlu analyze RUN</code>" not in text
    assert "<code>danlu export RUN</code>" in text
    (path / "report.html").unlink()
    assert build_report(str(path)) == path / "report.html"
    kept = RunFolder(path).read_record()
    assert analyze_any(str(path), (1, 1, 32, 32), threads=1).macs == found.macs
    assert RunFolder(path).read_record() == kept


def test_input_of_a_fixed_network_is_known() -> None:
    assert analyze(create_model("lenet5", in_channels=3), timed=False).input == [1, 3, 32, 32]


@pytest.mark.parametrize("model", ["lenet5", "resnet20"])
def test_a_run(tmp_path: Path, model: str) -> None:
    path = tmp_path / "run"
    make_run(path, make_data(), model)
    analysis = analyze_run(path, repeats=2)
    assert analysis.model == model
    assert analysis.input == [1, 1, *((32, 32) if model == "lenet5" else (12, 12))]
    assert RunFolder(path).read_record()["analysis"] == analysis.to_record()
    again = danlu.analyze(str(path), timed=False)
    assert (again.model, again.macs, again.input) == (model, analysis.macs, analysis.input)
    for same in (path, RunFolder(path)):
        assert danlu.analyze(same, timed=False) == again
    (path / "record.json").unlink()
    analyze_run(path, repeats=1, write=False)
    assert not (path / "record.json").exists()
