"""Test-time augmentation against a plain loop over the views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from danlu.core.errors import InputError
from danlu.core.records import RunFolder
from danlu.data.load import Data
from danlu.evaluate import TTA, Predictor, evaluate
from danlu.evaluate.views import views
from danlu.metrics.cross_entropy import log_softmax
from danlu.tasks.trained import open_trained
from danlu.verbs import deploy
from tests.evaluate.fabricated import CLASSES, make_data, make_run


@pytest.fixture
def data() -> Data:
    return make_data()


@pytest.fixture
def run(tmp_path: Path, data: Data) -> Path:
    make_run(tmp_path / "run", data)
    return tmp_path / "run"


def _looped(run: Path, data: Data, tta: str) -> np.ndarray:
    """Return the mean logits picture by picture, as the paper's script takes them, on the network's input."""
    trained = open_trained(run)

    def mirror(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * trained.model(x) + 0.5 * trained.model(x.flip(-1))

    rows = []
    with torch.no_grad():
        for i in range(len(data.test)):
            x = trained.preprocess(torch.from_numpy(data.test[i].picture[None]))
            logits = mirror(x)
            if tta == "flip+shift":
                height, width = x.shape[2:]
                padded = F.pad(x, (1, 1, 1, 1), "reflect")
                corners = padded[:, :, :height, :width], padded[:, :, 2:, 2:]
                logits = 0.5 * logits + 0.5 * torch.stack([mirror(corner) for corner in corners]).mean(0)
            rows.append(logits[0].double().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch", [7, 256])
@pytest.mark.parametrize("tta", TTA)
def test_it_is_the_plain_loop(run: Path, data: Data, tta: str, batch: int) -> None:
    plain = evaluate(run, data, write=False, batch=batch)["results"]["test"]
    found = evaluate(run, data, tta=tta, batch=batch)
    logits, labels = _looped(run, data, tta), data.test.labels
    figures = found["results"]["test"]
    assert figures["accuracy_tta"]["value"] == pytest.approx((logits.argmax(1) == labels).mean())
    expected = -log_softmax(logits)[np.arange(20), labels].mean()
    assert figures["cross_entropy_tta"]["value"] == pytest.approx(expected, rel=1e-5)
    assert figures["accuracy_tta"]["tta"] == figures["cross_entropy_tta"]["tta"] == tta
    # What is reported without it is untouched by it.
    assert {name: figures[name] for name in plain} == plain
    assert figures["cross_entropy_tta"]["value"] != pytest.approx(plain["cross_entropy"]["value"], rel=1e-4)
    assert RunFolder(run).read_record()["results"]["test"] == figures
    assert set(evaluate(run, data)["results"]["test"]) == {"accuracy", "cross_entropy"}


def test_the_views() -> None:
    picture = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    found = [(weight, one[0, :, :, 0].tolist()) for weight, one in views(picture, "flip+shift")]
    assert [weight for weight, _ in found] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    assert found[0][1] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert found[1][1] == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]
    assert found[2][1] == [[4, 3, 4], [1, 0, 1], [4, 3, 4]]
    assert found[4][1] == [[4, 5, 4], [7, 8, 7], [4, 5, 4]]
    assert found[5][1] == [row[::-1] for row in found[4][1]]
    assert [weight for weight, _ in views(picture, "flip")] == [0.5, 0.5]
    (alone,) = views(picture, None)
    assert alone[0] == 1.0
    assert alone[1] is picture


def test_an_artifact_has_it_too(data: Data) -> None:
    """A network that looks at one pixel: mirrored it looks at another."""

    def logits(pictures: np.ndarray) -> Any:
        return np.stack([pictures[:, 0, 0, 0] * k for k in (0.0, 0.5, 1.0)], axis=1)

    predictor = Predictor("made", CLASSES, (12, 12), 1, logits)
    found = evaluate("made", data, predictor=predictor, tta="flip")["results"]["test"]
    corners = np.stack([data.test[i].picture[0, [0, 11], 0] for i in range(20)]).astype(np.float64).mean(1)
    rows = np.stack([corners * k for k in (0.0, 0.5, 1.0)], axis=1)
    expected = -log_softmax(rows)[np.arange(20), data.test.labels].mean()
    assert found["cross_entropy_tta"]["value"] == pytest.approx(expected, rel=1e-5)


def test_what_is_unknown_or_too_small_is_refused(run: Path, data: Data) -> None:
    before = sorted(run.rglob("*"))
    with pytest.raises(InputError, match=r"'flip\+shfit'(.|\n)*did you mean: flip\+shift"):
        evaluate(run, data, tta="flip+shfit")
    with pytest.raises(InputError, match="cannot be shifted"):
        list(views(np.zeros((1, 1, 5, 1), np.uint8), "flip+shift"))
    assert sorted(run.rglob("*")) == before


def test_the_verb_shows_both(run: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.data.load.load_data", lambda *_, **__: data)
    shown = deploy.evaluate(run, "made", tta="flip")
    lines = shown.text.splitlines()
    assert lines[0].startswith("test accuracy ")
    assert lines[1].startswith("with flip ")
    assert not deploy.evaluate(run, "made").text.splitlines()[1]
