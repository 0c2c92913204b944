"""Parameters, multiply-adds, bytes and milliseconds of a network, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from danlu.analyze.counting import Count, count, stage_shapes
from danlu.analyze.timing import Timing, measure
from danlu.core.errors import InputError
from danlu.core.records import RunFolder
from danlu.models import MODELS, create_model
from danlu.models.base import VisionModel
from danlu.tasks.trained import Trained, open_trained

__all__ = ["Analysis", "Layer", "analyze", "analyze_run"]


@dataclass(frozen=True)
class Layer:
    """What one module does itself, its children left out.

    Attributes:
        name: the module's name; ``""`` is the network itself.
        type: its class.
        output: shape of what it returns, empty when that is no tensor or it was not called.
        parameters: number of its own parameters.
        macs: its multiply-adds.
        activation_bytes: bytes of the tensors it makes.
        seconds: median of its eager time, None when nothing was measured.
    """

    name: str
    type: str
    output: list[int]
    parameters: int
    macs: int
    activation_bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Analysis:
    """A network on one input.

    Attributes:
        model: its name or class.
        input: shape of the input.
        parameters: number of parameters, shared ones once.
        macs: multiply-adds of convolutions, linear layers and matrix products; FLOPs are twice as many.
        weight_bytes: bytes of parameters and buffers as they are stored.
        activation_bytes: bytes of all tensors made in one forward.
        peak_activation_bytes: the most of them alive at once, with the input.
        seconds: median eager time of one forward, None when nothing was measured.
        threads: how many threads computed it.
        repeats: how many forwards the medians are of.
        layers: the modules that do something themselves, in the order in which they start.
        stages: ``{"name", "output", "stride"}`` of a vision model's stages.
    """

    model: str
    input: list[int]
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    peak_activation_bytes: int
    seconds: float | None
    threads: int | None
    repeats: int
    layers: list[Layer]
    stages: list[dict[str, Any]]

    def to_record(self) -> dict[str, Any]:
        """Return the analysis as plain values, the record's section ``analysis``."""
        return asdict(self)


def analyze(
    model: nn.Module | str | Path | RunFolder,
    input: tuple[int, ...] | None = None,
    *,
    threads: int | None = None,
    repeats: int = 9,
    timed: bool = True,
) -> Analysis:
    """Count and time one forward of a network in eval mode.

    Args:
        model: a module on the CPU or the meta device, the name of a registered model, a run folder or a coded file.
        input: shape of the input, (1, C, H, W); what the model was published or trained for when not given.
        threads: how many threads compute while the time is taken.
        repeats: how many forwards the medians are of.
        timed: whether to take times; never for a module on the meta device.

    Raises:
        InputError: an unknown name, an input the network refuses, none given and none known, or bad options.
    """
    _check_times(threads, repeats)
    if isinstance(model, Path | RunFolder) or (
        isinstance(model, str) and model not in MODELS.names() and Path(model).exists()
    ):
        return _analyze_trained(open_trained(model), input, threads=threads, repeats=repeats, timed=timed)
    if isinstance(model, str):
        name = MODELS.check(model)
        with torch.random.fork_rng(devices=[]):
            module: nn.Module = create_model(name)
        shape = input or (1, *MODELS.index[name]["input"])
    else:
        name, module = type(model).__name__, model
        shape = input or _known_input(model)
    if min(shape, default=0) < 1:
        raise InputError(f"input {shape}", where=name, allowed=["(1, C, H, W), each at least 1"])
    counted = count(module, shape)
    on_meta = any(tensor.device.type == "meta" for tensor in (*module.parameters(), *module.buffers()))
    timing = None
    if timed and not on_meta:
        # Values do not change the time, as long as they are no zeros that a kernel might skip and no denormals.
        generator = torch.Generator().manual_seed(0)
        timing = measure(module, torch.randn(shape, generator=generator), threads=threads, repeats=repeats)
    return _assemble(name, module, shape, counted, timing)


def _check_times(threads: int | None, repeats: int) -> None:
    if repeats < 1 or (threads is not None and threads < 1):
        raise InputError(f"threads {threads}, repeats {repeats}", where="analyze", allowed=["1 and more of each"])


def analyze_run(
    run: Path | str,
    *,
    write: bool = True,
    trained: Trained | None = None,
    threads: int | None = None,
    repeats: int = 9,
) -> Analysis:
    """Analyze the trained network of a run on the input it was trained for, at batch 1.

    Args:
        run: the run folder.
        write: whether to write the record's section ``analysis``.
        trained: the run's network where it is already open.
        threads: how many threads compute while the time is taken.
        repeats: how many forwards the medians are of.

    Raises:
        InputError: the run cannot be opened.
    """
    trained = trained or open_trained(run)
    analysis = _analyze_trained(trained, None, threads=threads, repeats=repeats, timed=True)
    if write:
        trained.run.update_record(analysis=analysis.to_record())
    return analysis


def _analyze_trained(
    trained: Trained, input: tuple[int, ...] | None, *, threads: int | None, repeats: int, timed: bool
) -> Analysis:
    analysis = analyze(trained.model, input or trained.input_shape, threads=threads, repeats=repeats, timed=timed)
    return Analysis(**{**vars(analysis), "model": trained.model_name})


def _known_input(model: nn.Module) -> tuple[int, ...]:
    if isinstance(model, VisionModel) and model.input_size is not None:
        return (1, model.in_channels, *model.input_size)
    name = type(model).__name__
    raise InputError("has no input size of its own", where=name, mend="give the input, e.g. (1, 3, 32, 32)")


def _assemble(name: str, module: nn.Module, shape: tuple[int, ...], counted: Count, timing: Timing | None) -> Analysis:
    modules = dict(module.named_modules())
    layers = []
    # Modules that ran come in the order in which they started; those that hold parameters but never ran come last.
    for path in [*counted.modules, *(path for path in modules if path not in counted.modules)]:
        own, layer = counted.modules.get(path), modules[path]
        parameters = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        if not parameters and (own is None or not own.operations):
            continue
        layers.append(
            Layer(
                name=path,
                type=type(layer).__name__,
                output=own.output if own else [],
                parameters=parameters,
                macs=own.macs if own else 0,
                activation_bytes=own.activation_bytes if own else 0,
                seconds=timing.modules.get(path, 0.0) if timing else None,
            )
        )
    tensors = (*module.parameters(), *module.buffers())
    return Analysis(
        model=name,
        input=list(shape),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        macs=counted.macs,
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        activation_bytes=counted.activation_bytes,
        peak_activation_bytes=counted.peak_activation_bytes,
        seconds=timing.seconds if timing else None,
        threads=timing.threads if timing else None,
        repeats=timing.repeats if timing else 0,
        layers=layers,
        stages=_stages(module, shape),
    )


def _stages(module: nn.Module, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    if not isinstance(module, VisionModel):
        return []
    outputs = stage_shapes(module, shape)
    return [{"name": s.name, "output": outputs[s.name], "stride": s.stride} for s in module.stages]
