"""The contract of compression methods: what a method is given, and what it gives back.

A method is one file with a frozen ``Settings`` and ``apply(subject, settings)``. The subject's model is a copy, so that
the input stays untouched; its data are the training and validation splits, so that nothing is chosen by the test split.
"""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from danlu.compress.codings import Hint
from danlu.compress.edits import Edit
from danlu.core.allocator import keep_freed_memory
from danlu.core.errors import InputError, nearest_names
from danlu.core.settings import Settings, make_settings
from danlu.data.load import Data, load_data
from danlu.data.sample import Dataset
from danlu.models.base import VisionModel
from danlu.tasks.classification import Classification
from danlu.tasks.losses import class_weights
from danlu.tasks.preprocess import PreprocessSettings
from danlu.tasks.trained import Trained, open_trained
from danlu.train.precision import choose_device
from danlu.train.settings import TrainConfig

__all__ = ["Compressed", "Method", "Subject", "check_layers", "subject_of", "weighted_layers"]

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Subject:
    """A network to compress, with what it needs to be trained on.

    Attributes:
        model: a copy, in eval mode, on ``device``; the method may change it.
        build: how it was made: what ``create_model`` was called with (``name``, ``num_classes``, ``in_channels``).
        edits: what was changed in its structure before (of a coded file).
        preprocess: from uint8 pictures to the network's input.
        task: loss and metrics, with the run's own loss.
        train: the training split.
        validation: the validation split, by which everything is chosen.
        settings: those of the run's training; recipes of retraining start from them.
        effective: the ``effective`` section of the run's ``config.json``.
        seed: of every draw.
        device: where the model is.
        threads: processor threads.
        name: what messages call it.
        weights_hash: SHA-256 of the weights it had.
    """

    model: VisionModel
    build: Mapping[str, Any]
    edits: tuple[Edit, ...]
    preprocess: PreprocessSettings
    task: Classification
    train: Dataset
    validation: Dataset
    settings: TrainConfig
    effective: Mapping[str, Any]
    seed: int
    device: torch.device
    threads: int
    name: str
    weights_hash: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.task.classes

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Compute with the subject's threads; threads and torch's generators are as before when the block ends."""
        keep_freed_memory()
        threads = torch.get_num_threads()
        devices = [self.device] if self.device.type == "cuda" else []
        torch.set_num_threads(self.threads)
        try:
            with torch.random.fork_rng(devices=devices):
                yield
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class Compressed:
    """What a method gives back.

    Attributes:
        model: the compressed network, float32 tensors that hold exactly what is to be coded.
        edits: all changes of structure since ``create_model``, those of the subject first.
        report: plain values of the method's own: what was done, by which settings, what it measured on validation.
        hints: name of a tensor -> what is known about its values, where the writer should not have to find out.
        coder: which coders the writer may choose from, see :data:`danlu.compress.codings.CODERS`.
        build: how the network is made where it is another than the subject's.
    """

    model: VisionModel
    edits: tuple[Edit, ...]
    report: dict[str, Any] = field(default_factory=dict)
    hints: Mapping[str, Hint] = field(default_factory=dict)
    coder: str = "auto"
    build: Mapping[str, Any] | None = None


class Method(ABC, Generic[S]):
    """One way to make a network smaller. Registered as an instance, ``works_on="network"``."""

    Settings: ClassVar[type[Settings]]

    @abstractmethod
    def apply(self, subject: Subject, settings: S) -> Compressed:
        """Return the compressed network; ``subject.model`` may be changed and used.

        Raises:
            InputError: the network cannot be taken; the message names the layer and says why.
        """


def subject_of(
    source: Path | str | Trained,
    data: Data | None = None,
    *,
    seed: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Subject:
    """Open what is to be compressed.

    Args:
        source: a run folder, a ``.dlz``, or an open network, which is copied.
        data: what it was trained on; loaded from where the run says when not given. The test split is left behind.
        seed: of every draw; the run's own by default.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<i>`` or ``mps``.
        threads: processor threads; those of the run by default.

    Raises:
        InputError: it cannot be opened, it was trained on the validation split too or for another task than
            classification, or the data is not what it was trained on.
    """
    trained = source if isinstance(source, Trained) else open_trained(source)
    if trained.task.name != Classification.name:
        raise InputError(f"is for {trained.task.name}", where=trained.run.name, allowed=[Classification.name])
    if trained.trained_on != "train":
        what = f"was trained on {trained.trained_on}, and compression chooses by the validation split"
        raise InputError(what, where=trained.run.name, mend="train with --set train_on=train")
    effective = trained.config["effective"]
    used = effective["data"]
    if data is None:
        data = load_data(used["source"], seed=effective.get("seed", 0), channels=effective["preprocess"]["channels"])
    if data.hash != used["hash"] or data.seed != used.get("seed", data.seed):
        what = f"{data.name} is not the data this network was trained on, split as it was then"
        raise InputError(what, where=trained.run.name, mend=f"give {used.get('source')}, seed {used.get('seed')}")
    chosen = choose_device(device)
    machine = effective.get("machine") or {}
    config = make_settings(TrainConfig, effective.get("train") or {}, f"{trained.run.name}, train")
    weights = class_weights(config.loss, torch.from_numpy(data.train.labels), len(trained.classes))
    task = Classification(trained.classes, config.label_smoothing, config.loss, weights)
    return Subject(
        model=copy.deepcopy(trained.model).to(chosen).eval(),
        build=dict(effective["model"]),
        edits=tuple(trained.edits),
        preprocess=trained.preprocess.settings,
        task=task,
        train=data.train,
        validation=data.validation,
        settings=config,
        effective=effective,
        seed=effective.get("seed", 0) if seed is None else seed,
        device=chosen,
        threads=threads or machine.get("threads") or torch.get_num_threads(),
        name=trained.run.name,
        weights_hash=trained.weights_hash,
    )


def weighted_layers(model: nn.Module) -> dict[str, Tensor]:
    """Return name of the weight -> weight of every convolution and linear layer, in the network's order.

    These are the tensors that pruning and sharing work on; biases and norms stay as they are.

    Raises:
        InputError: the network has none.
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and isinstance(weight, nn.Parameter):
            found[f"{name}.weight" if name else "weight"] = weight
    if not found:
        raise InputError("has no convolution and no linear layer", where=type(model).__name__)
    return found


def check_layers(named: Mapping[str, Any], weights: Mapping[str, Tensor], method: str) -> None:
    """Refuse settings for weights the network does not have.

    Raises:
        InputError: it names the first one.
    """
    for name in named:
        if name not in weights:
            raise InputError(
                f"layers: {name!r} is no weight this method works on",
                where=method,
                nearest=nearest_names(name, weights),
                allowed=weights,
            )
