"""Structured pruning: whole channels, and residual blocks, until a share of the multiply-adds is left; then training.

Unlike single weights, whole channels leave a smaller dense network that is faster in every runtime. Which channels
depend on one another is found by :mod:`danlu.compress.channel_graph` for any network; which go is chosen by
:mod:`danlu.compress.choose_channels`. Li et al. 2017, "Pruning Filters for Efficient ConvNets"; Liu et al. 2017,
"Learning Efficient Convolutional Networks through Network Slimming"; Molchanov et al. 2019, "Importance Estimation for
Neural Network Pruning"; Fang et al. 2023, "DepGraph: Towards Any Structural Pruning".
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from danlu.analyze.counting import count
from danlu.compress import METHODS
from danlu.compress.base import Compressed, Method, Subject
from danlu.compress.blocks import least_blocks, residual_blocks
from danlu.compress.channel_graph import ChannelGraph, trace_channels
from danlu.compress.choose_channels import Criterion, choose, edits_of, layer_macs, scores
from danlu.compress.edits import Edit, apply_edits
from danlu.compress.latency import side_by_side
from danlu.compress.prune import retraining
from danlu.compress.retrain import Hooks, retrain, validate
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.settings import Settings
from danlu.data.loader import Loader
from danlu.models.base import VisionModel
from danlu.tasks.preprocess import PictureModel, Preprocess
from danlu.train.optimizer_settings import AdamSettings, OptimizerSettings

__all__ = ["PruneChannels", "PruneChannelsSettings", "prune_once", "stage_macs", "taylor_scores"]


def _share(value: Any) -> Any:
    """Read ``"2.1x"`` as 1 / 2.1."""
    if isinstance(value, str) and value.endswith("x"):
        try:
            return 1.0 / float(value[:-1])
        except (ValueError, ZeroDivisionError):
            return value
    return value


class PruneChannelsSettings(Settings):
    """How channels are pruned.

    Attributes:
        macs: share of the multiply-adds that is left, or how many times fewer: ``2.1x``.
        criterion: what a channel is worth: ``l2``, ``l1``, ``bn`` (scales of batch norms), ``taylor``, ``random``.
        scope: one threshold for all layers, or the same share of each.
        multiple: widths are rounded to multiples of it: 8 suits vector units; it costs a little of the target.
        least: share of the channels of every layer that stays.
        blocks: residual blocks that are left out before, those whose absence costs least on validation.
        slimming: epochs of training in which the scales of batch norms are pulled to zero before pruning.
        penalty: how strongly: the factor of their L1 norm in the loss.
        rounds: in how many steps the target is reached, with ``epochs`` of training after each.
        epochs: of retraining in each round.
        optimizer: of retraining.
        measure: measure latency beside the dense network in ONNX Runtime, on one thread.
    """

    macs: Annotated[float, BeforeValidator(_share)] = Field(default=0.5, gt=0.0, le=1.0)
    criterion: Criterion = "l2"
    scope: Literal["global", "layer"] = "global"
    multiple: int = Field(default=1, ge=1, le=64)
    least: float = Field(default=0.1, gt=0.0, le=1.0)
    blocks: int = Field(default=0, ge=0)
    slimming: int = Field(default=0, ge=0, le=10_000)
    penalty: float = Field(default=1e-4, ge=0.0)
    rounds: int = Field(default=1, ge=1, le=100)
    epochs: int = Field(default=3, ge=0, le=10_000)
    optimizer: OptimizerSettings = AdamSettings(lr=1e-3)
    measure: bool = True


class PruneChannels(Method[PruneChannelsSettings]):
    """Channels and blocks removed by what depends on them, then retraining."""

    Settings = PruneChannelsSettings

    def apply(self, subject: Subject, settings: PruneChannelsSettings) -> Compressed:
        """Return the smaller network; ``report`` has parameters, multiply-adds a stage, latency and refusals."""
        shape = _shape(subject)
        dense, model, edits = copy.deepcopy(subject.model), subject.model, list(subject.edits)
        all_macs, rounds = count(dense, (1, *shape)).macs, list[dict[str, Any]]()
        if settings.slimming:
            _slim(subject, model, settings)
        dropped = _drop(subject, model, settings.blocks, shape)
        edits += [Edit("drop_blocks", {"names": [row["block"] for row in dropped]})] if dropped else []
        apply_edits(model, edits[len(subject.edits) :])
        for number in range(1, settings.rounds + 1):
            share = settings.macs ** (number / settings.rounds) * all_macs / count(model, (1, *shape)).macs
            made, graph = prune_once(model, shape, min(share, 1.0), settings, subject)
            apply_edits(model, made)
            edits += made
            if settings.epochs:
                title = f"prune-channels, round {number} of {settings.rounds}"
                retrain(subject, model, retraining(subject, settings.epochs, settings.optimizer), title=title)
            found = validate(subject, model)
            left = count(model, (1, *shape)).macs
            rounds.append({"macs": left, "accuracy": found["accuracy"]})
            logger.info("prune-channels: %.2f× fewer MACs, accuracy %.4f", all_macs / left, found["accuracy"])
        report: dict[str, Any] = {
            "parameters": {"before": _parameters(dense), "after": _parameters(model)},
            "macs": {"before": all_macs, "after": count(model, (1, *shape)).macs},
            "stages": stage_macs(dense, model, shape),
            "blocks": dropped,
            "rounds": rounds,
            "not_pruned": graph.refusals(),
        }
        if settings.measure:
            report["latency"] = side_by_side({"dense": dense, "pruned": model}, shape)
        return Compressed(model, tuple(edits), report)


def _shape(subject: Subject) -> tuple[int, int, int]:
    return (subject.preprocess.channels, *subject.preprocess.input_size)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def prune_once(
    model: VisionModel,
    shape: tuple[int, int, int],
    macs: float,
    settings: PruneChannelsSettings | None = None,
    subject: Subject | None = None,
) -> tuple[tuple[Edit, ...], ChannelGraph]:
    """Return the edits that leave the share ``macs`` of a network's work, and its graph; nothing is changed.

    Args:
        model: the network.
        shape: [C, H, W] of its pictures.
        macs: share of the multiply-adds that is left.
        settings: criterion, scope, rounding.
        subject: whose training pictures the criterion ``taylor`` needs.

    Raises:
        InputError: the target cannot be reached; the message names layers that cannot be pruned, and why.
    """
    settings = settings or PruneChannelsSettings()
    graph = trace_channels(model, shape)
    if settings.criterion == "taylor":
        if subject is None:
            raise InputError("criterion taylor needs training pictures", mend="use criterion l2")
        score = taylor_scores(subject, model, graph)
    else:
        score = scores(model, graph, settings.criterion, seed=0 if subject is None else subject.seed)
    rest = count(model, (1, *shape)).macs - sum(layer_macs(graph, set()).values())
    removed = choose(
        graph, score, macs=macs, rest=rest, scope=settings.scope, multiple=settings.multiple, least=settings.least
    )
    return edits_of(model, graph, removed), graph


def stage_macs(dense: VisionModel, pruned: VisionModel, shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Return for each child of the network its multiply-adds before and after: ``{"stage", "before", "after"}``."""
    rows: dict[str, dict[str, Any]] = {}
    for key, model in (("before", dense), ("after", pruned)):
        for name, own in count(model, (1, *shape)).modules.items():
            stage = name.partition(".")[0]
            rows.setdefault(stage, {"stage": stage, "before": 0, "after": 0})[key] += own.macs
    return [row for row in rows.values() if row["before"]]


def taylor_scores(subject: Subject, model: VisionModel, graph: ChannelGraph, batches: int = 8) -> dict[int, float]:
    """Return root label -> mean over training batches of (Σ weight · gradient)²; the weights stay as they are."""
    total: dict[int, float] = {}
    network = PictureModel(Preprocess(subject.preprocess), model).to(subject.device).eval()
    for pictures, labels in _train_batches(subject, batches):
        model.zero_grad()
        batch = subject.task.collate(pictures, labels, [""] * len(labels)).to(subject.device)
        subject.task.loss(network, batch)["loss"].backward()  # type: ignore[no-untyped-call]
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for root, value in scores(model, graph, "taylor", gradients).items():
            total[root] = total.get(root, 0.0) + value * value
    model.zero_grad()
    return total


def _train_batches(subject: Subject, batches: int, size: int = 128) -> Iterator[tuple[Any, Any]]:
    settings = subject.preprocess
    loader = Loader(subject.train, settings.picture_size, settings.channels)
    order = np.random.default_rng(subject.seed).permutation(len(subject.train))
    for part in (order[k * size : (k + 1) * size] for k in range(batches)):
        if len(part):
            yield loader.pictures(part), np.asarray(subject.train.labels)[part]


def _slim(subject: Subject, model: VisionModel, settings: PruneChannelsSettings) -> None:
    """Train with an L1 penalty on the scales of all batch norms."""
    scales = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
    if not scales:
        raise InputError("has no batch norm whose scales could be pulled to zero", where=subject.name)

    def penalty() -> Tensor:
        return settings.penalty * torch.stack([scale.abs().sum() for scale in scales]).sum()

    config = retraining(subject, settings.slimming, settings.optimizer)
    retrain(subject, model, config, title="prune-channels, slimming", hooks=Hooks(penalty=penalty))


def _drop(subject: Subject, model: VisionModel, number: int, shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    if not number:
        return []
    blocks = residual_blocks(model, shape)
    if len(blocks) < number:
        raise InputError(f"has {len(blocks)} residual blocks that can be left out", where=f"blocks = {number}")
    return least_blocks(subject, model, blocks, number)


METHODS.register(
    "prune-channels",
    PruneChannels(),
    __name__,
    title="whole channels and blocks are removed, the rest trained again",
    works_on="network",
)
