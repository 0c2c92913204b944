"""Several labels a picture: the loss against torch's, mixing, what counts as right, the form that is exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from danlu.core.errors import InputError
from danlu.models import create_model
from danlu.tasks.classification import NO_LABEL
from danlu.tasks.loss_settings import LossSettings
from danlu.tasks.mixing import with_partners
from danlu.tasks.multilabel import Multilabel
from danlu.tasks.preprocess import Preprocess, PreprocessSettings

CLASSES = ("a", "b", "c")


class _Fixed(torch.nn.Module):
    """Gives the same logits whatever it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.logits


def _batch(labels: list[list[int]], task: Multilabel | None = None):  # type: ignore[no-untyped-def]
    pictures = np.zeros((len(labels), 4, 4, 1), np.uint8)
    return (task or Multilabel(CLASSES)).collate(pictures, np.array(labels), [str(n) for n in range(len(labels))])


LABELS = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [NO_LABEL] * 3]
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-0.5, -2.0, -3.0], [1.0, 2.0, -1.0], [9.0, 9.0, 9.0]])


def test_the_loss_is_the_sum_over_classes_of_torchs_binary_cross_entropy() -> None:
    figures = Multilabel(CLASSES).loss(_Fixed(LOGITS.clone()), _batch(LABELS))
    expected = F.binary_cross_entropy_with_logits(LOGITS[:3], torch.tensor(LABELS[:3]).float(), reduction="none")
    torch.testing.assert_close(figures["loss"].detach(), expected.sum(1).mean())
    torch.testing.assert_close(figures["cross_entropy"], expected.sum(1).mean())
    assert int(figures["labelled"]) == 3
    # The third picture has a class too many; the one whose labels are not known counts nowhere.
    assert int(figures["correct"]) == 2


@pytest.mark.parametrize(("smoothing", "focal"), [(0.2, 0.0), (0.0, 2.0)])
def test_smoothing_and_focal(smoothing: float, focal: float) -> None:
    task = Multilabel(CLASSES, smoothing, LossSettings(kind="sigmoid", focal=focal))
    found = task.loss(_Fixed(LOGITS[:3].clone()), _batch(LABELS[:3]))
    target = torch.tensor(LABELS[:3]).float() * (1 - smoothing) + smoothing / 2
    p = LOGITS[:3].sigmoid()
    each = -(target * p.log() + (1 - target) * (1 - p).log())
    each = each * (target * (1 - p) + (1 - target) * p) ** focal
    torch.testing.assert_close(found["loss"].detach(), each.sum(1).mean())
    plain = F.binary_cross_entropy_with_logits(LOGITS[:3], torch.tensor(LABELS[:3]).float(), reduction="none")
    torch.testing.assert_close(found["cross_entropy"], plain.sum(1).mean())


def test_mixed_pictures_have_the_mixed_targets() -> None:
    task = Multilabel(CLASSES)
    share = torch.tensor([0.7, 0.5, 0.2])
    batch = with_partners(_batch(LABELS[:3]), torch.tensor([2, 0, 1]), share)
    found = task.loss(_Fixed(LOGITS[:3].clone()), batch)
    label = torch.tensor(LABELS[:3]).float()
    target = share[:, None] * label + (1 - share)[:, None] * label[[2, 0, 1]]
    expected = F.binary_cross_entropy_with_logits(LOGITS[:3], target, reduction="none").sum(1).mean()
    torch.testing.assert_close(found["loss"].detach(), expected)
    # By the larger share: own [1, 0, 1] right, own [0, 0, 0] right, partner's [0, 0, 0] against [1, 1, 0] wrong.
    assert int(found["correct"]) == 2


@pytest.mark.parametrize("labels", [[[1, 0]], [[1, 0, 2]], [[1, 0, -1]]])
def test_labels_that_are_none(labels: list[list[int]]) -> None:
    with pytest.raises(InputError, match="labels"):
        _batch(labels)


def test_the_exported_form_has_the_sigmoid_inside() -> None:
    task, network = Multilabel(CLASSES), create_model("lenet5", num_classes=3).eval()
    settings = PreprocessSettings(
        picture_size=(32, 32), input_size=(32, 32), fit="none", channels=1, mean=(0.3,), std=(0.4,)
    )
    module, names = task.export_module(network, Preprocess(settings))
    pictures = torch.randint(0, 256, (2, 32, 32, 1), dtype=torch.uint8)
    values = dict(zip(names, module(pictures), strict=True))
    torch.testing.assert_close(values["probabilities"], values["logits"].sigmoid())
    torch.testing.assert_close(task.decode(values["logits"]), values["probabilities"])
