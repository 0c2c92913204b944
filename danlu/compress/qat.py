"""Quantisation-aware training: weights and inputs are rounded while the network learns, and so do their ranges.

Each convolution and linear layer rounds its weight (a step for each output channel) and its input (one step; layers
that read the same tensor share it). Ranges learn by LSQ, PACT or as a minimum and a maximum, see
:mod:`danlu.compress.ranges`; they start where the squared error on the float network is least. The first and the last
layer have 8 bits. In the last epochs batch norms keep their statistics; they are then folded into the layers before
them, which with a step a channel changes the steps and no integer. The result holds packed integers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.compress import METHODS
from danlu.compress.base import Compressed, Method, Subject
from danlu.compress.edits import Edit
from danlu.compress.edits.quantise import KINDS, Quantised, pack, quantise, swap
from danlu.compress.ranges import Quantiser, Ranges
from danlu.compress.retrain import Hooks, retrain, validate
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.seeds import permutation
from danlu.core.settings import Settings
from danlu.data.loader import Loader
from danlu.tasks.preprocess import Preprocess
from danlu.train.optimizer_settings import OptimizerSettings, SgdSettings
from danlu.train.schedule import CosineSettings

__all__ = ["Plan", "Qat", "QatSettings", "plan_layers"]

Norm = nn.modules.batchnorm._BatchNorm
# Share of the peak learning rate that is left for the epochs with frozen statistics.
_LATE = 0.1
# Largest difference, as a share of the largest logit, that folding may make in float64.
_FOLD_ERROR = 1e-9


class QatSettings(Settings):
    """How a network learns to be rounded.

    Attributes:
        bits: of weights and inputs.
        ranges: which gradient moves the ranges, see :mod:`danlu.compress.ranges`.
        ends: bits of the first and of the last layer.
        layers: bits by name of the layer, in place of ``bits``.
        skip: names of layers that stay in float.
        epochs: of training; 0 only rounds, with the first ranges.
        frozen: of these, the last ones, with the statistics of batch norm as they are.
        optimizer: of training.
        penalty: weight of the L2 penalty on PACT's clips.
        calibrate: how many training pictures the first ranges of inputs are taken from.
    """

    bits: Literal[2, 4, 8] = 8
    ranges: Ranges = "lsq"
    ends: Literal[2, 4, 8] = 8
    layers: dict[str, Literal[2, 4, 8]] = Field(default_factory=dict)
    skip: tuple[str, ...] = ()
    epochs: int = Field(default=6, ge=0, le=10_000)
    frozen: int = Field(default=2, ge=0)
    optimizer: OptimizerSettings = SgdSettings(lr=0.01, weight_decay=1e-4)
    penalty: float = Field(default=1e-4, ge=0.0)
    calibrate: int = Field(default=128, ge=1)


class _Learning:
    """What a layer becomes while it trains, beside its own class."""

    weight_quantiser: Quantiser
    input_quantiser: Quantiser

    @property
    def weight(self) -> Tensor:
        """The rounded weight; the optimiser moves the parameter below it."""
        return cast(Tensor, self.weight_quantiser(cast(Any, self)._parameters["weight"]))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer's own class makes of the rounded input and weight."""
        return cast(Tensor, cast(Any, super()).forward(self.input_quantiser(x)))


@dataclass
class Plan:
    """Which layers can be quantised.

    Attributes:
        layers: their names in the order they are called.
        shared: name -> name of the first layer that reads the same tensor.
        norms: name of a layer -> name of the batch norm that alone follows it and can be folded into it.
        left: name -> why a layer stays in float.
    """

    layers: list[str] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


class Qat(Method[QatSettings]):
    """Quantisation-aware training with learned ranges."""

    Settings = QatSettings

    def apply(self, subject: Subject, settings: QatSettings) -> Compressed:
        """Return the quantised network; ``report`` names each layer's bits, and each float layer with its reason."""
        model, x = subject.model, _pictures(subject, settings.calibrate)
        plan = plan_layers(model, x[:2])
        bits = _bits(plan, settings)
        if not bits:
            raise InputError("has no layer that can be quantised", where=subject.name, allowed=_kinds())
        _attach(model, plan, bits, settings.ranges, x)
        start = validate(subject, model)["accuracy"]
        logger.info("qat: %d layers rounded, validation accuracy %.4f before training", len(bits), start)
        epochs = _train(subject, model, settings)
        edit = _deploy(model, plan, bits)
        rows = [_row(name, layer) for name, layer in _named(model, bits)]
        report = {
            "ranges": settings.ranges,
            "bits": settings.bits,
            "layers": rows,
            "float": [{"layer": name, "reason": reason} for name, reason in plan.left.items()],
            "folded": list(edit.arguments["folded"]),
            "accuracy_rounded_only": start,
            "epochs": epochs,
            "weight_bytes": sum(row["bytes"] for row in rows),
        }
        return Compressed(model, (*subject.edits, edit), report)


def _kinds() -> list[str]:
    return [kind.__name__ for kind in KINDS]


def _pictures(subject: Subject, count: int) -> Tensor:
    """Return up to ``count`` training pictures as the network takes them, on the subject's device."""
    settings = subject.preprocess
    chosen = permutation(len(subject.train), "calibrate", subject.seed)[:count]
    loader = Loader(subject.train, settings.picture_size, settings.channels, cache_bytes=0)
    pictures = torch.from_numpy(np.ascontiguousarray(loader.pictures(chosen))).to(subject.device)
    with torch.no_grad():
        x: Tensor = Preprocess(settings).to(subject.device).eval()(pictures)
    return x


def plan_layers(model: nn.Module, x: Tensor) -> Plan:
    """Find out what can be quantised by watching one forward of ``x`` in eval mode."""
    plan, kept = Plan(), list[Tensor]()
    made: dict[tuple[int, int], str] = {}
    read: dict[tuple[int, int], str] = {}
    readers: dict[tuple[int, int], int] = {}
    handles = []

    def before(module: nn.Module, args: Any, name: str) -> None:
        key = (id(args[0]), args[0]._version)
        kept.append(args[0])  # an address must not be used twice
        readers[key] = readers.get(key, 0) + 1
        if type(module) in KINDS and name not in plan.layers:
            plan.layers.append(name)
            first = read.setdefault(key, name)
            if first != name:
                plan.shared[name] = first
        elif isinstance(module, Norm) and key in made and module.track_running_stats:
            plan.norms[made[key]] = name

    def after(module: nn.Module, args: Any, out: Any, name: str) -> None:
        del args
        if type(module) in KINDS:
            kept.append(out)
            made[(id(out), out._version)] = name

    for name, module in model.named_modules():
        if type(module) in KINDS or isinstance(module, Norm):
            handles.append(module.register_forward_pre_hook(lambda m, a, n=name: before(m, a, n)))
            handles.append(module.register_forward_hook(lambda m, a, o, n=name: after(m, a, o, n)))
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    plan.left = _left(model, plan)
    if not _folds(model, plan.norms, x):
        plan.norms = {}
    return plan


def _left(model: nn.Module, plan: Plan) -> dict[str, str]:
    left = {}
    for name, module in model.named_modules():
        if name in plan.layers or not any(p.dim() > 1 for p in module.parameters(recurse=False)):
            continue
        kind = type(module).__name__
        if type(module) in KINDS:
            left[name] = "is not called in a forward in eval mode"
        else:
            left[name] = f"is a {kind}: only {', '.join(_kinds())} multiply their weight as it is"
    return left


def _factors(norm: Any) -> tuple[Tensor, Tensor]:
    """Return what a batch norm multiplies by and adds, with its running statistics."""
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


@torch.no_grad()
def _folds(model: nn.Module, norms: dict[str, str], x: Tensor) -> bool:
    """Return whether the network answers alike with ``norms`` folded into their layers, in float64."""
    wide = copy.deepcopy(model).double().eval()
    logits = wide(x.double())
    modules = dict(wide.named_modules())
    for name, norm_name in norms.items():
        layer: Any = modules[name]
        scale, shift = _factors(modules[norm_name])
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias * scale + shift)
        parent, _, last = norm_name.rpartition(".")
        setattr(modules[parent], last, nn.Identity())
    return bool((wide(x.double()) - logits).abs().max() <= _FOLD_ERROR * logits.abs().max().clamp(min=1e-12))


def _bits(plan: Plan, settings: QatSettings) -> dict[str, int]:
    """Return layer -> bits; what is skipped goes to ``plan.left``."""
    for key, names in (("layers", settings.layers), ("skip", settings.skip)):
        for name in names:
            if name not in plan.layers:
                raise InputError(f"{key}: {name!r} is no layer that can be quantised", where="qat", allowed=plan.layers)
    ends = {plan.layers[0], plan.layers[-1]} if plan.layers else set()
    bits: dict[str, int] = {
        name: settings.layers.get(name, settings.ends if name in ends else settings.bits) for name in plan.layers
    }
    for name in settings.skip:
        plan.left[name] = "asked for: skip"
        del bits[name]
    return bits


def _named(model: nn.Module, names: Any) -> list[tuple[str, Any]]:
    modules = dict(model.named_modules())
    return [(name, modules[name]) for name in names]


def _attach(model: nn.Module, plan: Plan, bits: dict[str, int], kind: Ranges, x: Tensor) -> None:
    """Let the layers round while they train; the first ranges come from the float network's answer to ``x``."""
    quantisers: dict[tuple[str, int], Quantiser] = {}
    handles = []

    def see(module: nn.Module, args: Any, name: str) -> None:
        key = (plan.shared.get(name, name), bits[name])
        if key not in quantisers:
            quantisers[key] = Quantiser(kind, bits[name], args[0]).to(args[0].device)
        module.input_quantiser = quantisers[key]

    for name, layer in _named(model, bits):
        handles.append(layer.register_forward_pre_hook(lambda m, a, n=name: see(m, a, n)))
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in _named(model, bits):
        layer.weight_quantiser = Quantiser(kind, bits[name], layer.weight, channels=True).to(layer.weight.device)
        swap(layer, _Learning)


def _train(subject: Subject, model: nn.Module, settings: QatSettings) -> list[dict[str, float]]:
    """Train; return accuracy on validation after each epoch."""
    quantisers = [module for module in model.modules() if isinstance(module, Quantiser)]
    clips = [q.range for q in quantisers if q.kind == "pact" and not q.channels]
    found: list[dict[str, float]] = []

    def settle(step: int, total: int) -> None:
        del step, total
        for quantiser in quantisers:
            quantiser.settle()

    def told(epoch: int, figures: dict[str, float]) -> None:
        del epoch
        found.append({"loss": figures["loss"], "accuracy": validate(subject, model)["accuracy"]})
        logger.info("qat: epoch %d, validation accuracy %.4f", len(found), found[-1]["accuracy"])

    penalty = (lambda: settings.penalty * torch.stack([clip.square().sum() for clip in clips]).sum()) if clips else None
    hooks = Hooks(after_step=settle, after_epoch=told, penalty=penalty)
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    late = min(settings.frozen, settings.epochs) if norms else 0
    rate = settings.optimizer.lr
    for epochs, peak, final, frozen in (
        (settings.epochs - late, rate, _LATE if late else 0.0, False),
        (late, rate * _LATE, 0.0, True),
    ):
        if not epochs:
            continue
        update = {
            "epochs": epochs,
            "optimizer": settings.optimizer.model_copy(update={"lr": peak}),
            "schedule": CosineSettings(warmup=0.0, final=final),
            "batch_size": min(subject.settings.batch_size, len(subject.train)),
        }
        # The loop puts the whole network into train mode; a norm is put back as it is called.
        handles = [norm.register_forward_pre_hook(_freeze) for norm in norms if frozen]
        title = "qat, frozen statistics" if frozen else "qat"
        retrain(subject, model, subject.settings.model_copy(update=update), title=title, hooks=hooks)
        for handle in handles:
            handle.remove()
    return found


def _freeze(norm: nn.Module, args: Any) -> None:
    del args
    norm.eval()


@torch.no_grad()
def _deploy(model: nn.Module, plan: Plan, bits: dict[str, int]) -> Edit:
    """Turn the trained layers into packed integers, folding norms; return the edit that says so."""
    modules = dict(model.named_modules())
    folded = {name: norm for name, norm in plan.norms.items() if name in bits}
    learned = {}
    for name, layer in _named(model, bits):
        lattice, values = layer.weight_quantiser.lattice(), layer._parameters["weight"].detach()
        step = lattice.step.view(-1, *[1] * (values.dim() - 1)) if lattice.step.numel() > 1 else lattice.step
        integers = (values / step).round_().clamp_(lattice.low, lattice.high)
        learned[name] = (integers, lattice.step.expand(len(values)).clone(), layer.input_quantiser.lattice())
        del layer.weight_quantiser, layer.input_quantiser
        object.__setattr__(layer, "__class__", layer.kind)
    factors = {name: _factors(modules[norm]) for name, norm in folded.items()}
    arguments = {
        "layers": {name: [count, count] for name, count in bits.items()},
        "biases": [name for name in folded if cast(Any, modules[name]).bias is None],
        "folded": list(folded.values()),
    }
    quantise(model, **arguments)  # type: ignore[arg-type]
    for name, (integers, steps, lattice) in learned.items():
        layer = cast(Any, modules[name])
        if name in factors:
            scale, shift = factors[name]
            layer.bias.copy_(layer.bias * scale + shift)
            steps = steps * scale
        layer.codes.copy_(pack((integers + 2 ** (bits[name] - 1)).to(torch.uint8), bits[name]))
        layer.steps.copy_(steps)
        layer.input_step.copy_(lattice.step)
        layer.input_zero.copy_(lattice.zero - lattice.low)
    return Edit("quantise", arguments)


def _row(name: str, layer: Quantised) -> dict[str, Any]:
    count = int(np.prod(layer.weight_shape))
    return {
        "layer": name,
        "weights": count,
        "bits": layer.weight_bits,
        "input_bits": layer.input_bits,
        "bytes": layer.codes.numel() + 4 * layer.steps.numel() + 8,
        "input_step": float(layer.input_step),
        "input_zero": int(layer.input_zero),
        "unused_integers": 2**layer.weight_bits - int(torch.unique(layer.integers).numel()),
    }


METHODS.register(
    "qat", Qat(), __name__, title="weights and inputs of 8, 4 or 2 bits, their ranges learned", works_on="network"
)
