"""The classification task: its batch, its loss against closed forms, its export."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from danlu.core.errors import InputError
from danlu.metrics.cross_entropy import cross_entropies, log_softmax
from danlu.models import create_model
from danlu.proof import randomise
from danlu.tasks.classification import NO_LABEL, Classification
from danlu.tasks.preprocess import Preprocess, PreprocessSettings

CLASSES = ("猫", "<b>", "=c", "d")


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)


def test_collate_keeps_the_memory() -> None:
    array = pictures()
    batch = Classification(CLASSES).collate(array, [0, 1, 3], ["a", "b", "c"])
    assert len(batch) == 3
    assert batch.pictures.dtype == torch.uint8
    assert batch.pictures.data_ptr() == array.ctypes.data
    assert batch.size.tolist() == [[28, 28]] * 3
    assert batch.targets["label"].tolist() == [0, 1, 3]
    assert batch.targets["label"].dtype == torch.int64


def test_collate_of_read_only_memory_copies() -> None:
    """torch would warn, and a write through the tensor would change the cached data set."""
    array = pictures()
    array.flags.writeable = False
    batch = Classification(CLASSES).collate(array, [0, 1, 3], ["a", "b", "c"])
    batch.pictures.zero_()
    assert array.any()
    flipped = Classification(CLASSES).collate(pictures()[:, :, ::-1], [0, 1, 3], ["a", "b", "c"])
    assert (flipped.pictures.numpy() == pictures()[:, :, ::-1]).all()


def test_to() -> None:
    batch = Classification(CLASSES).collate(pictures(), [0, 1, 3], ["a", "b", "c"]).to("meta")
    assert {batch.pictures.device.type, batch.size.device.type, batch.targets["label"].device.type} == {"meta"}
    assert batch.ids == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("array", "labels", "ids", "words"),
    [
        (pictures().astype(np.float32), [0, 1, 2], "abc", "float32"),
        (pictures()[0], [0] * 28, "a" * 28, r"uint8 \[28, 28, 1\]"),
        (pictures(), [0, 1], "abc", "3 pictures, 2 labels, 3 ids"),
        (pictures(), [0, 1, 2], "ab", "3 pictures, 3 labels, 2 ids"),
        (pictures(), [0, 4, 2], "abc", r"(?s)label 4 of 'b' is no class.*0 … 3"),
        (pictures(), [0, 1, -1], "abc", "label -1 of 'c'"),
    ],
)
def test_collate_refuses(array: np.ndarray, labels: list[int], ids: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Classification(CLASSES).collate(array, labels, list(ids))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_loss_is_the_closed_form(smoothing: float) -> None:
    """-(1 - ε) log p[label] - ε / K Σ log p, averaged over the labelled ones."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 4)) * 3, rng.integers(0, 4, 9)
    labels[2] = labels[7] = NO_LABEL
    there = labels != NO_LABEL
    log_p = log_softmax(logits)[there]
    plain = cross_entropies(labels[there], log_p)
    expected = ((1 - smoothing) * plain - smoothing * log_p.mean(axis=1)).mean()
    task = Classification(CLASSES, smoothing)
    found = task.loss_of(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found["loss"].item() == pytest.approx(expected, rel=1e-9)
    assert found["cross_entropy"].item() == pytest.approx(plain.mean(), rel=1e-9)
    assert found["labelled"].item() == 7
    assert found["correct"].item() == (logits.argmax(1) == labels)[there].sum()


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    task = Classification(CLASSES)
    batch = task.collate(pictures(4), [0, 1, 2, 3], list("abcd"))

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return logits

    losses = task.loss(Fixed(), batch)
    assert losses["loss"].dtype == torch.float32
    assert losses["loss"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits.double(), torch.arange(4)).item()
    )


def test_refused_settings() -> None:
    with pytest.raises(InputError, match=r"label_smoothing = 1\.0"):
        Classification(CLASSES, 1.0)
    with pytest.raises(InputError, match="at least one class"):
        Classification(())


def test_record() -> None:
    assert Classification(CLASSES, 0.1).to_record() == {
        "name": "classification",
        "classes": list(CLASSES),
        "label_smoothing": 0.1,
        "loss": {"kind": "softmax", "focal": 0.0, "class_weights": "none", "beta": 0.999},
    }


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_export_module(name: str) -> None:
    """Its outputs are those of the network: logits, probabilities, then every stage in order."""
    network = randomise(create_model(name, num_classes=4, in_channels=1)).train()
    settings = PreprocessSettings(
        picture_size=(28, 28), input_size=(32, 32), fit="pad", channels=1, mean=(0.1,), std=(0.3,)
    )
    preprocess = Preprocess(settings)
    module, names = Classification(CLASSES).export_module(network, preprocess)
    assert names == ("logits", "probabilities", *(f"stage.{stage.name}" for stage in network.stages))
    assert not any(part.training for part in module.modules())
    array = torch.from_numpy(pictures())
    with torch.no_grad():
        outputs = dict(zip(names, module(array), strict=True))
        assert torch.equal(outputs["logits"], network(preprocess(array)))
        assert torch.equal(outputs["probabilities"], outputs["logits"].softmax(1))
        for stage, features in network.features(preprocess(array)).items():
            assert torch.equal(outputs[f"stage.{stage}"], features)


class TwoSides(nn.Module):
    """Stands for a network with auxiliary heads: side outputs in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.network = create_model("lenet5")
        self.network.auxiliary_weight = 0.3

    def forward(self, x: Tensor) -> Any:
        logits = x.flatten(1)[:, :10].float()
        return {"logits": logits, "aux1": 2 * logits, "aux2": -logits} if self.training else logits


def test_side_outputs_count_by_their_weight() -> None:
    task = Classification([str(number) for number in range(10)], label_smoothing=0.1)
    pictures = np.random.default_rng(0).integers(0, 9, (4, 4, 4, 1), dtype=np.uint8)
    batch = task.collate(pictures, np.array([0, 3, NO_LABEL, 9]), list("abcd"))
    model = TwoSides()
    logits = batch.pictures.flatten(1)[:, :10].float()
    alone = [task.loss_of(one, batch.targets["label"])["loss"] for one in (logits, 2 * logits, -logits)]
    trained, evaluated = task.loss(model.train(), batch), task.loss(model.eval(), batch)
    assert torch.allclose(trained["loss"], alone[0] + 0.3 * (alone[1] + alone[2]))
    assert torch.equal(evaluated["loss"], alone[0])
    assert torch.equal(trained["cross_entropy"], evaluated["cross_entropy"])
    assert trained["correct"] == evaluated["correct"]
