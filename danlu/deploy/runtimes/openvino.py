"""OpenVINO on the processor. Needs openvino and numpy; no torch.

OpenVINO computes in bfloat16 wherever the processor can, without saying so: float32 artifacts are compiled with the
hint that forbids it, and :meth:`OpenVINO.describe` reads the precision from the graph that is executed.
The resize in the graph of an ONNX artifact stands in a branch that OpenVINO runs wrongly: it is taken out
and done by :func:`danlu.deploy.folder.fit_outside`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError, nearest_names
from danlu.core.signal_stack import signal_stack_kept
from danlu.core.silence import silence
from danlu.deploy.artifact import INPUT, ArtifactInfo, parse_model, read_bytes
from danlu.deploy.folder import fit_outside, read_folder
from danlu.deploy.graph_parts import without_fitting
from danlu.deploy.runtimes import RUNTIMES

__all__ = ["OpenVINO"]

_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
_LAYERS = ("Convolution", "FullyConnected", "MatMul", "Deconvolution")
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "u8": "int8", "i8": "int8"}


class OpenVINO:
    """An artifact in OpenVINO. Make one with :meth:`load`.

    Attributes:
        name: ``openvino``.
        threads: threads of one prediction.
        metadata: the artifact's metadata entries.
        outputs: the names of its outputs.
    """

    name = "openvino"

    def __init__(self, model: Any, metadata: dict[str, str], where: str, threads: int, precision: str | None) -> None:
        core = _core(where)
        self.metadata, self.threads, self._where = metadata, threads, where
        self._info = ArtifactInfo.from_metadata(metadata, where) if metadata else None
        kept = self._info.precision if self._info else "fp32"
        hint = _HINTS.get(precision or kept)
        if hint is None:
            raise InputError(f"precision {precision or kept!r}", where=where, allowed=list(_HINTS))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            with signal_stack_kept():
                self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise _refusal(error, where) from None
        self._request = self._compiled.create_infer_request()
        self.outputs = tuple(sorted(output.names)[0] for output in self._compiled.outputs)

    @classmethod
    def load(
        cls,
        source: Path | bytes,
        *,
        threads: int | None = None,
        precision: str | None = None,
        extra: Sequence[str] = (),
    ) -> OpenVINO:
        """Load an artifact's folder, an ONNX artifact, or the bytes of one.

        Args:
            source: a folder with ``artifact.json``, an ``.onnx`` file, or its bytes.
            threads: the usable cores when not given.
            precision: ``fp32`` or ``bf16`` in place of the artifact's own.
            extra: tensors of the graph to give as outputs too.

        Raises:
            InputError: it cannot be loaded, OpenVINO is not installed, or fewer threads than one.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads = {threads}", where="--threads", allowed=["1 and more"])
        where = "model" if isinstance(source, bytes) else str(source)
        core = _core(where)
        try:
            if isinstance(source, Path) and source.is_dir():
                folder = read_folder(source, cls.name)
                model, metadata = core.read_model(source / "model.xml"), folder.metadata
            else:
                proto = parse_model(source if isinstance(source, bytes) else read_bytes(source), where)
                metadata = {entry.key: entry.value for entry in proto.metadata_props}
                model = core.read_model(without_fitting(proto).SerializeToString())
            given = {name for output in model.outputs for name in output.names}
            for name in extra:
                if name not in given:
                    model.add_outputs(name)
        except RuntimeError as error:
            raise _refusal(error, where) from None
        return cls(model, metadata, where, threads or usable_cores(), precision)

    def predict(self, pictures: NDArray[np.uint8], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return the named outputs (all when not given) for uint8 pictures [B, H, W, C]."""
        channels = self._compiled.input(INPUT).partial_shape[3]
        wanted = channels.get_length() if channels.is_static else pictures.shape[-1]
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != wanted or not pictures.size:
            what = f"pictures of {pictures.dtype} {list(pictures.shape)}"
            raise InputError(what, where=self._where, allowed=[f"uint8 [B, H, W, {wanted}]"])
        names = list(self.outputs if outputs is None else outputs)
        if unknown := [name for name in names if not self._has(name)]:
            raise InputError(
                f"unknown output {unknown[0]!r}",
                where=self._where,
                nearest=nearest_names(unknown[0], self.outputs),
                allowed=self.outputs,
            )
        if self._info is not None:
            pictures = fit_outside(pictures, self._info.picture_size)
        self._request.infer({INPUT: pictures})
        return {name: self._request.get_tensor(name).data.copy() for name in names}

    def _has(self, name: str) -> bool:
        return any(name in output.names for output in self._compiled.outputs)

    def describe(self) -> dict[str, Any]:
        """Return what one prediction executes: per precision the number of layers, and every operator.

        Taken from the executed graph; what a layer's kernel computes in may differ from what was asked for.
        """
        silence()
        import openvino

        layers: Counter[str] = Counter()
        operators: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            facts = {str(key): _text(value) for key, value in node.get_rt_info().items()}
            kind = facts.get("layerType", "")
            operators[kind] += 1
            if kind in _LAYERS:
                executed = facts.get("primitiveType", "").rpartition("_")[2].lower()
                layers[_PRECISIONS.get(executed, executed) or "unknown"] += 1
        total = sum(layers.values())
        counts = ", ".join(f"{name} {count} of {total} layers" for name, count in layers.most_common())
        return {
            "runtime": self.name,
            "version": openvino.get_version(),
            "provider": "CPU",
            "threads": self.threads,
            "precision": next(iter(layers)) if len(layers) == 1 else counts or "no layers",
            "layers": dict(layers),
            "operators": dict(sorted(operators.items())),
        }


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _core(where: str) -> Any:
    silence()
    try:
        import openvino
    except ModuleNotFoundError:
        raise InputError("openvino is not installed", where=where, mend="pip install 'danlu[openvino]'") from None
    return openvino.Core()


def _refusal(error: RuntimeError, where: str) -> InputError:
    reason = " ".join(str(error).split())[-300:]
    return InputError(f"OpenVINO cannot load it ({reason})", where=where, mend="export it again")


RUNTIMES.register(OpenVINO.name, OpenVINO, __name__, title="OpenVINO", devices=["cpu"], artifacts=["onnx", "folder"])
