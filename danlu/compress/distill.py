"""Distillation: a student learns from a teacher's probabilities, and from its features if wanted.

Soft targets: :mod:`danlu.compress.soft_targets`. Hints: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets",
equation 3: a 1×1 convolution takes a stage of the student to the teacher's, and the squared distance is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.compress import METHODS
from danlu.compress.base import Compressed, Method, Subject
from danlu.compress.dlz import build_model
from danlu.compress.edits import Edit, apply_edits
from danlu.compress.prune import retraining
from danlu.compress.retrain import Hooks, retrain, validate
from danlu.compress.soft_targets import distillation_loss
from danlu.core.errors import InputError
from danlu.core.seeds import derive_seed
from danlu.core.settings import Settings
from danlu.models import create_model
from danlu.models.base import VisionModel
from danlu.tasks.classification import Batch
from danlu.tasks.preprocess import PictureModel
from danlu.tasks.trained import Trained, open_trained
from danlu.train.optimizer_settings import AdamSettings, OptimizerSettings

__all__ = ["Distill", "DistillSettings"]


class DistillSettings(Settings):
    """How a student is taught.

    Attributes:
        student: registered name of the student, made afresh; RUN is then the teacher.
        teacher: a run folder or coded file, the teacher; RUN is then the student and goes on from its weights. Where
            neither is given, RUN teaches a fresh network of its own kind (Furlanello et al. 2018, "Born-Again Neural
            Networks").
        temperature: T of the soft targets.
        hard: weight of the loss on the labels; that of the soft targets is 1 - ``hard``.
        hints: stage of the student -> stage of the teacher it imitates.
        hint: weight of the hints.
        epochs: of training.
        optimizer: of training.
        by_run: train with the run's own augmentation; otherwise on the pictures as they are.
    """

    student: str = ""
    teacher: str = ""
    temperature: float = Field(default=4.0, gt=0.0, le=1000.0)
    hard: float = Field(default=0.1, ge=0.0, le=1.0)
    hints: dict[str, str] = Field(default_factory=dict)
    hint: float = Field(default=1.0, ge=0.0)
    epochs: int = Field(default=5, ge=1, le=10_000)
    optimizer: OptimizerSettings = AdamSettings(lr=1e-3)
    by_run: bool = True

    @model_validator(mode="after")
    def _agree(self) -> DistillSettings:
        if self.student and self.teacher:
            raise ValueError("student and teacher are both given: RUN is the other one")
        return self


class Distill(Method[DistillSettings]):
    """Soft targets with temperature, and hints."""

    Settings = DistillSettings

    def apply(self, subject: Subject, settings: DistillSettings) -> Compressed:
        """Return the student; ``report`` has both accuracies on validation and how often the two agree."""
        if settings.teacher:
            trained = open_trained(settings.teacher)
            _check_pictures(trained, subject)
            order, picture = _order(trained, subject), trained.preprocess.to(subject.device)
            student, teacher = subject.model, trained.model.to(subject.device)
            build, edits = subject.build, subject.edits
        else:
            order, picture, teacher = None, None, subject.model
            student, build, edits = _fresh(settings.student, subject)
        before = validate(subject, subject.model)
        hints = _Hints(student, teacher, settings.hints, subject) if settings.hints else None
        loss = _Loss(teacher.eval(), settings, hints, order, picture, subject)
        config = retraining(subject, settings.epochs, settings.optimizer)
        if not settings.by_run:
            config = config.model_copy(update={"augment": ()})
        holder = student if hints is None else _Together(student, hints)
        retrain(subject, holder, config, title="distill", hooks=Hooks(loss=loss))
        after = validate(subject, student)
        report = {
            "temperature": settings.temperature,
            "teacher": settings.teacher or subject.name,
            "student": build["name"],
            "parameters": {
                "teacher": sum(p.numel() for p in teacher.parameters()),
                "student": sum(p.numel() for p in student.parameters()),
            },
            ("accuracy_before" if settings.teacher else "accuracy_teacher"): before["accuracy"],
            "accuracy": after["accuracy"],
        }
        return Compressed(student, edits, report, build=build)


def _fresh(name: str, subject: Subject) -> tuple[VisionModel, Mapping[str, Any], tuple[Edit, ...]]:
    """Return a fresh student, how it is made, and its edits: those of the subject where it is of the same kind."""
    classes, channels = len(subject.classes), subject.preprocess.channels
    torch.manual_seed(subject.seed)
    if not name:
        student = build_model(subject.build, (classes, channels), subject.name)
        apply_edits(student, subject.edits)
        return student.to(subject.device), subject.build, subject.edits
    student = create_model(name, num_classes=classes, in_channels=channels)
    _check_size(student, subject)
    return student.to(subject.device), {"name": name, "num_classes": classes, "in_channels": channels}, ()


class _Loss:
    """The loss of one step, for ``Hooks.loss``."""

    def __init__(
        self,
        teacher: VisionModel,
        settings: DistillSettings,
        hints: _Hints | None,
        order: list[int] | None,
        picture: nn.Module | None,
        subject: Subject,
    ) -> None:
        self.teacher, self.settings, self.hints, self.order, self.picture = teacher, settings, hints, order, picture
        self.task = subject.task

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the task's figures with the distilled loss."""
        assert isinstance(model, PictureModel)
        picture = self.picture if self.picture is not None else model.preprocess
        kept: list[Tensor] = []
        handle = model.network.register_forward_hook(lambda _m, _a, output: kept.append(_logits(output)))
        try:
            figures = self.task.loss(model, batch)
        finally:
            handle.remove()
        with torch.no_grad():
            x = picture(batch.pictures)
            features = self.teacher.features(x)
            soft = self.teacher.head(features[self.teacher.stages[-1].name]).float()
            soft = soft if self.order is None else soft[:, self.order]
        loss = distillation_loss(kept[0].float(), soft, figures["loss"], self.settings.temperature, self.settings.hard)
        if self.hints is not None:
            loss = loss + self.settings.hint * self.hints.distance(features)
        return {**figures, "loss": loss}


def _logits(output: Any) -> Tensor:
    logits: Tensor = output["logits"] if isinstance(output, Mapping) else output
    return logits


class _Hints(nn.Module):
    """1×1 regressors from stages of the student to stages of the teacher."""

    def __init__(self, student: VisionModel, teacher: VisionModel, pairs: Mapping[str, str], subject: Subject) -> None:
        super().__init__()
        self.pairs, self.seen = dict(pairs), dict[str, Tensor]()
        x = torch.zeros(1, subject.preprocess.channels, *subject.preprocess.input_size, device=subject.device)
        torch.manual_seed(derive_seed("distill/hints", subject.seed))
        with torch.no_grad():
            ours, theirs = student.eval().features(x), teacher.eval().features(x)
        regressors = {}
        for number, (mine, goal) in enumerate(pairs.items()):
            for name, there, who in ((mine, ours, "student"), (goal, theirs, "teacher")):
                if name not in there:
                    raise InputError(f"the {who} has no stage {name!r}", where="hints", allowed=list(there))
            if ours[mine].dim() != theirs[goal].dim():
                what = f"{mine} is {list(ours[mine].shape)}, {goal} is {list(theirs[goal].shape)}"
                raise InputError(what, where="hints", mend="pair maps with maps, vectors with vectors")
            maps = ours[mine].dim() == 4
            axis = 1 if maps else -1
            width = (ours[mine].shape[axis], theirs[goal].shape[axis])
            regressors[str(number)] = nn.Conv2d(*width, 1) if maps else nn.Linear(*width)
        self.regressors = nn.ModuleDict(regressors).to(subject.device)

    def distance(self, theirs: Mapping[str, Tensor]) -> Tensor:
        """Return the mean squared distance of what was seen last, maps of another size pooled to the smaller one."""
        total = []
        for (mine, goal), regressor in zip(self.pairs.items(), self.regressors.values(), strict=True):
            own, aim = regressor(self.seen[mine]), theirs[goal]
            if own.dim() == 4 and own.shape[2:] != aim.shape[2:]:
                size = tuple(min(pair) for pair in zip(own.shape[2:], aim.shape[2:], strict=True))
                own, aim = F.adaptive_avg_pool2d(own, size), F.adaptive_avg_pool2d(aim, size)
            total.append(F.mse_loss(own, aim))
        return torch.stack(total).mean()


class _Together(nn.Module):
    """The student and its regressors, so that one optimiser moves both; features are computed once."""

    def __init__(self, student: VisionModel, hints: _Hints) -> None:
        super().__init__()
        self.student, self.hints = student, hints
        self.auxiliary_weight = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return the student's logits; its stages are left with the hints."""
        features = self.student.features(x)
        self.hints.seen = features
        return self.student.head(features[self.student.stages[-1].name])


def _order(trained: Trained, subject: Subject) -> list[int]:
    if set(trained.classes) != set(subject.classes):
        raise InputError("has other classes than the student", where=trained.run.name, allowed=list(subject.classes))
    return [trained.classes.index(name) for name in subject.classes]


def _check_pictures(trained: Trained, subject: Subject) -> None:
    own, other = subject.preprocess, trained.preprocess.settings
    if (own.picture_size, own.channels) != (other.picture_size, other.channels):
        what = f"takes pictures of {other.picture_size}×{other.channels}, the student {own.picture_size}×{own.channels}"
        raise InputError(what, where=trained.run.name, mend="train both on the same data with the same picture size")


def _check_size(student: VisionModel, subject: Subject) -> None:
    size = subject.preprocess.input_size
    if student.input_size not in (None, size) or min(size) < student.smallest:
        raise InputError(f"takes other pictures than {size[0]}×{size[1]}: {student.input_reason}", where="student")


METHODS.register(
    "distill", Distill(), __name__, title="a student learns from a teacher's probabilities", works_on="network"
)
