"""Evaluating a run: figures recomputed by hand, records, the CSV, the worst pictures, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import danlu.evaluate
from danlu.core.errors import CheckFailed, InputError
from danlu.core.records import RunFolder
from danlu.data.load import Data, PictureInfo
from danlu.data.loader import Loader
from danlu.data.sample import ArrayDataset, FileDataset, Subset
from danlu.evaluate import Predictor, evaluate, predict_logits
from danlu.evaluate.outputs import safe_cell
from danlu.metrics.cross_entropy import log_softmax
from danlu.tasks.trained import open_trained
from tests.evaluate.fabricated import CLASSES, make_data, make_run


@pytest.fixture
def data() -> Data:
    return make_data()


@pytest.fixture
def run(tmp_path: Path, data: Data) -> Path:
    make_run(tmp_path / "跑 1", data)
    return tmp_path / "跑 1"


def logits_of(run: Path, dataset: Any) -> NDArray[np.float64]:
    trained = open_trained(run)
    rows = []
    with torch.no_grad():
        for i in range(len(dataset)):  # one by one: neither the batch nor the memory format may matter
            rows.append(trained.picture_model(torch.from_numpy(dataset[i].picture[None]))[0].double().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_figures(run: Path, data: Data, batch: int) -> None:
    found = evaluate(run, data, "test", batch=batch)
    logits, labels = logits_of(run, data.test), data.test.labels
    losses = -log_softmax(logits)[np.arange(20), labels]
    predictions = logits.argmax(1)
    figures = found["results"]["test"]
    assert figures["accuracy"]["value"] == pytest.approx((predictions == labels).mean())
    assert figures["accuracy"]["low"] < figures["accuracy"]["value"] < figures["accuracy"]["high"]
    assert figures["cross_entropy"]["value"] == pytest.approx(losses.mean(), rel=1e-5)
    assert figures["accuracy"]["n"] == figures["cross_entropy"]["n"] == 20
    evaluation = found["evaluation"]
    confusion = np.array(evaluation["confusion"])
    assert confusion.sum() == 20
    assert confusion.sum(1).tolist() == np.bincount(labels, minlength=3).tolist()
    assert confusion.sum(0).tolist() == np.bincount(predictions, minlength=3).tolist()
    worst = np.argsort(-losses, kind="stable")[:16]
    assert [row["id"] for row in evaluation["worst"]] == [data.test.ids[i] for i in worst]
    assert [row["loss"] for row in evaluation["worst"]] == pytest.approx(losses[worst].tolist(), rel=1e-4)
    assert [row["true"] for row in evaluation["worst"]] == [CLASSES[labels[i]] for i in worst]
    assert [row["predicted"] for row in evaluation["worst"]] == [CLASSES[predictions[i]] for i in worst]


def test_records(run: Path, data: Data) -> None:
    """Splits stand side by side; the test split's evaluation is what reports show, in whatever order they ran."""
    RunFolder(run).update_record(train={"epochs": 3})
    test = evaluate(run, data, "test")
    validation = evaluate(run, data, "validation")
    record = RunFolder(run).read_record()
    assert record["results"] == {**test["results"], **validation["results"]}
    assert record["evaluation"] == test["evaluation"]
    assert record["evaluation_validation"] == validation["evaluation"]
    assert record["train"] == {"epochs": 3}
    assert record["evaluation"]["data"] == {
        "name": "made",
        "hash": data.hash,
        "trained_on_hash": data.hash,
        "left_out": 0,
    }
    assert evaluate(run, data, "test") == test


def test_open_network_is_not_opened_again_nor_changed(run: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = open_trained(run)
    strides = [p.stride() for p in trained.model.parameters()]
    expected = evaluate(run, data, write=False)
    monkeypatch.setattr("danlu.evaluate.evaluation.open_trained", lambda *_: pytest.fail("opened again"))
    assert evaluate(trained, data, write=False) == expected
    assert [p.stride() for p in trained.model.parameters()] == strides
    assert all(p.is_contiguous() for p in trained.model.parameters())


def test_write_false_writes_nothing(run: Path, data: Data) -> None:
    before = sorted(run.rglob("*"))
    evaluate(run, data, write=False)
    assert sorted(run.rglob("*")) == before


def test_b39_the_table_is_safe(run: Path, data: Data) -> None:
    evaluate(run, data)
    text = (run / "predictions-test.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbfid,true,")
    rows = list(csv.DictReader(text.decode("utf-8-sig").splitlines()))
    assert len(rows) == 20  # a line break in an id starts no line
    logits, labels = logits_of(run, data.test), data.test.labels
    probabilities = np.exp(log_softmax(logits))
    for i, row in enumerate(rows):
        assert not any(value.startswith(("=", "+", "-", "@")) for value in row.values())
        assert row["id"] == "'" + data.test.ids[i].replace("\n", "\\n")
        assert row["true"] == {"=cmd()": "'=cmd()"}.get(CLASSES[labels[i]], CLASSES[labels[i]])
        assert row["correct"] == str(int(logits[i].argmax() == labels[i]))
        assert float(row["probability"]) == pytest.approx(probabilities[i].max(), abs=1e-5)
        assert float(row["loss"]) == pytest.approx(-np.log(probabilities[i, labels[i]]), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain 名", "plain 名"),
        ("=1+1", "'=1+1"),
        (" \t@x", " \\t@x"),
        ("  @x", "'  @x"),
        ("＝HYPERLINK", "'＝HYPERLINK"),
        ("a=b", "a=b"),
        ("a\r\nb\0", "a\\r\\nb\\x00"),
        ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
        ("😀" * 5000, "😀" * 5000),
        ("", ""),
    ],
)
def test_safe_cell(text: str, safe: str) -> None:
    assert safe_cell(text) == safe
    safe_cell(text).encode("utf-8")


def test_worst_pictures_are_the_pixels_enlarged(run: Path, data: Data) -> None:
    (run / "pictures").mkdir()
    (run / "pictures" / "worst-77.png").write_bytes(b"old")
    (run / "pictures" / "worst-validation-77.png").write_bytes(b"of another split")
    found = evaluate(run, data)["evaluation"]["worst"]
    assert [row["picture"] for row in found] == [f"pictures/worst-{i:02d}.png" for i in range(16)]
    for row in found:
        with Image.open(run / row["picture"]) as picture:
            assert min(picture.size) >= 96
            assert picture.mode == "L"
            pixels = np.asarray(picture)
        original = data.test[row["index"]].picture
        assert isinstance(original, np.ndarray)
        factor = len(pixels) // 12
        assert (pixels[::factor, ::factor] == original[:, :, 0]).all()
        assert (pixels[factor - 1 :: factor, factor - 1 :: factor] == original[:, :, 0]).all()
    names = {path.name for path in (run / "pictures").iterdir()}
    assert "worst-77.png" not in names
    assert "worst-validation-77.png" in names


def test_classes_in_another_order(run: Path, data: Data) -> None:
    """Names, not numbers, say which logit is meant."""
    order = [2, 0, 1]
    names = tuple(CLASSES[i] for i in order)
    test = data.test
    assert isinstance(test, ArrayDataset)
    labels = np.array([order.index(label) for label in test.labels])
    shuffled = ArrayDataset(test.pictures, labels, test.ids, names)
    other = make_data(hash="cd" * 32, classes=names)
    other = Data(**{**vars(other), "test": shuffled})
    assert evaluate(run, other, write=False)["results"] == evaluate(run, data, write=False)["results"]


def test_fewer_classes_than_the_network(run: Path) -> None:
    found = evaluate(run, make_data(hash="cd" * 32, classes=CLASSES[:2]), write=False)["evaluation"]
    assert len(found["confusion"]) == 3
    assert "no pictures" in found["per_class"][2]["note"]


def test_unknown_classes_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)not trained for: 'dog'.*allowed: 猫"):
        evaluate(run, make_data(classes=("猫", "dog")))


def test_refusals(run: Path, data: Data) -> None:
    with pytest.raises(InputError, match="did you mean: test"):
        evaluate(run, data, "tset")
    with pytest.raises(InputError, match="split 'test' holds no pictures"):
        evaluate(run, Data(**{**vars(data), "test": Subset(data.test, np.array([], dtype=np.int64))}))
    with pytest.raises(InputError, match="is no run folder"):
        evaluate(run / "config.json", data)
    for wrong in (0, -1):
        with pytest.raises(InputError, match=f"batch = {wrong}"):
            evaluate(run, data, batch=wrong)
    with pytest.raises(InputError, match=r"(?s)model.onnx: is an artifact, not a run.*danlu eval"):
        evaluate("model.onnx", data)
    assert not (run / "record.json").exists()


def test_a_folder_and_a_name_are_opened(run: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("danlu.data.load.load_data", lambda source, seed: asked.append((source, seed)) or data)
    assert evaluate(RunFolder(run), "pictures", write=False) == evaluate(run, data, write=False)
    assert asked == [("pictures", 0)]


def test_pictures_that_were_trained_on_are_refused(run: Path, data: Data) -> None:
    """The same data split by another seed: its test split holds pictures of the training split."""
    other = make_data(seed=5)
    with pytest.raises(InputError, match=r"(?s)split by seed 5.*seed 0.*--seed 0"):
        evaluate(run, other)
    evaluate(run, Data(**{**vars(other), "test_given": True}), write=False)
    evaluate(run, Data(**{**vars(other), "hash": "cd" * 32}), write=False)


def test_an_artifact_that_was_trained_on_the_pictures_is_refused(run: Path, data: Data) -> None:
    constant = np.zeros((1, 3), np.float32)
    artifact = Predictor("model.onnx", CLASSES, (12, 12), 1, lambda p: constant.repeat(len(p), 0), data.hash, 0)
    other = make_data(seed=5)
    with pytest.raises(InputError, match=r"(?s)split by seed 5, model\.onnx was trained .* seed 0.*--seed 0"):
        evaluate("model.onnx", other, predictor=artifact)
    found = evaluate("model.onnx", data, predictor=artifact)
    assert found["evaluation"]["data"]["trained_on_hash"] == data.hash
    evaluate("model.onnx", other, predictor=dataclasses.replace(artifact, data_hash=None, split_seed=None))


def files_data(folder: Path, data: Data) -> Data:
    """The test split as PNG files of another size than the network is fed."""
    test = data.test
    paths = []
    for i in range(len(test)):
        path = Path(f"{i:02d} 图.png")
        picture = test[i].picture
        assert isinstance(picture, np.ndarray)
        Image.fromarray(picture[:, :, 0]).resize((30, 24)).save(folder / path)
        paths.append(path)
    files = FileDataset(folder, paths, test.labels, CLASSES)
    return Data(**{**vars(data), "test": files, "picture": PictureInfo(24, 30, 1, False)})


def test_files(run: Path, data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "图片"
    folder.mkdir()
    found = evaluate(run, files_data(folder, data))
    assert found["results"]["test"]["accuracy"]["n"] == 20
    assert all((run / row["picture"]).is_file() for row in found["evaluation"]["worst"])


def test_b30_no_sample_is_ever_substituted(run: Path, data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "图片"
    folder.mkdir()
    broken = files_data(folder, data)
    (folder / "07 图.png").write_bytes((folder / "07 图.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"07 图\.png"):
        evaluate(run, broken)
    assert not (run / "record.json").exists()


def predictor(call: Any, classes: tuple[str, ...] = CLASSES) -> Predictor:
    return Predictor("model.onnx", classes, (12, 12), 1, call)


def test_an_artifact_through_a_callable(run: Path, data: Data, tmp_path: Path) -> None:
    model = open_trained(run).picture_model

    def call(pictures: NDArray[np.uint8]) -> dict[str, Any]:
        assert pictures.dtype == np.uint8
        with torch.no_grad():
            return {"logits": model(torch.from_numpy(pictures)).numpy(), "probabilities": None}

    found = evaluate(tmp_path / "model.onnx", data, predictor=predictor(call))
    expected = evaluate(run, data, write=False)
    assert found["results"]["test"]["accuracy"] == expected["results"]["test"]["accuracy"]
    assert found["evaluation"]["confusion"] == expected["evaluation"]["confusion"]
    assert found["evaluation"]["data"]["trained_on_hash"] is None
    assert found["evaluation"]["worst"][0]["picture"] is None
    assert not (run / "record.json").exists()
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda n: np.full((n, 3), np.nan), "are not finite"),
        (lambda n: np.zeros((n + 1, 3)), "not "),
        (lambda n: np.zeros(n), "not "),
    ],
)
def test_outputs_that_are_no_logits(data: Data, make: Any, words: str) -> None:
    with pytest.raises(CheckFailed, match=words):
        evaluate("x.onnx", data, predictor=predictor(lambda pictures: make(len(pictures))))
    with pytest.raises(InputError, match="gives 5 logits for 3 classes"):
        evaluate("x.onnx", data, predictor=predictor(lambda pictures: np.zeros((len(pictures), 5))))


def test_predict_logits_keeps_the_order_asked_for(run: Path, data: Data) -> None:
    loader = Loader(data.test, (12, 12), 1)
    indices = np.array([5, 0, 19, 5])
    found = predict_logits(open_trained(run).picture_model, loader, indices, batch=3)
    assert found.shape == (4, 3)
    assert found.dtype == np.float32
    assert np.abs(found - logits_of(run, data.test)[indices]).max() < 1e-4
    assert predict_logits(lambda pictures: pictures, loader, np.array([], dtype=np.int64)).shape == (0, 0)


def test_no_autocast_reaches_the_network(run: Path, data: Data) -> None:
    loader = Loader(data.test, (12, 12), 1)
    model = open_trained(run).picture_model
    plain = predict_logits(model, loader, np.arange(20))
    with torch.autocast("cpu", torch.bfloat16):
        assert (predict_logits(model, loader, np.arange(20)) == plain).all()


def test_the_package_is_the_function(run: Path, data: Data) -> None:
    assert danlu.evaluate(run, data, write=False) == evaluate(run, data, write=False)


def test_other_data_never_overwrites_the_records_figures(
    run: Path, data: Data, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(run, data, "test")
    before = (run / "record.json").read_bytes()
    with caplog.at_level("INFO", "danlu"):
        found = evaluate(run, dataclasses.replace(data, hash="0" * 64, test_given=True), "test")
    assert found["results"]["test"]["accuracy"]["n"] == len(data.test)
    assert (run / "record.json").read_bytes() == before
    assert "is not the data of this run" in caplog.text
    assert "if pictures were moved between splits, some of its test pictures may have been trained on" in caplog.text
    with caplog.at_level("WARNING", "danlu"):
        evaluate(run, dataclasses.replace(data, hash="0" * 64, test_given=False), "test")
    assert "the split is drawn anew, some of its test pictures may have been trained on" in caplog.text
