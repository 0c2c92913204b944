"""What takes effect in a run: the ``effective`` section of ``config.json``, written once and read by resume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from danlu.augment.chain import make_chain
from danlu.core import seeds
from danlu.core.environment import usable_cores
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.records import RunFolder
from danlu.core.settings import make_settings
from danlu.data.load import Data
from danlu.data.loader import Loader
from danlu.data.sample import joined
from danlu.models import create_model
from danlu.models.base import VisionModel
from danlu.tasks import TASKS
from danlu.tasks.classification import Classification
from danlu.tasks.losses import class_weights
from danlu.tasks.multilabel import Multilabel
from danlu.tasks.preprocess import PictureModel, Preprocess, PreprocessSettings
from danlu.train.batches import Split
from danlu.train.checkpoint import Checkpoints
from danlu.train.convolution import use_kernels
from danlu.train.distributed import ALONE, World
from danlu.train.ema import MovingAverage
from danlu.train.fusion import use_fused
from danlu.train.lookahead import with_lookahead
from danlu.train.loop import Training
from danlu.train.memory import recompute
from danlu.train.optimizers import make_optimizer
from danlu.train.precision import LossScaler
from danlu.train.settings import TrainConfig, TransferSettings
from danlu.train.trackers import make_trackers
from danlu.train.transfer import Transfer

__all__ = ["Plan", "data_section", "differences", "task_of"]


def data_section(data: Data) -> dict[str, Any]:
    """Return what identifies the data a run was trained on."""
    record = data.to_record()
    keys = ("name", "source", "hash", "classes", "sizes", "seed", "multilabel")
    return {key: record[key] for key in keys if key in record}


def task_of(data: Mapping[str, Any]) -> str:
    """Return the name of the task that a :func:`data_section` is for."""
    return Multilabel.name if data.get("multilabel") else Classification.name


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Return one line for each value that differs between two JSON documents: ``key: old → new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            found += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if old == new else [f"{key}: {old!r} → {new!r}"]


@dataclass(frozen=True)
class Plan:
    """The effective settings of a run.

    Attributes:
        data: see :func:`data_section`.
        model: the network's registered name.
        preprocess: how pictures reach it.
        config: the training settings, epochs fitted.
        recipe: where they came from.
        device: where the network runs.
        precision: ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
        threads: processor threads.
        seed: of initialisation, order and augmentation.
        kernels: convolutions whose weight gradient is not the library's, see :mod:`danlu.train.convolution`.
        fused: places of the network's graph that take kernels of our own, see :mod:`danlu.train.fusion`.
        ranks: processes that train together.
    """

    data: dict[str, Any]
    model: str
    preprocess: PreprocessSettings
    config: TrainConfig
    recipe: str
    device: str
    precision: str
    threads: int
    seed: int
    kernels: dict[str, str] = field(default_factory=dict)
    fused: tuple[str, ...] = ()
    ranks: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the ``effective`` section of ``config.json``."""
        return {
            "data": self.data,
            "task": task_of(self.data),
            "model": {
                "name": self.model,
                "num_classes": len(self.data["classes"]),
                "in_channels": self.preprocess.channels,
            },
            "preprocess": self.preprocess.model_dump(mode="json"),
            "recipe": self.recipe,
            "train": self.config.model_dump(mode="json"),
            "machine": {
                "device": self.device,
                "threads": self.threads,
                "precision": self.precision,
                "channels_last": self.config.channels_last,
                "kernels": self.kernels,
                "fused": list(self.fused),
                **({"ranks": self.ranks} if self.ranks > 1 else {}),
            },
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, effective: Mapping[str, Any], where: str) -> Plan:
        """Return the plan that :meth:`to_json` wrote.

        Raises:
            InputError: a key is missing, unknown or out of its range.
        """
        try:
            machine = effective["machine"]
            return cls(
                data=effective["data"],
                model=effective["model"]["name"],
                preprocess=make_settings(PreprocessSettings, effective["preprocess"], f"{where}, preprocess"),
                config=make_settings(TrainConfig, effective["train"], f"{where}, train"),
                recipe=effective["recipe"],
                device=machine["device"],
                precision=machine["precision"],
                threads=machine["threads"],
                seed=effective["seed"],
                kernels=machine.get("kernels", {}),
                fused=tuple(machine.get("fused", ())),
                ranks=machine.get("ranks", 1),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"is no configuration of a training run: {error}", where=where) from None

    def with_threads(self, threads: int) -> Plan:
        """Return the plan with another number of threads."""
        return replace(self, threads=threads)

    def with_kernels(self, kernels: dict[str, str], fused: Iterable[str] = ()) -> Plan:
        """Return the plan with other weight gradients and fused places."""
        return replace(self, kernels=kernels, fused=tuple(fused))

    def with_settings(self, **settings: Any) -> Plan:
        """Return the plan with other training settings."""
        return replace(self, config=self.config.model_copy(update=settings))

    def build(self, data: Data, run: RunFolder, world: World = ALONE) -> Training:
        """Build everything the loop needs, with a freshly initialised network that depends on the seed alone."""
        torch.manual_seed(seeds.derive_seed("train/initialise", self.seed))
        network = create_model(self.model, num_classes=len(data.classes), in_channels=self.preprocess.channels)
        device = world.place(self.device)
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        if self.config.recompute and not recompute(network):
            raise InputError(f"{self.model} has no blocks whose inside could be computed again", where="recompute")
        self.use_chosen(network)
        if self.config.compile is True:
            network.compile()
        model = PictureModel(Preprocess(self.preprocess), network).to(device)
        selects = self.config.train_on == "train"
        train = data.train if selects else joined(data.train, data.validation)
        weights = class_weights(self.config.loss, torch.from_numpy(train.labels), len(data.classes))
        kind: type[Classification] = TASKS.get(task_of(self.data))
        task = kind(data.classes, self.config.label_smoothing, self.config.loss, weights)
        (phase,) = task.phases(model)
        size, channels = self.preprocess.picture_size, self.preprocess.channels
        decoders = max(2, usable_cores())
        transfer = self._transfer(network)
        optimizer = with_lookahead(
            make_optimizer(network, phase.parameters, self.config.optimizer), self.config.lookahead
        )
        if transfer is not None and self.config.transfer.lr_decay != 1.0:
            optimizer.scales.update(transfer.scales())
        return Training(
            run=run,
            config=self.config,
            seed=self.seed,
            task=task,
            model=model,
            optimizer=optimizer,
            device=device,
            precision=self.precision,
            chain=make_chain(self.config.augment),
            train=Split(train, Loader(train, size, channels, threads=decoders)),
            validation=Split(data.validation, Loader(data.validation, size, channels, threads=decoders)),
            checkpoints=Checkpoints(run.checkpoints, self.config.keep, selects=selects),
            average=None if self.config.ema is None else MovingAverage(network, self.config.ema),
            transfer=transfer,
            scaler=LossScaler() if self.precision == "fp16" else None,
            trackers=make_trackers(self.config.trackers if world.first else ()),
            world=world,
        )

    def use_chosen(self, network: nn.Module) -> None:
        """Let ``network`` compute by the kernels that were chosen."""
        use_kernels(network, self.kernels)
        if missing := set(self.fused) - set(use_fused(network, self.fused)):
            lacking = f"{len(missing)} fused kernels of this run cannot be had here"
            logger.warning("%s (no C++ compiler?): the library's take their place, and the last bits differ", lacking)

    def _transfer(self, network: VisionModel) -> Transfer | None:
        """Return what is frozen and when; nothing where the settings ask for nothing of it."""
        settings = self.config.transfer
        if settings.model_copy(update={"partial": False}) == TransferSettings():
            return None
        return Transfer(network, (self.preprocess.channels, *self.preprocess.input_size), settings)
