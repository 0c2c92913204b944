"""ONNX Runtime on the processor. Needs onnxruntime and numpy; no torch."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError, nearest_names
from danlu.deploy.artifact import read_bytes
from danlu.deploy.runtimes import RUNTIMES

__all__ = ["OnnxRuntime", "open_session"]

_PROVIDER = "CPUExecutionProvider"
_QUIET = 4  # fatal only: what goes wrong is raised as well
_NOWHERE = os.path.join(os.devnull, "nothing")  # no file can lie below a device
# What ONNX Runtime raises for files it cannot load; they share no base class of their own.
_REFUSALS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NotImplemented,
    state.RuntimeException,
)
# Operators that hold a network's multiplications, as they are called before and after fusion.
_LAYERS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul"),
    *("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QLinearConv", "QLinearMatMul", "QGemm"),
)
_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}


class OnnxRuntime:
    """An ONNX graph in ONNX Runtime. Make one with :meth:`load`.

    Attributes:
        name: ``onnxruntime``.
        threads: threads of one prediction.
        metadata: the graph's metadata entries.
        outputs: the names of its outputs.
    """

    name = "onnxruntime"

    def __init__(self, model: bytes, where: str, threads: int, spin: bool = False) -> None:
        self._model, self._where = model, where
        self.threads, self._spin = threads, spin
        self._session = self._open(self._options())
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        self._input = self._session.get_inputs()[0]

    @classmethod
    def load(
        cls, source: Path | bytes, *, threads: int | None = None, spin: bool = False, where: str = "model"
    ) -> OnnxRuntime:
        """Load an ONNX file, or the bytes of one.

        Data stored outside the file is refused, wherever it lies: ONNX Runtime itself would read what lies beside the
        file, also through a hard link, or in the working folder when it is given bytes. Errors about bytes name
        ``where``. With ``spin`` threads wait awake within an answer, at the cost of other work.

        Raises:
            InputError: a file that cannot be read, or a graph ONNX Runtime refuses; fewer threads than one.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads = {threads}", where="--threads", allowed=["1 and more"])
        model, where = (source, where) if isinstance(source, bytes) else (read_bytes(source), str(source))
        return cls(model, where, threads or usable_cores(), spin)

    def _options(self) -> onnxruntime.SessionOptions:
        return _options(self.threads, self._spin)

    def _open(self, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        return open_session(self._model, self._where, options=options)

    def predict(self, pictures: NDArray[np.uint8], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return the named outputs (all when not given) for uint8 pictures [B, H, W, C]."""
        channels = self._input.shape[-1]
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != channels or not pictures.size:
            what = f"pictures of {pictures.dtype} {list(pictures.shape)}"
            raise InputError(what, where=self._where, allowed=[f"uint8 [B, H, W, {channels}]"])
        names = list(self.outputs if outputs is None else outputs)
        if unknown := [name for name in names if name not in self.outputs]:
            raise InputError(
                f"unknown output {unknown[0]!r}",
                where=self._where,
                nearest=nearest_names(unknown[0], self.outputs),
                allowed=self.outputs,
            )
        values = self._session.run(names, {self._input.name: pictures})
        return dict(zip(names, values, strict=True))

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the first output for the one input, whatever its type: for graphs that are no whole artifact."""
        return np.asarray(self._session.run(self.outputs[:1], {self._input.name: values})[0])

    def forget_model(self) -> None:
        """Let go of the file's bytes, which only :meth:`describe` reads again: less memory where it is not asked."""
        self._model = b""
        # The session keeps them too, to begin anew with another provider; there is no other one here.
        if hasattr(self._session, "_model_bytes"):
            self._session._model_bytes = b""

    def describe(self) -> dict[str, Any]:
        """Return what one prediction executes: per precision the number of layers, and every operator that ran.

        Taken from a profile of one picture, not from what the graph asks for: ONNX Runtime may fuse quantised operators
        or run them in float32.
        """
        layers: Counter[str] = Counter()
        operators: Counter[str] = Counter()
        for event in self._profile():
            arguments = event.get("args", {})
            operator = arguments.get("op_name")
            if event.get("cat") != "Node" or operator is None or not event["name"].endswith("_kernel_time"):
                continue
            operators[operator] += 1
            types = arguments.get("input_type_shape") or []
            if types and operator.removeprefix("Nhwc").removeprefix("Fused") in _LAYERS:
                kind = next(iter(types[0]))
                layers[_PRECISIONS.get(kind, kind)] += 1
        total = sum(layers.values())
        counts = ", ".join(f"{name} {count} of {total} layers" for name, count in layers.most_common())
        return {
            "runtime": self.name,
            "version": onnxruntime.__version__,
            "provider": _PROVIDER,
            "threads": self.threads,
            "precision": next(iter(layers)) if len(layers) == 1 else counts or "no layers",
            "layers": dict(layers),
            "operators": dict(sorted(operators.items())),
        }

    def _profile(self) -> list[dict[str, Any]]:
        """Return the profile events of one prediction on a black picture."""
        shape = self._input.shape
        sides = [side if isinstance(side, int) else self._side(place) for place, side in enumerate(shape[1:3])]
        picture = np.zeros((1, *sides, shape[3]), dtype=np.uint8)
        with tempfile.TemporaryDirectory(prefix="danlu-profile-") as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._open(options)
            session.run(None, {self._input.name: picture})
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return events

    def _side(self, place: int) -> int:
        size = json.loads(self.metadata.get("danlu.picture_size", "[32, 32]"))
        return int(size[place])


def _options(threads: int, spin: bool = False) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    # Threads that spin while they wait take time from whatever else runs on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    # Between answers they sleep in any case: whoever runs next must not pay for them.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    return options


def open_session(
    model: bytes, where: str, threads: int = 1, *, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """Open the bytes of an ONNX file, of this tool or not; data outside of them is never read.

    Raises:
        InputError: ONNX Runtime refuses the graph.
    """
    try:
        return onnxruntime.InferenceSession(model, options or _options(threads), providers=[_PROVIDER])
    except _REFUSALS as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"ONNX Runtime cannot load it ({reason})",
            where=where,
            mend="give the .onnx file that `danlu export` wrote; it is whole in one file",
        ) from None


RUNTIMES.register(OnnxRuntime.name, OnnxRuntime, __name__, title="ONNX Runtime", devices=["cpu"], artifacts=["onnx"])
