"""The functions of ``import danlu`` one after another, as a notebook calls them: by names, and by what came before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import danlu
from danlu.core.errors import InputError
from danlu.core.records import RunFolder
from danlu.deploy import benchmark


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("functions") / "run"
    # Another seed than the usual one: what takes a name must split the data as this run did.
    return danlu.train("digits", overrides={"epochs": 1}, seed=3, threads=1, device="cpu", out=out)


def test_each_takes_what_training_returned_and_a_name_of_data(run: RunFolder) -> None:
    assert danlu.evaluate(run, "digits")["results"]["test"]["accuracy"]["n"] > 0
    found = danlu.export(run, "digits", int8=False, threads=1)
    assert found["parity"]["fp32"]["validation"]["passed"]
    assert danlu.parity(run, run.path / "model.onnx", "digits", threads=1)["passed"]
    assert danlu.compress(run, "entropy", data="digits", overrides={"epochs": 1}, threads=1)["bytes"] > 0
    assert danlu.resume(run).path == run.path


def test_a_benchmark_is_fed_the_pictures_the_run_did_not_see(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fed = []
    real = benchmark.pictures_of
    monkeypatch.setattr(benchmark, "pictures_of", lambda data, *rest: fed.append(data) or real(data, *rest))
    danlu.bench(run, "digits", seconds=0.2, repeats=6, threads=1)
    assert fed[0].validation.ids == danlu.load_data("digits", seed=3).validation.ids


def test_what_was_stopped_goes_on_with_a_name_of_data(tmp_path: Path) -> None:
    def stop(training: Any) -> None:
        raise KeyboardInterrupt

    asked: dict[str, Any] = {"overrides": {"epochs": 2}, "threads": 1, "device": "cpu", "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        danlu.train("digits", seed=np.int64(3), after_epoch=stop, **asked)
    assert danlu.resume(tmp_path / "run", data="digits").read_record()["train"]["epochs"] == 2


@pytest.mark.parametrize("seed", [2**63, -1, 1.5, "1", None, True])
def test_what_is_no_seed_is_refused(seed: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)seed = .*0 to 2\*\*63 - 1"):
        danlu.load_data("digits", seed=seed)
    with pytest.raises(InputError, match="seed = "):
        danlu.train(danlu.load_data("digits"), seed=seed, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", [None, 5, ["digits"]])
def test_what_is_no_data_is_refused(data: Any, run: RunFolder) -> None:
    for call in (danlu.train, lambda it: danlu.export(run, it), lambda it: danlu.parity(run, run, it)):
        with pytest.raises(InputError, match="is not data"):
            call(data)
