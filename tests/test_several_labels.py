"""The main job on pictures with several labels: two digits side by side, of which each can be named, or neither."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from danlu import pipeline, single
from danlu.compress import compress
from danlu.core.errors import InputError
from danlu.data.load import load_data
from danlu.data.sample import ArrayDataset
from danlu.deploy.artifact import read_artifact
from danlu.deploy.culprit import sigmoid, softmax
from danlu.deploy.parity import parity
from danlu.deploy.predict import predict
from danlu.deploy.program import Program
from danlu.deploy.subjects import EagerSubject, open_subject
from danlu.evaluate import evaluate
from danlu.tasks.trained import open_trained
from danlu.train.start import choose
from danlu.verbs.common import run_output

# Only these digits are named; a picture of two others has no label.
NAMED = {0: "zero", 1: "one", 2: "two", 3: "three"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "pairs"
    (folder / "images").mkdir(parents=True)
    digits = load_data("digits").train
    assert isinstance(digits, ArrayDataset)
    draw = np.random.default_rng(0)
    rows = ["name,labels"]
    for number in range(600):
        left, right = draw.integers(0, len(digits), 2)
        pair = np.concatenate([digits.pictures[left], digits.pictures[right]], axis=1)[..., 0]
        Image.fromarray(np.pad(pair, ((4, 4), (0, 0)))).save(folder / "images" / f"{number}.png")
        names = {NAMED[d] for d in (int(digits.labels[left]), int(digits.labels[right])) if d in NAMED}
        rows.append(f"images/{number}.png,{';'.join(sorted(names))}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("job") / "run"
    overrides = {
        "epochs": 12,
        "batch_size": 20,
        "optimizer.lr": 0.02,
        "label_smoothing": 0.0,
        "augment": ["mixup"],
        "kernels": "library",
    }
    pipeline.run(str(table), model="lenet5", overrides=overrides, out=out, threads=1, device="cpu")
    return out


def test_the_main_job_goes_all_the_way(run: Path, table: Path) -> None:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    assert config["effective"]["task"] == "multilabel"
    assert config["effective"]["train"]["loss"]["kind"] == "sigmoid"
    assert config["why"]["loss.kind"].startswith("sigmoid: pictures have several labels")
    for split in ("validation", "test"):
        figures = record["results"][split]
        assert set(figures) == {"accuracy", "cross_entropy", "f1_micro", "f1_macro", "mean_average_precision"}
        assert all(figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"] for name in figures)
    # Guessing nothing has an F1 of 0, and guessing at random one of about 0.2.
    assert record["results"]["test"]["f1_micro"]["value"] > 0.6
    assert record["results"]["test"]["mean_average_precision"]["value"] > 0.6
    assert record["parity"]["fp32"]["validation"]["passed"]
    assert {row["class"] for row in record["evaluation"]["per_class"]} == set(NAMED.values())
    assert "accuracy" in run_output(run).text
    report = (run / "report.html").read_text(encoding="utf-8")
    for words in ("F1 over all decisions", "Mean average precision", "各类 F1 的平均", "all of its classes"):
        assert words in report


def test_predictions_name_several_classes_or_none(run: Path, table: Path) -> None:
    assert read_artifact(run / "model.onnx").task == "multilabel"
    files = [table / "images" / f"{number}.png" for number in range(60)]
    rows = predict(run / "model.onnx", files, top=2)
    counts = {len(row["classes"]) for row in rows}
    assert {0, 1, 2} <= counts
    trained = open_trained(run)
    for row in rows:
        listed = {one["class"]: one["probability"] for one in row["top"]}
        assert row["class"] == next(iter(listed))
        assert set(row["classes"]) >= {name for name, p in listed.items() if p > 0.5}
    found = evaluate(trained, load_data(table), "test", write=False)["results"]["test"]
    text = (run / "predictions-test.csv").read_text(encoding="utf-8-sig")
    table_rows = list(csv.DictReader(io.StringIO(text)))
    right = sum(row["true"] == row["predicted"] for row in table_rows)
    assert right / len(table_rows) == pytest.approx(found["accuracy"]["value"])
    assert sum(int(row["correct"]) for row in table_rows) == right


def test_an_artifact_is_evaluated_as_its_run_and_never_on_data_of_classes(
    run: Path, table: Path, tmp_path: Path
) -> None:
    found = single.evaluate_any(run / "model.onnx", str(table))["results"]["test"]
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    assert found["f1_micro"]["value"] == pytest.approx(record["results"]["test"]["f1_micro"]["value"], abs=0.02)
    rows = [f"images/{n}.png,{name}" for n, name in enumerate(list(NAMED.values()) * 5)]
    plain = tmp_path / "single"
    (plain / "images").mkdir(parents=True)
    for number in range(20):
        (plain / "images" / f"{number}.png").write_bytes((table / "images" / f"{number}.png").read_bytes())
    (plain / "labels.csv").write_text("\n".join(["name,labels", *rows]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="has one label a picture, the network was trained for multilabel"):
        evaluate(run, load_data(plain), "test")


def test_compression_is_refused(run: Path, table: Path) -> None:
    with pytest.raises(InputError, match="is for multilabel"):
        compress(run, "prune", data=load_data(table), device="cpu", threads=1)


def test_weights_of_classes_are_refused(table: Path) -> None:
    given = {"loss.class_weights": "inverse"}
    with pytest.raises(InputError, match="a picture with several labels has no one weight"):
        choose(load_data(table), model="lenet5", recipe=None, overrides=given, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (None, None),
        (softmax, "softmax instead of sigmoid"),
        (lambda z: z, "the sigmoid is missing"),
        (lambda z: sigmoid(sigmoid(z)), "sigmoid twice"),
        (lambda z: sigmoid(z)[:, [1, 0, 2, 3]], "label order"),
        (lambda z: sigmoid(2 * z), "a temperature"),
    ],
)
def test_parity_expects_a_sigmoid(run: Path, table: Path, answer: Any, cause: str | None) -> None:
    eager = open_subject(run, 1)
    assert isinstance(eager, EagerSubject)
    finding = parity(eager, Program(eager, answer=answer), load_data(table), threads=1)["finding"]
    if cause is None:
        assert finding is None
    else:
        assert (finding["stage"], cause in finding["cause"]) == ("post-processing", True), finding


@pytest.mark.parametrize("decoded", [nn.Sigmoid(), nn.Softmax(dim=1)], ids=["sigmoid", "softmax"])
def test_a_foreign_file_may_give_the_sigmoid(run: Path, table: Path, tmp_path: Path, decoded: nn.Module) -> None:
    eager = open_subject(run, 1)
    assert isinstance(eager, EagerSubject)
    network = nn.Sequential(open_trained(run).model, decoded).eval()
    path = tmp_path / "foreign.onnx"
    picture = torch.from_numpy(eager.stages(np.zeros((1, *eager.size, eager.channels), np.uint8))["preprocess"])
    torch.onnx.export(network, (picture,), path, dynamo=True, external_data=False, verbose=False)
    found = parity(eager, path, load_data(table), threads=1)
    assert found["passed"] is (isinstance(decoded, nn.Sigmoid))
