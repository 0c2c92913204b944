"""The classes and pictures of the evaluation: what no picture supports is a dash, what was recorded is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from danlu.core.files import read_json
from danlu.evaluate.several import several_figures
from danlu.metrics.confusion_matrix import confusion_matrix
from danlu.metrics.precision_recall_f1 import precision_recall_f1
from danlu.report.figures import significant
from danlu.report.view_results import evaluation_view
from tests.report.runs import write_full_run
from tests.report.test_page import rebuilt


def test_a_class_without_pictures_has_no_recall(tmp_path: Path) -> None:
    names = ["cat", "dog", "fish", "bird", "ox"]
    labels, predictions = np.repeat([0, 1, 2], 10), np.repeat([0, 1, 3], 10)
    predictions[0] = 2  # fish is predicted, bird and ox have no pictures, ox is never predicted either
    run = write_full_run(tmp_path / "run")
    evaluation = read_json(run.record_path)["evaluation"] | {
        "classes": names,
        "confusion": confusion_matrix(labels, predictions, 5).tolist(),
        "per_class": precision_recall_f1(labels, predictions, names),
    }
    page = rebuilt(run, evaluation=evaluation)
    assert page.errors == []
    assert "bird no pictures 测试集中无图片 0.0 % – – 0 10" in page.text
    assert "ox no pictures 测试集中无图片 – – – 0 0" in page.text
    assert "never predicted" not in page.text
    view = evaluation_view({"evaluation": evaluation}, run.path)
    assert view is not None
    assert view.never_predicted == 0
    evaluation["per_class"][2] |= {"f1": 0.62, "predicted": 0}
    view = evaluation_view({"evaluation": evaluation}, run.path)
    assert view is not None
    assert (view.never_predicted, view.axis_start) == (1, 0.6), "classes without pictures do not widen the axis"


def test_several_labels_show_their_precision_and_loss(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = (random.random((60, 4)) < 0.4).astype(np.int64)
    labels[:, 3] = 0
    logits = (random.normal(size=(60, 4)) + 2 * labels - 1).astype(np.float32)
    found = several_figures([f"i{i}" for i in range(60)], labels, logits, ["cat", "dog", "沙发", "person"], "test", 8)
    evaluation = found["evaluation"]
    run = write_full_run(tmp_path / "run")
    assert "Average precision" not in rebuilt(run).text
    page = rebuilt(run, evaluation=evaluation)
    assert page.errors == []
    assert "Average precision" in page.text
    for row in evaluation["per_class"][:3]:
        assert f"{100 * row['average_precision']:.1f} % {row['support']} {row['predicted']}" in page.text
    called = evaluation["per_class"][3]["predicted"]
    assert called
    assert f"person no pictures 测试集中无图片 0.0 % – – – 0 {called}" in page.text
    assert "what was decided, and the loss" in page.text
    assert "with what probability" not in page.text
    for item in evaluation["worst"]:
        assert f"loss {significant(item['loss'])}" in page.text
