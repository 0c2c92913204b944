"""Trained weight sharing: the weights of a layer take a few values, and these values learn.

Han, Mao, Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
Coding", ICLR 2016, section 3. k-means clusters the weights of each layer that are not zero, from centroids that are
spaced evenly between the extremes (``linear``, the paper's choice), at equal numbers of weights (``density``) or drawn
from the weights (``random``). In retraining the gradient of a centroid is the sum of its members' gradients (equation
3). Pruned weights stay zero.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from danlu.compress import METHODS
from danlu.compress.base import Compressed, Method, Subject, check_layers, weighted_layers
from danlu.compress.prune import retraining
from danlu.compress.retrain import retrain, validate
from danlu.core import seeds
from danlu.core.log import logger
from danlu.core.settings import Settings
from danlu.train.optimizer_settings import AdamSettings, OptimizerSettings

__all__ = [
    "Share",
    "ShareSettings",
    "Shared",
    "bake",
    "cluster",
    "first_centroids",
    "k_means",
    "nearest",
    "replace_weight",
]

Init = Literal["linear", "density", "random"]
Values = NDArray[np.float64]


class ShareSettings(Settings):
    """How weights are shared.

    Attributes:
        conv_bits: convolutions have at most 2^bits values that are not zero; 8 in the paper.
        linear_bits: likewise of linear layers; 5 in the paper.
        layers: bits by name of the weight, in place of these.
        init: where centroids begin.
        epochs: of training the centroids.
        optimizer: of that training.
    """

    conv_bits: int = Field(default=8, ge=1, le=12)
    linear_bits: int = Field(default=5, ge=1, le=12)
    layers: dict[str, int] = Field(default_factory=dict)
    init: Init = "linear"
    epochs: int = Field(default=2, ge=0, le=10_000)
    optimizer: OptimizerSettings = AdamSettings(lr=2e-4)

    @model_validator(mode="after")
    def _agree(self) -> ShareSettings:
        wrong = {name: bits for name, bits in self.layers.items() if not 1 <= bits <= 12}
        if wrong:
            raise ValueError(f"layers = {wrong}: each has 1 … 12 bits")
        return self


class Share(Method[ShareSettings]):
    """k-means in each layer, then training of the centroids."""

    Settings = ShareSettings

    def apply(self, subject: Subject, settings: ShareSettings) -> Compressed:
        """Return the network with shared weights; ``report["layers"]`` says how many values each layer has."""
        model, weights = subject.model, weighted_layers(subject.model)
        check_layers(settings.layers, weights, "share")
        rows = []
        for name, weight in weights.items():
            bits = settings.layers.get(name, settings.conv_bits if weight.dim() > 2 else settings.linear_bits)
            rng = np.random.default_rng(seeds.derive_seed(f"share/{name}", subject.seed))
            shared, distortion = cluster(weight, bits, settings.init, rng)
            replace_weight(model, name, shared)
            rows.append({"name": name, "bits": bits, "values": len(shared.codebook), "distortion": distortion})
        before = validate(subject, model)["accuracy"]
        if settings.epochs:
            retrain(subject, model, retraining(subject, settings.epochs, settings.optimizer), title="share")
        bake(model)
        after = validate(subject, model)["accuracy"]
        logger.info("share: validation accuracy %.4f, with trained centroids %.4f", before, after)
        report = {"layers": rows, "accuracy": {"clustered": before, "trained": after}}
        return Compressed(model, subject.edits, report)


class _Take(torch.autograd.Function):
    """weight = codebook[members]; the gradient of a centroid is the sum of its members' gradients (equation 3)."""

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, members: Tensor) -> Tensor:
        """Return the centroid of each member: [..] for codebook [K] and members [..]; a member of -1 is zero."""
        ctx.save_for_backward(members)
        ctx.count = len(codebook)
        return torch.cat([codebook, codebook.new_zeros(1)])[members]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the codebook [K]."""
        (members,) = ctx.saved_tensors
        flat = torch.where(members < 0, ctx.count, members).flatten()
        sums = torch.bincount(flat, weights=gradients[0].flatten().double(), minlength=ctx.count + 1)
        return sums[: ctx.count].to(gradients[0].dtype), None


class Shared(nn.Module):
    """A parametrisation: a weight whose values are members of a codebook.

    Args:
        codebook: float32 [K].
        members: int64 of the weight's shape: the place of each weight's value, or -1 for zero.
    """

    members: Tensor

    def __init__(self, codebook: Tensor, members: Tensor) -> None:
        super().__init__()
        self.codebook = nn.Parameter(codebook)
        self.register_buffer("members", members, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight; the one it replaces has no part in it."""
        del weight
        found: Tensor = _Take.apply(self.codebook, self.members)
        return found


def cluster(weight: Tensor, bits: int, init: str, rng: np.random.Generator) -> tuple[Shared, float]:
    """Return ``weight`` as at most 2^bits shared values and zeros, and the root of the mean squared change."""
    flat = weight.detach().cpu().double().numpy().reshape(-1)
    is_kept = flat != 0
    kept = flat[is_kept]
    centroids = k_means(kept, first_centroids(kept, 1 << bits, init, rng))
    members = np.full(len(flat), -1, dtype=np.int64)
    members[is_kept] = nearest(kept, centroids)
    change = centroids[members[is_kept]] - kept
    distortion = math.sqrt(float((change**2).mean())) if len(kept) else 0.0
    codebook = torch.from_numpy(centroids).to(weight)
    return Shared(codebook, torch.from_numpy(members).view(weight.shape).to(weight.device)), distortion


def first_centroids(values: Values, count: int, init: str, rng: np.random.Generator) -> Values:
    """Return at most ``count`` different centroids to begin with, sorted.

    Args:
        values: [N] to be clustered.
        count: how many centroids.
        init: ``linear``, ``density`` or ``random``.
        rng: draws for ``random``.
    """
    if not len(values):
        return np.zeros(0)
    if init == "linear":
        found = np.linspace(values.min(), values.max(), count)
    elif init == "density":
        found = np.quantile(values, (np.arange(count) + 0.5) / count)
    else:
        found = rng.choice(values, size=min(count, len(values)), replace=False)
    return np.unique(found)


def k_means(values: Values, centroids: Values, rounds: int = 300) -> Values:
    """Return centroids of least squared distance, by Lloyd's algorithm in one dimension.

    On a line a cluster is an interval: values are sorted once, and a round is a search for the borders and a difference
    of running sums. A centroid without members stays where it is and is dropped in the end.

    Args:
        values: [N].
        centroids: [K] to begin with, sorted.
        rounds: at most so many.

    Returns:
        at most K centroids, sorted, each the mean of its members.
    """
    ordered = np.sort(values)
    # Sums around the mean lose fewer digits.
    centre = float(ordered.mean()) if len(ordered) else 0.0
    sums = np.concatenate([[0.0], np.cumsum(ordered - centre)])
    centroids = centroids.copy()
    for _ in range(rounds):
        borders = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2, side="right")
        edges = np.concatenate([[0], borders, [len(ordered)]])
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1) + centre
        moved = np.where(counts > 0, means, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return np.asarray(centroids[counts > 0]) if len(centroids) else centroids


def nearest(values: Values, centroids: Values) -> NDArray[np.int64]:
    """Return the place [N] of the centroid nearest to each value; ``centroids`` are sorted."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="left").astype(np.int64)


def replace_weight(model: nn.Module, name: str, by: nn.Module) -> None:
    """Put a parametrisation in the place of the weight called ``name``; the old weight no longer learns."""
    path, _, tensor = name.rpartition(".")
    layer = model.get_submodule(path)
    parametrize.register_parametrization(layer, tensor, by, unsafe=True)
    layer.parametrizations[tensor].original.requires_grad_(False)  # type: ignore[index, union-attr]


@torch.no_grad()
def bake(model: nn.Module) -> None:
    """Make every parametrised weight a plain parameter of its present value again."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                getattr(module, name).requires_grad_(True)


METHODS.register("share", Share(), __name__, title="weights of a layer share a few trained values", works_on="network")
