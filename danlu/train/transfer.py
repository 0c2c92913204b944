"""Transfer: weights that fit in part, frozen stages, rates by depth, gradual unfreezing.

Which parameters belong to which stage is read off the network itself: a stage owns what its output depends on and the
stage before does not. What no stage depends on is the head.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.models.base import VisionModel
from danlu.models.weights import load_state, named_for
from danlu.train.schedule import learning_rate
from danlu.train.settings import TransferSettings

if TYPE_CHECKING:
    from danlu.train.loop import Training

__all__ = ["HEAD", "Loaded", "Transfer", "load_fitting", "stage_parameters"]

HEAD = "head"
_SHOWN = 10


def stage_parameters(network: VisionModel, picture: tuple[int, int, int]) -> dict[str, list[str]]:
    """Return stage -> names of its parameters, in the order of the stages, and ``head`` for the rest.

    Args:
        network: stays as it is; a copy without values runs.
        picture: [C, H, W] of a picture it accepts.
    """
    twin = copy.deepcopy(network).to("meta").eval().requires_grad_(True)
    parameters = dict(twin.named_parameters())
    features = twin.features(torch.empty((2, *picture), device="meta"))
    left, found = dict(parameters), {}
    for stage in network.stages:
        gradients = torch.autograd.grad(
            features[stage.name].sum(), list(left.values()), allow_unused=True, retain_graph=True
        )
        found[stage.name] = [name for name, gradient in zip(left, gradients, strict=True) if gradient is not None]
        left = {name: value for name, value in left.items() if name not in found[stage.name]}
    return {**found, HEAD: list(left)}


@dataclass(frozen=True)
class Loaded:
    """What of a file of weights was taken over.

    Attributes:
        matched: names that were loaded.
        missing: names the file lacks; they keep their fresh values.
        unexpected: names of the file the network lacks.
        reshaped: names whose shapes differ; they keep their fresh values.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the counts, and the first names of what was not taken over."""
        parts = [f"{len(self.matched)} tensors matched"]
        for what, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.reshaped),
        ):
            if names:
                more = f", … ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else ""
                parts.append(f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}")
        return "; ".join(parts)


def load_fitting(network: VisionModel, path: Path, head: list[str], *, partial: bool) -> Loaded:
    """Load what fits of a file: all of it, all but a head of other classes, or with ``partial`` whatever fits.

    Args:
        network: receives the weights; unchanged when an error is raised.
        path: the file.
        head: names of the head's parameters, which may differ in shape.
        partial: whether other differences are allowed too.

    Raises:
        InputError: the file cannot be read, nothing fits, or something but the head does not.
    """
    weights = named_for(network, path)
    own = network.state_dict()
    loaded = Loaded(
        matched=[name for name in own if name in weights and weights[name].shape == own[name].shape],
        missing=[name for name in own if name not in weights],
        unexpected=[name for name in weights if name not in own],
        reshaped=[name for name in own if name in weights and weights[name].shape != own[name].shape],
    )
    only_head = not loaded.missing and not loaded.unexpected and set(loaded.reshaped) <= set(head)
    if not loaded.matched or not (partial or only_head):
        load_state(network, weights, where=str(path))  # names what differs
    network.load_state_dict({**own, **{name: weights[name] for name in loaded.matched}})
    if loaded.missing or loaded.unexpected or loaded.reshaped:
        logger.info("%s: %s", path, loaded.text())
    return loaded


class Transfer:
    """Which parameters learn, and how fast, in each epoch; a function of the epoch alone, so that resume is exact.

    Args:
        network: the network.
        picture: [C, H, W] of what it sees.
        settings: what is frozen.

    Raises:
        InputError: more stages are to be frozen than there are.
    """

    def __init__(self, network: VisionModel, picture: tuple[int, int, int], settings: TransferSettings) -> None:
        self.network, self.settings = network, settings
        self.stages = stage_parameters(network, picture)
        count = len(network.stages)
        if settings.freeze != "body" and settings.freeze > count:
            raise InputError(
                f"transfer.freeze = {settings.freeze}: the network has {count} stages",
                where="settings",
                allowed=[f"0 … {count}", "body"],
            )
        # What the network's own file keeps fixed stays so.
        self.learns = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        self.norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if settings.freeze_norms and not self.norms:
            raise InputError("transfer.freeze_norms: the network has no batch norm", where="settings")

    def of(self, network: VisionModel) -> Transfer:
        """Return the same for a copy of the network."""
        other = copy.copy(self)
        other.network = network
        other.norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        return other

    def frozen_stages(self, epoch: int) -> list[str]:
        """Return the stages that do not learn in ``epoch``, counted from 0."""
        settings, names = self.settings, [stage.name for stage in self.network.stages]
        count = len(names) if settings.freeze == "body" else int(settings.freeze)
        if settings.unfreeze_every is not None:
            count = max(0, count - epoch // settings.unfreeze_every)
        if settings.stop_first is not None and epoch >= settings.stop_first:
            count = 1
        return names[:count]

    def begin(self, epoch: int) -> list[str]:
        """Freeze what ``epoch`` freezes and set the network to train mode; return the frozen stages.

        A frozen stage's batch norms use and keep their running statistics, so that all its tensors stay bit-identical.
        """
        frozen = self.frozen_stages(epoch)
        still = {name for stage in frozen for name in self.stages[stage]}
        parameters = dict(self.network.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self.learns - still)
            if name in still:
                parameter.grad = None
        self.network.train()
        identities = {id(parameters[name]) for name in still}
        for norm in self.norms:
            if self.settings.freeze_norms or (norm.weight is not None and id(norm.weight) in identities):
                norm.eval()
        return frozen

    def follow(self, training: Training, step: int, lr: float) -> None:
        """Let the first stage, where it stops before the others, have the rate of a training that ends with it.

        Args:
            training: whose optimiser's scales are set.
            step: the step to come.
            lr: the rate of the others in it.
        """
        if self.settings.stop_first is None:
            return
        config = training.config
        epochs = min(self.settings.stop_first, config.epochs)
        total = epochs * training.steps_per_epoch
        own = learning_rate(step, total, config.optimizer.lr, config.schedule, epochs) if step < total else 0.0
        share, scales = own / lr if lr else 0.0, self.scales()
        first = self.stages[self.network.stages[0].name]
        training.optimizer.scales.update({name: share * scales[name] for name in first})

    def scales(self) -> dict[str, float]:
        """Return parameter -> share of the learning rate: ``lr_decay`` to the power of its depth below the head."""
        groups = list(self.stages.values())
        return {
            name: self.settings.lr_decay ** (len(groups) - 1 - depth)
            for depth, group in enumerate(groups)
            for name in group
        }
