"""INT8 to a stated drop: the rule that validation chooses, layers that go back to float and why, whether it pays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from danlu.compress.calibrate import CALIBRATIONS
from danlu.core.errors import CheckFailed, InputError
from danlu.core.settings import apply_overrides
from danlu.data.load import Data
from danlu.deploy import int8
from danlu.deploy.capture import capture
from danlu.deploy.export import export
from danlu.deploy.int8 import Int8Settings, fewest
from danlu.tasks.trained import Trained
from tests.deploy.test_export import with_outlier


@pytest.mark.parametrize("most", range(9))
def test_fewest_is_the_least_count_that_holds(most: int) -> None:
    for least in range(1, most + 2):
        asked: list[int] = []

        def holds(count: int, least: int = least, asked: list[int] = asked) -> bool:
            asked.append(count)
            return count >= least

        assert fewest(most, holds) == (least if least <= most else None)
        assert all(1 <= count <= most for count in asked)
        assert len(asked) <= 8


@pytest.fixture
def unfit(tiny: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """A network whose second convolution cannot be quantised."""
    made = with_outlier(tiny)
    graph = capture(made)
    monkeypatch.setattr("danlu.deploy.export.capture", lambda trained: graph)
    return made


def test_the_layer_that_hurts_goes_back_to_float(unfit: Trained, data: Data) -> None:
    found = export(unfit, data, int8=True, quantising=Int8Settings(max_drop=0.3), threads=1)
    proof, told = found["parity"]["int8"], found["export"]["quantisation"]
    assert proof["delivered"]
    assert -100 * proof["validation"]["accuracy_difference"] <= 0.3
    assert told["max_drop"] == 0.3
    assert [row["layer"] for row in told["float"]] == list(told["float_layers"]) != []
    assert told["float_layers"][0] == told["sensitivity"][0]["layer"] == "conv2"
    assert "dB of signal to noise" in told["float"][0]["reason"]
    snr = [row["snr_db"] for row in told["sensitivity"]]
    assert snr == sorted(snr)
    assert snr[0] < snr[1] - 10
    assert told["tried"][0]["float_layers"] == 0
    assert told["tried"][0]["drop"] > 0.3
    # What was measured is what was delivered.
    counts = {row["float_layers"]: row["drop"] for row in told["tried"]}
    assert counts[len(told["float_layers"])] == pytest.approx(
        -100 * proof["validation"]["accuracy_difference"], abs=1e-3
    )


def test_no_layer_goes_back_where_the_drop_holds(tiny: Trained, captured: Any, data: Data) -> None:
    found = export(tiny, data, quantising=Int8Settings(max_drop=5.0), threads=1)
    told = found["export"]["quantisation"]
    assert (told["float_layers"], told["sensitivity"], len(told["tried"])) == ([], [], 1)


def test_a_drop_that_cannot_hold_is_said(unfit: Trained, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = int8._measure
    monkeypatch.setattr(int8, "_measure", lambda *args: (measure(*args)[0] - 0.9, 0.0))
    found = export(unfit, data, quantising=Int8Settings(max_drop=0.3), threads=1)
    assert not found["parity"]["int8"]["delivered"]
    assert "by more than 0.3 points" in found["parity"]["int8"]["reason"]
    with pytest.raises(CheckFailed, match=r"0\.3 points"):
        export(unfit, data, int8=True, quantising=Int8Settings(max_drop=0.3), threads=1)


def test_validation_chooses_the_rule(tiny: Trained, captured: Any, data: Data) -> None:
    found = export(tiny, data, quantising=Int8Settings(calibration="auto", pictures=64), threads=1)
    told = found["export"]["quantisation"]
    assert [row["rule"] for row in told["rules"]] == list(CALIBRATIONS)
    best = max(told["rules"], key=lambda row: (row["accuracy"], row["snr_db"]))
    assert told["method"] == best["rule"]
    assert told["pictures"] == 64
    with pytest.raises(InputError):
        apply_overrides(Int8Settings(), {"calibration": "best"})
    with pytest.raises(InputError):
        apply_overrides(Int8Settings(), {"max_drop": -1})


@pytest.mark.parametrize(("slow", "warned"), [(3.0, True), (1 / 3, False)])
def test_a_warning_with_figures_where_int8_is_slower(
    slow: float,
    warned: bool,
    tiny: Trained,
    captured: Any,
    data: Data,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    quick: Callable[..., Any] = int8.OnnxRuntime.predict

    def predict(self: Any, *args: Any) -> Any:
        clock[0] += 1e-3 * (slow if b"QuantizeLinear" in self._model else 1.0)
        return quick(self, *args)

    monkeypatch.setattr(int8.OnnxRuntime, "predict", predict)
    monkeypatch.setattr(int8, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    with caplog.at_level(logging.WARNING, "danlu"):
        speed = export(tiny, data, threads=1)["export"]["quantisation"]["speed"]
    assert speed["speedup"] == pytest.approx(1 / slow)
    assert (speed["int8_ms"], speed["fp32_ms"]) == pytest.approx((slow, 1.0))
    said = [record.getMessage() for record in caplog.records if "slower than float32" in record.getMessage()]
    assert bool(said) == warned
    assert not warned or "3.000 ms against 1.000 ms" in said[0]
    assert np.isfinite(speed["low"])
