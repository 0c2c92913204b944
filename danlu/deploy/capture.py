"""A trained network as an ONNX graph: preprocessing, network and decoding, with every stage's tensor named."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from danlu.core.errors import CheckFailed
from danlu.deploy.graph import OPSET, cleaned
from danlu.tasks.trained import Trained

if TYPE_CHECKING:
    import onnx

__all__ = ["PREPROCESS_STAGE", "STAGE_PREFIX", "Probed", "capture", "full_precision", "torch_threads"]

# What the network is fed counts as the first stage, so that a wrong mean or size is not blamed on the network.
PREPROCESS_STAGE = "preprocess"
STAGE_PREFIX = "stage."


class Probed(nn.Module):
    """A trained network with every stage visible: uint8 [B, h, w, C] -> outputs, stages in order.

    Attributes:
        output_names: ``logits``, ``probabilities``, then ``stage.preprocess`` and ``stage.<name>`` for each stage.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.preprocess = trained.preprocess
        # The task joins any module in front of the network; here the preprocessing runs first, to be seen.
        front = cast(Any, nn.Identity())
        self.network, names = trained.task.export_module(trained.model, front)
        stages = [name for name in names if name.startswith(STAGE_PREFIX)]
        self._outputs = len(names) - len(stages)
        first = STAGE_PREFIX + PREPROCESS_STAGE
        if first in stages:
            raise ValueError(f"a network's stage must not be called {PREPROCESS_STAGE!r}")
        self.output_names = (*names[: self._outputs], first, *stages)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs in the order of ``output_names``."""
        x = self.preprocess(pictures)
        values = self.network(x)
        return (*values[: self._outputs], x, *values[self._outputs :])


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Run float32 as float32, without autocast and gradients, whatever the caller has allowed."""
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(allowed)


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch compute with ``threads`` threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def capture(trained: Trained, *, folded: bool = True) -> onnx.ModelProto:
    """Return the network of ``trained`` as an ONNX graph: uint8 ``fitted`` [batch, h, w, C] to ``output_names``.

    Batch normalisation is folded into the convolution before it, unless ``folded`` is False.

    The graph depends on the network alone: capturing it twice gives the same bytes.

    Raises:
        CheckFailed: PyTorch cannot translate the network.
    """
    settings = trained.preprocess.settings
    probed = Probed(trained).eval()
    example = torch.zeros(2, *settings.picture_size, settings.channels, dtype=torch.uint8)
    with _quiet():
        from torch.onnx.errors import OnnxExporterError

        try:
            program = torch.onnx.export(
                probed,
                (example,),
                dynamo=True,
                verbose=False,
                optimize=folded,
                opset_version=OPSET,
                input_names=["fitted"],
                output_names=list(probed.output_names),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        except OnnxExporterError as error:
            reason = " ".join(str(error.__cause__ or error).split())[:400]
            raise CheckFailed(f"{trained.model_name} cannot be translated to ONNX: {reason}") from error
        assert program is not None
        if not folded:
            from onnxscript import optimizer

            # Shapes and casts that are constants are computed; what is a layer stays one.
            optimizer.fold_constants(program.model, onnx_shape_inference=True)
            optimizer.inline(program.model)
            from onnx_ir.passes.common import RemoveUnusedNodesPass

            RemoveUnusedNodesPass()(program.model)
    # Parameters are called after their module, whatever holds it for the translation.
    prefixes = [f"{name}." for name, module in probed.named_modules() if module is trained.model]
    return cleaned(program.model_proto, probed.output_names, prefixes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the translator's own deprecations and log lines from the user, and nothing else."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                # Attributed to their own modules, or to those of the standard library that they call.
                warnings.filterwarnings("ignore", category=category, module=r"(torch|onnx\w*|copyreg|ast)\b")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
