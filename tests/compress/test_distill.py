"""Distillation: the loss against its definition, a student that learns from a teacher, hints, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from danlu.compress import compress
from danlu.compress.base import subject_of
from danlu.compress.distill import Distill, DistillSettings
from danlu.compress.soft_targets import distillation_loss, soft_cross_entropy
from danlu.core.errors import InputError
from danlu.data.loader import Loader
from danlu.tasks.trained import Trained, open_trained
from tests.compress.networks import few_digits, network_run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return network_run("lenet5", tmp_path_factory.mktemp("teacher"), steps=40)


def test_the_soft_loss_is_its_definition_and_its_gradient_keeps_its_size() -> None:
    generator = torch.Generator().manual_seed(0)
    student, aim = (torch.randn(4, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    for temperature in (1.0, 4.0, 20.0):
        p = torch.softmax(aim / temperature, 1)
        q = torch.softmax(student.detach() / temperature, 1)
        found = soft_cross_entropy(student, aim, temperature)
        assert found.item() == pytest.approx(temperature**2 * float(-(p * q.log()).sum(1).mean()))
        (gradient,) = torch.autograd.grad(found, student)
        torch.testing.assert_close(gradient, temperature * (q - p) / 4)
    # At a high temperature it is the difference of centred logits, a tenth of it for ten classes.
    (gradient,) = torch.autograd.grad(soft_cross_entropy(student, aim, 1e4), student)
    centred = (student - student.mean(1, keepdim=True)) - (aim - aim.mean(1, keepdim=True))
    torch.testing.assert_close(gradient, centred.detach() / 10 / 4, rtol=1e-3, atol=1e-5)


def test_a_student_that_equals_its_teacher_has_no_gradient() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_cross_entropy(logits, logits.detach(), 3.0), logits)
    assert gradient.abs().max() < 1e-12
    assert distillation_loss(logits, logits, torch.tensor(2.0), 3.0, 1.0).item() == pytest.approx(2.0)


def test_a_student_comes_to_agree_with_its_teacher(teacher: Trained, tmp_path: Path) -> None:
    overrides = {"student": "lenet_300_100", "epochs": 25, "hard": 0.0, "optimizer.lr": 0.003}
    # The two take pictures of other sizes: the student is refused, with the reason.
    with pytest.raises(InputError, match="fully connected"):
        compress(teacher, "distill", overrides=overrides, data=few_digits(), out=tmp_path / "a.dlz", device="cpu")
    overrides["student"] = "lenet5"
    out = tmp_path / "student.dlz"
    found = compress(teacher, "distill", overrides=overrides, data=few_digits(), out=out, device="cpu", threads=1)
    student = open_trained(out)
    assert student.model_name == "lenet5"
    subject = subject_of(teacher, few_digits(), device="cpu", threads=1)
    pictures = torch.from_numpy(np.array(Loader(subject.train, (8, 8), 1).pictures(np.arange(96))))
    with torch.inference_mode():
        agree = (student.picture_model(pictures).argmax(1) == teacher.picture_model(pictures).argmax(1)).float().mean()
    assert agree > 0.75, "labels are not used at all, so that this comes from the teacher"
    assert found["report"]["accuracy_teacher"] == found["validation"]["before"]["accuracy"]


def test_hints_bring_features_together_and_leave_nothing_in_the_student(teacher: Trained) -> None:
    subject = subject_of(teacher, few_digits(), device="cpu", threads=1)
    stages = [stage.name for stage in subject.model.stages]
    settings = DistillSettings(epochs=1, hints={stages[0]: stages[0], stages[-1]: stages[-1]})
    done = Distill().apply(subject, settings)
    assert list(done.model.state_dict()) == list(teacher.model.state_dict())
    torch.manual_seed(5)
    again = Distill().apply(subject_of(teacher, few_digits(), device="cpu", threads=1), settings)
    pairs = zip(done.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the result depends on more than the seed"
    with pytest.raises(InputError, match="no stage"):
        Distill().apply(subject_of(teacher, few_digits(), device="cpu"), DistillSettings(hints={"nowhere": stages[0]}))


def test_one_of_student_and_teacher() -> None:
    with pytest.raises(ValueError, match="RUN is the other"):
        DistillSettings(student="lenet5", teacher="runs/x")


def test_a_pruned_network_goes_on_with_a_teacher(teacher: Trained, tmp_path: Path) -> None:
    pruned, out = tmp_path / "pruned.dlz", tmp_path / "taught.dlz"
    settings = {"macs": 0.5, "epochs": 0, "measure": False}
    compress(teacher, "prune-channels", overrides=settings, data=few_digits(), out=pruned, device="cpu", threads=1)
    whole = tmp_path / "whole.dlz"
    compress(teacher, "prune", overrides={"keep": 1.0, "rounds": 1, "epochs": 0}, data=few_digits(), out=whole)
    overrides = {"teacher": str(whole), "epochs": 3}
    found = compress(pruned, "distill", overrides=overrides, data=few_digits(), out=out, device="cpu", threads=1)
    assert open_trained(out).edits == open_trained(pruned).edits
    before, after = (found["validation"][key]["cross_entropy"] for key in ("before", "after"))
    assert after < before
