"""How fast networks are beside each other: one runtime, one process, one after the other in turn."""

from __future__ import annotations

import copy
import logging
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from danlu.core.errors import CheckFailed

__all__ = ["onnx_session", "side_by_side"]


def onnx_session(model: nn.Module, shape: tuple[int, ...], threads: int = 1) -> Any:
    """Return an ONNX Runtime session of ``model`` for float pictures ``x`` [batch, C, H, W].

    Args:
        model: stays as it is; exported in eval mode.
        shape: [C, H, W].
        threads: of the session.

    Raises:
        CheckFailed: PyTorch cannot translate the network.
    """
    import onnxruntime
    from torch.onnx.errors import OnnxExporterError

    twin = copy.deepcopy(model).cpu().eval()
    with _quiet():
        try:
            program = torch.onnx.export(
                twin,
                (torch.zeros(2, *shape),),
                dynamo=True,
                verbose=False,
                input_names=["x"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=18,
            )
        except OnnxExporterError as error:
            raise CheckFailed(f"{type(model).__name__} cannot be translated to ONNX: {error}") from error
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = program.model_proto.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


def side_by_side(
    models: Mapping[str, nn.Module],
    shape: tuple[int, ...],
    *,
    rounds: int = 30,
    threads: int = 1,
    seconds: float = 20.0,
) -> dict[str, dict[str, float]]:
    """Time networks in ONNX Runtime, one picture at a time, taking turns so that what slows one slows all.

    Args:
        models: name -> network; the first is what the others are compared with.
        shape: [C, H, W] of the picture.
        rounds: turns, at most; each runs every network for about 10 ms.
        threads: of each session.
        seconds: after which no new turn starts.

    Returns:
        name -> ``ms`` (median over the turns), ``ratio`` (the time of the first by this one's, the median over
        turns), ``low`` and ``high`` (quartiles of the ratio), ``rounds``; on one thread also ``processor_ratio``, of
        the processor's time, which other programs on the machine disturb less.
    """
    sessions = {name: onnx_session(model, shape, threads) for name, model in models.items()}
    feed = {"x": np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)}
    repeats = {}
    for name, session in sessions.items():
        session.run(None, feed)
        begin = time.perf_counter()
        session.run(None, feed)
        repeats[name] = max(1, min(1000, int(0.01 / max(time.perf_counter() - begin, 1e-7))))
    walls: dict[str, list[float]] = {name: [] for name in sessions}
    busy: dict[str, list[float]] = {name: [] for name in sessions}
    begin = time.perf_counter()
    for _ in range(rounds):
        for name, session in sessions.items():
            start, worked = time.perf_counter(), time.thread_time()
            for _ in range(repeats[name]):
                session.run(None, feed)
            busy[name].append((time.thread_time() - worked) / repeats[name])
            walls[name].append((time.perf_counter() - start) / repeats[name])
        if time.perf_counter() - begin > seconds:
            break
    first = next(iter(sessions))
    return {name: _figures(walls[first], walls[name], busy[first], busy[name], threads) for name in sessions}


def _figures(
    first: list[float], own: list[float], first_busy: list[float], own_busy: list[float], threads: int
) -> dict[str, float]:
    ratios = [a / b for a, b in zip(first, own, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    found = {
        "ms": 1000 * statistics.median(own),
        "ratio": statistics.median(ratios),
        "low": low,
        "high": high,
        "rounds": float(len(own)),
    }
    # Some systems count a thread's time in steps longer than a turn.
    if threads == 1 and min(*first_busy, *own_busy) > 0:
        found["processor_ratio"] = statistics.median(a / b for a, b in zip(first_busy, own_busy, strict=True))
    return found
