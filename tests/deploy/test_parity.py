"""The rules that decide, at their edges; pairs of runs and artifacts; the resize inside the graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from danlu.core.errors import InputError
from danlu.data.load import Data, load_data
from danlu.data.sample import ArrayDataset, FileDataset
from danlu.deploy.export import export
from danlu.deploy.parity import compare_logits, compare_resize, labels_for, parity, telling_pictures
from danlu.deploy.subjects import ArtifactSubject, open_subject, predictor_for
from danlu.evaluate import evaluate
from danlu.tasks.trained import Trained, open_trained
from tests.deploy.trained_runs import save_changed

FRONT = ["decode", "colour order", "resize", "crop"]
STAGES = [*FRONT, "normalise", "c1", "s2", "c3", "s4", "logits", "post-processing"]
LABELS = np.array([0, 1, 1])
LOGITS = np.array([[10.0, 0.0], [0.0, 5.0], [1.0, 2.0]], np.float32)


def test_equal_logits_pass() -> None:
    found = compare_logits(LOGITS, LOGITS, LABELS)
    assert found == {
        "n": 3,
        "max_abs_logit_difference": 0.0,
        "relative": 0.0,
        "flips": 0,
        "ties": 0,
        "accuracy_a": 1.0,
        "accuracy_b": 1.0,
        "accuracy_difference": 0.0,
        "passed": True,
    }


@pytest.mark.parametrize(("difference", "passed"), [(0.00099, True), (0.00101, False), (-0.00101, False)])
def test_the_tolerance_is_a_share_of_the_largest_logit(difference: float, passed: bool) -> None:
    other = LOGITS.copy()
    other[1, 0] += difference
    found = compare_logits(LOGITS, other, LABELS)
    assert found["passed"] is passed
    assert found["relative"] == pytest.approx(abs(difference) / 10, rel=1e-3)


def test_a_negative_logit_can_be_the_largest() -> None:
    a = np.array([[-100.0, -1.0]], np.float32)
    found = compare_logits(a, a + np.float32(0.005), np.array([1]))
    assert found["passed"]
    assert found["relative"] == pytest.approx(5e-5, rel=0.1)


def test_a_flip_is_no_tie_unless_the_margin_is_within_twice_the_tolerance() -> None:
    """Of a largest logit of 10, each may move by 0.001: one falls, the other rises, a margin below 0.002 can flip."""
    a = np.array([[10.0, 0.0], [3.0, 3.0 - 0.0005]], np.float32)
    b = np.array([[10.0, 0.0], [3.0 - 0.0004, 3.0]], np.float32)
    tied = compare_logits(a, b, np.array([0, 0]))
    assert (tied["flips"], tied["ties"], tied["passed"]) == (0, 1, True)
    assert tied["accuracy_difference"] == -0.5
    a[1, 1] = 3.0 - 0.0015
    b[1] = [3.0 - 0.0009, 3.0 - 0.0007]
    tied = compare_logits(a, b, np.array([0, 0]))
    assert tied["relative"] < 1e-4
    assert (tied["flips"], tied["ties"], tied["passed"]) == (0, 1, True)
    a[1, 1] = 3.0 - 0.0021
    b[1] = [3.0 - 0.0012, 3.0 - 0.0010]
    flipped = compare_logits(a, b, np.array([0, 0]))
    assert (flipped["flips"], flipped["ties"], flipped["passed"]) == (1, 0, False)


def test_what_is_not_finite_never_passes() -> None:
    for wrong in (np.nan, np.inf):
        other = LOGITS.copy()
        other[2, 0] = wrong
        for a, b in ((LOGITS, other), (other, LOGITS), (other, other)):
            for precision in ("fp32", "int8"):
                found = compare_logits(a, b, LABELS, precision=precision)
                assert not found["passed"]
                assert found["relative"] is None
                json.dumps(found, allow_nan=False)


def test_zeros_and_one_class() -> None:
    zeros = np.zeros((2, 3), np.float32)
    assert compare_logits(zeros, zeros, np.array([0, 1]))["passed"]
    assert not compare_logits(zeros, zeros + np.float32(1e-6), np.array([0, 1]))["passed"]
    one = np.ones((2, 1), np.float32)
    assert compare_logits(one, one, np.array([0, 0]))["passed"]


@pytest.mark.parametrize(("n", "lost", "passed"), [(100, 2, True), (100, 3, False), (1000, 5, True), (1000, 6, False)])
def test_int8_may_lose_half_a_point_or_two_pictures(n: int, lost: int, passed: bool) -> None:
    a = np.tile(np.array([[1.0, 0.0]], np.float32), (n, 1))
    b = a.copy()
    b[:lost] = [0.0, 1.0]
    found = compare_logits(a, b, np.zeros(n, np.int64), precision="int8")
    assert (found["flips"], found["passed"]) == (lost, passed)
    # What it wins elsewhere counts: accuracy is what is held.
    assert compare_logits(a, b, np.ones(n, np.int64), precision="int8")["passed"]


def test_telling_pictures_are_the_worst_and_the_first() -> None:
    a = np.zeros((300, 2), np.float32)
    b = a.copy()
    b[250, 1], b[299, 0] = 1.0, np.nan
    chosen = telling_pictures(a, b, most=8).tolist()
    assert {0, 1, 2, 3, 250, 299} <= set(chosen)
    assert chosen == sorted(chosen)
    assert len(chosen) <= 8


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="labels"):
        compare_logits(LOGITS, LOGITS[:2], LABELS)


def test_run_against_its_artifacts(lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    run = lenet[0]
    fp32 = parity(run, run / "model.onnx", data, threads=1)
    assert fp32["passed"]
    assert fp32["precision"] == "fp32"
    assert fp32["first_bad_stage"] is None
    assert fp32["validation"] == lenet[1]["parity"]["fp32"]["validation"]
    assert [row["stage"] for row in fp32["stages"]] == STAGES
    int8 = parity(str(run / "model.onnx"), run / "model.int8.onnx", data, threads=1)
    assert int8["precision"] == "int8"
    assert int8["passed"]
    assert int8["validation"]["relative"] > 1e-4
    again = parity(open_trained(run), run, data)
    assert again["validation"]["max_abs_logit_difference"] == 0


def test_another_split_of_the_training_data_is_refused(lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    run, other = lenet[0], load_data("digits", seed=5)
    for a, b in ((run, run / "model.onnx"), (run / "model.onnx", run / "model.int8.onnx")):
        with pytest.raises(InputError, match=r"(?s)split by seed 5.*seed 0.*--seed 0"):
            parity(a, b, other, threads=1)


def test_a_subject_says_what_it_was_trained_on(lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    for source in (lenet[0], lenet[0] / "model.onnx", lenet[0] / "model.int8.onnx"):
        predictor = predictor_for(open_subject(source, threads=1))
        assert (predictor.data_hash, predictor.split_seed) == (data.hash, 0)
        assert (predictor.classes, predictor.size, predictor.channels) == (data.classes, (8, 8), 1)
        found = evaluate(source, data, predictor=predictor)
        assert found["results"]["test"]["accuracy"]["value"] > 0.9
        with pytest.raises(InputError, match="partly trained on"):
            evaluate(source, load_data("digits", seed=5), predictor=predictor)


def test_a_changed_artifact_is_found(lenet: tuple[Path, dict[str, Any]], data: Data, tmp_path: Path) -> None:
    model = onnx.load(lenet[0] / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "c3.weight")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), "c3.weight"))
    save_changed(tmp_path / "changed.onnx", model)
    found = parity(lenet[0], tmp_path / "changed.onnx", data, threads=1)
    assert not found["passed"]
    assert found["first_bad_stage"] == "c3"


def test_class_order_is_matched_by_name(lenet: tuple[Path, dict[str, Any]], data: Data, tmp_path: Path) -> None:
    model = onnx.load(lenet[0] / "model.onnx")
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    for tensor in model.graph.initializer:
        if tensor.name in ("output.weight", "output.bias"):
            array = onnx.numpy_helper.to_array(tensor)
            assert array.shape[0] == 10
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array[order]), tensor.name))
    labels = json.dumps([data.classes[i] for i in order])
    next(entry for entry in model.metadata_props if entry.key == "danlu.labels").value = labels
    save_changed(tmp_path / "other.onnx", model)
    found = parity(lenet[0], tmp_path / "other.onnx", data, threads=1)
    assert found["passed"]
    assert found["validation"]["accuracy_b"] > 0.9
    assert found["finding"] is None


def test_what_cannot_be_compared(lenet: tuple[Path, dict[str, Any]], data: Data, tmp_path: Path) -> None:
    run = lenet[0]
    with pytest.raises(InputError, match="neither a run folder nor an artifact"):
        parity(run, tmp_path / "nothing", data)
    with pytest.raises(InputError, match="config"):
        parity(run, tmp_path, data)
    (tmp_path / "text.txt").write_text("no model")
    with pytest.raises(InputError, match="no ONNX file"):
        parity(run, tmp_path / "text.txt", data)
    model = onnx.load(run / "model.onnx")
    labels = json.dumps([f"class {i}" for i in range(10)])
    next(entry for entry in model.metadata_props if entry.key == "danlu.labels").value = labels
    save_changed(tmp_path / "other.onnx", model)
    with pytest.raises(InputError, match="not the same"):
        parity(run, tmp_path / "other.onnx", data)


def test_labels_follow_the_subjects_classes(lenet: tuple[Path, dict[str, Any]], data: Data) -> None:
    subject = open_subject(lenet[0] / "model.onnx", threads=1)
    picture = np.zeros((2, 8, 8, 1), np.uint8)
    assert labels_for(subject, ArrayDataset(picture, [0, 1], ["a", "b"], ["7", "2"])).tolist() == [7, 2]
    with pytest.raises(InputError, match="'eleven'"):
        labels_for(subject, ArrayDataset(picture, [0, 1], ["a", "b"], ["7", "eleven"]))


def write_pictures(root: Path, data: Data, count: int) -> FileDataset:
    """Write digits as JPEG files, each of a size of its own."""
    paths, labels = [], []
    for i in range(count):
        sample = data.train[i]
        picture = Image.fromarray(np.asarray(sample.picture)[..., 0])
        picture = picture.resize((24 + 3 * (i % 7), 24 + 5 * (i % 5)), Image.Resampling.BICUBIC)
        name = f"{data.classes[sample.targets['label']]}/{i:03d}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name, quality=95)
        paths.append(PurePosixPath(name))
        labels.append(sample.targets["label"])
    return FileDataset(root, paths, labels, data.classes)


def test_resize_in_the_graph_is_compared(lenet: tuple[Path, dict[str, Any]], data: Data, tmp_path: Path) -> None:
    artifact = ArtifactSubject((lenet[0] / "model.onnx").read_bytes(), "model.onnx", 1)
    dataset = write_pictures(tmp_path, data, 40)
    found = compare_resize(artifact, dataset)
    assert found is not None
    assert found["n"] == 40
    assert found["flips"] == 0
    assert found["max_probability_difference"] < 0.05
    assert compare_resize(artifact, dataset, most=10) is not None
    assert compare_resize(artifact, data.validation) is None


def test_export_compares_the_resize_of_a_folder(
    tiny: Trained, captured: onnx.ModelProto, data: Data, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures", data, 200)
    folder = load_data(tmp_path / "pictures")
    tiny.config["effective"]["data"].update(hash=folder.hash, seed=0)
    assert not folder.picture.uniform
    try:
        found = export(replace(tiny, classes=folder.classes), folder, threads=1)
    finally:
        tiny.config["effective"]["data"].update(hash=data.hash)
    resize = found["parity"]["in_graph_resize"]
    assert resize["n"] == len(folder.validation)
    assert resize["flips"] == 0
    assert found["parity"]["fp32"]["validation"]["passed"]
