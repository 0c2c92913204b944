"""A whole tiny run: what stands in the folder, the same seed twice, interrupted in this process and resumed."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danlu.train
from danlu import pipeline
from danlu.core.errors import InputError, Stopped
from danlu.core.records import RunFolder
from danlu.tasks.trained import open_trained
from danlu.train import resume
from danlu.train.loop import Training
from tests.train.helpers import TINY, curve, digits, hashes, listing, run_tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_tiny(tmp_path_factory.mktemp("run") / "one")


def test_the_config_says_what_was_asked_and_what_took_effect(finished: RunFolder) -> None:
    config = finished.read_config()
    effective = config["effective"]
    assert config["requested"]["model"] == "lenet5"
    assert config["requested"]["set"] == TINY
    assert effective["model"] == {"name": "lenet5", "num_classes": 10, "in_channels": 1}
    machine = {"device": "cpu", "threads": 1, "precision": "fp32", "channels_last": True, "kernels": {}, "fused": []}
    assert effective["machine"] == machine
    assert effective["train"]["optimizer"]["nesterov"] is True
    assert effective["train"]["epochs"] == 2
    assert effective["data"]["hash"] == digits().hash
    assert effective["preprocess"]["picture_size"] == [8, 8]
    assert set(config["why"]) >= {"model", "recipe", "precision", "threads", "picture_size"}


def test_the_log_holds_steps_and_epochs(finished: RunFolder) -> None:
    entries = finished.read_log()
    steps = [entry for entry in entries if entry["kind"] == "step"]
    epochs = [entry for entry in entries if entry["kind"] == "epoch"]
    assert [entry["step"] for entry in steps] == list(range(1, 39))
    assert [entry["epoch"] for entry in epochs] == [0, 1]
    assert epochs[-1]["step"] == 38
    for entry in epochs:
        assert {"loss", "accuracy"} <= entry["train"].keys()
        assert {"loss", "accuracy"} <= entry["validation"].keys()
        assert entry["seconds"] > 0
        assert entry["pictures_per_second"] > 0
        assert 0 < entry["data_share"] < 1
        assert entry["memory"] > 2**20
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert epochs[-1]["validation"]["accuracy"] > 0.5


def test_the_record_holds_data_environment_and_training(finished: RunFolder) -> None:
    record = finished.read_record()
    assert record["data"]["hash"] == digits().hash
    assert record["environment"]["threads"] == 1
    assert record["environment"]["packages"]["torch"]
    train = record["train"]
    assert train["epochs"] == 2
    assert train["steps"] == 38
    assert train["resumed"] == 0
    assert train["best"]["accuracy"] == max(e["validation"]["accuracy"] for e in finished.read_log() if "train" in e)


def test_the_augmented_batch_is_a_picture(finished: RunFolder) -> None:
    with Image.open(finished.pictures / "augmented.png") as picture:
        assert picture.size[0] > 400
        assert picture.mode == "RGB"


def test_the_trained_network_opens_and_predicts(finished: RunFolder) -> None:
    trained = open_trained(finished.path)
    validation = digits().validation
    pictures = np.stack([validation[i].picture for i in range(len(validation))])
    with torch.no_grad():
        found = trained.picture_model(torch.from_numpy(pictures)).argmax(1).numpy()
    logged = finished.read_record()["train"]["best"]["accuracy"]
    assert (found == validation.labels).mean() == pytest.approx(logged)


def test_b59_the_same_seed_gives_the_same_weights_and_another_does_not(finished: RunFolder, tmp_path: Path) -> None:
    torch.manual_seed(1234)  # what others did to torch's generator must not matter
    np.random.seed(5)
    same = run_tiny(tmp_path / "same")
    assert hashes(same) == hashes(finished)
    assert curve(same) == curve(finished)
    other = run_tiny(tmp_path / "other", seed=1)
    assert hashes(other) != hashes(finished)


def test_training_leaves_the_callers_torch_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run_tiny(tmp_path / "run", overrides={"epochs": 1}, threads=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_finished_run_is_left_as_it_is(finished: RunFolder) -> None:
    before = listing(finished.path)
    assert resume(finished.path).path == finished.path
    assert listing(finished.path) == before


def _stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process SIGTERM from within step ``step``, once."""
    original = Training.do_step

    def do_step(self: Training, batch: Any, lr: float, number: int) -> Any:
        if number == step:
            monkeypatch.setattr(Training, "do_step", original)
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, lr, number)

    monkeypatch.setattr(Training, "do_step", do_step)


FEATURES = {
    "plain": {},
    "average and clipping": {"ema": 0.9, "clip": 0.5, "label_smoothing": 0.1},
    "no momentum": {"optimizer.momentum": 0.0, "optimizer.nesterov": False},
    "bfloat16": {"precision": "bf16"},
    "float16 with a scaled loss": {"precision": "fp16"},
    "another loss, another start": {
        "loss.kind": "sigmoid",
        "loss.focal": 2.0,
        "loss.class_weights": "effective",
        "init.name": "lsuv",
    },
    "mixed, repeated, in parts": {
        "augment": [{"name": "pad_crop", "padding": 1}, {"name": "mixup_or_cutmix", "per": "sample"}],
        "repeats": 2,
        "accumulate": 2,
    },
}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_b51_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: dict[str, Any]
) -> None:
    whole = run_tiny(tmp_path / "whole", overrides=features)
    parts = tmp_path / "parts"
    # In the midst of the first epoch, at its last step, and in the second epoch.
    for number, step in enumerate((4, 18, 30)):
        _stop_at(monkeypatch, step)
        with pytest.raises(Stopped) as caught:
            run_tiny(parts, overrides=features) if number == 0 else resume(parts)
        assert caught.value.exit_code == 143
    run = resume(parts)
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)
    assert run.read_record()["train"]["resumed"] == 3
    # Scaled losses may overflow too; that those steps are counted alike, whole or in parts, the record says.
    said = [entry["what"] for entry in run.read_log() if entry["kind"] == "event"]
    assert [what for what in said if what != "left out"] == ["stop", "resume"] * 3
    assert run.read_record()["train"]["left_out"] == whole.read_record()["train"]["left_out"]


def test_stopped_while_validating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_tiny(tmp_path / "whole")
    original = Training._validate

    def validate(self: Training, stop: Any) -> Any:
        monkeypatch.setattr(Training, "_validate", original)
        signal.raise_signal(signal.SIGINT)
        return original(self, stop)

    monkeypatch.setattr(Training, "_validate", validate)
    with pytest.raises(Stopped) as caught:
        run_tiny(tmp_path / "parts")
    assert caught.value.exit_code == 130
    run = resume(tmp_path / "parts")
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)


def test_stopped_in_the_very_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal must not be lost: the stages after training would begin."""
    whole = run_tiny(tmp_path / "whole")
    original = Training.save

    def save(self: Training) -> None:
        original(self)
        if self.state.epoch == 2:
            monkeypatch.setattr(Training, "save", original)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Training, "save", save)
    with pytest.raises(Stopped) as caught:
        run_tiny(tmp_path / "parts")
    assert caught.value.exit_code == 143
    assert "train" not in RunFolder(tmp_path / "parts").read_record()
    run = resume(tmp_path / "parts")
    assert run.read_record()["train"]["epochs"] == 2
    assert hashes(run) == hashes(whole)


def test_resume_from_a_named_checkpoint_goes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_tiny(tmp_path / "whole", overrides={"keep": 5})
    _stop_at(monkeypatch, 30)
    with pytest.raises(Stopped):
        run_tiny(tmp_path / "parts", overrides={"keep": 5})
    run = resume(tmp_path / "parts", checkpoint="step-000000")
    assert hashes(run) == hashes(whole)
    assert curve(run) == curve(whole)


def test_weights_to_start_from(finished: RunFolder, tmp_path: Path) -> None:
    weights = finished.checkpoints / "step-000038" / "weights.safetensors"
    run = run_tiny(tmp_path / "run", weights=weights, overrides={"epochs": 1, "optimizer.lr": 1e-4})
    first = next(entry for entry in run.read_log() if entry["kind"] == "epoch")
    assert first["validation"]["accuracy"] > 0.5
    assert run.read_config()["requested"]["weights"]["file"] == str(weights)
    with pytest.raises(InputError, match="no such file"):
        run_tiny(tmp_path / "none", weights=tmp_path / "missing.safetensors")
    assert not (tmp_path / "none").exists()


def test_training_in_another_thread_installs_no_handlers(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run_tiny(tmp_path / "run", overrides={"epochs": 1})
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert RunFolder(tmp_path / "run").read_record()["train"]["epochs"] == 1


def test_the_room_is_also_a_function(tmp_path: Path) -> None:
    run = danlu.train(digits(), model="lenet5", overrides={"epochs": 1}, out=tmp_path / "run", threads=1)  # type: ignore[operator]
    assert json.loads(run.config_path.read_text(encoding="utf-8"))["schema"] == 1


def test_paths_may_be_text_and_a_run_on_data_in_memory_goes_on(tmp_path: Path) -> None:
    def stop(training: Any) -> None:
        raise KeyboardInterrupt

    run = str(tmp_path / "run")
    overrides = {**TINY, "epochs": 2}
    with pytest.raises(KeyboardInterrupt):
        danlu.train(digits(), model="lenet5", overrides=overrides, out=run, device="cpu", threads=1, after_epoch=stop)
    found = danlu.resume(run, data=digits(), overrides=overrides)
    whole = run_tiny(tmp_path / "whole", overrides={"epochs": 2})
    assert hashes(found) == hashes(whole)


def test_what_was_measured_of_a_stopped_run_is_not_that_of_the_finished_one(tmp_path: Path) -> None:
    def stop(training: Training) -> None:
        training.run.update_record(results={"test": {}}, parity={"fp32": {}})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "run", after_epoch=stop)
    run = resume(tmp_path / "run")
    assert {"data", "environment", "train"} <= run.read_record().keys()
    assert not {"results", "parity"} & run.read_record().keys()
    run.update_record(results={"test": {}})
    assert "results" in resume(tmp_path / "run").read_record(), "a finished run has its figures still"


def test_the_time_of_a_resumed_job_counts_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_tiny(tmp_path / "run")
    config = run.read_config()
    run.config_path.write_text(json.dumps({**config, "requested": {"verb": "run"}}), encoding="utf-8")
    run.update_record(train={**run.read_record()["train"], "seconds": 87.0})
    told = []
    monkeypatch.setattr(pipeline, "finish", lambda folder, data, stages, int8: told.extend(stages.seconds) or folder)
    pipeline.resume(run.path, data=digits())
    assert told[0] == {"name": "train", "seconds": 87.0}
