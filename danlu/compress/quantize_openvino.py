"""INT8 for OpenVINO by NNCF: the float graph goes in with calibration pictures, an OpenVINO model comes out.

Layers keep a float output where that is faster, so that residual sums are exact; a first bias correction makes up for
the mean error of the rounded weights (NNCF's defaults). With ``max_drop`` and ``score`` the layers that cost most are
given back to float until the drop holds (NNCF's accuracy control). Needs ``openvino`` and ``nncf``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.core.signal_stack import signal_stack_kept
from danlu.core.silence import silence

__all__ = ["OpenVinoReport", "quantize_openvino"]

Pictures = NDArray[np.uint8]
_INSTALL = "pip install 'danlu[openvino]'"


@dataclass(frozen=True)
class OpenVinoReport:
    """What was quantised, and how.

    Attributes:
        preset: ``performance``: symmetric activations; ``mixed``: asymmetric where they are signed.
        pictures: how many pictures calibrated.
        calibration_hash: SHA-256 of their shapes and pixels.
        layers: names of the layers whose inputs are rounded, in the graph's order.
        float_layers: names of the layers with weights that stay in float, in the graph's order.
        max_drop: the points of the score the accuracy control was held to, or None.
        seconds: wall time.
    """

    preset: str
    pictures: int
    calibration_hash: str
    layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    max_drop: float | None
    seconds: float

    def to_record(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return {**asdict(self), "layers": list(self.layers), "float_layers": list(self.float_layers)}


def quantize_openvino(
    source: Path | Any,
    calibration: Iterable[Pictures],
    target: Path,
    *,
    preset: Literal["performance", "mixed"] = "performance",
    subset: int = 512,
    transformer: bool = False,
    keep_float: Iterable[str] = (),
    score: Callable[[Callable[[Pictures], NDArray[np.float32]]], float] | None = None,
    max_drop: float | None = None,
) -> OpenVinoReport:
    """Quantise an ONNX file or an OpenVINO model to INT8 and save it as ``target/model.xml`` and ``model.bin``.

    Args:
        source: an ``.onnx`` or ``.xml`` file, or an ``openvino.Model``; it is left as it is.
        calibration: batches of uint8 pictures [B, H, W, C], as the graph takes them.
        target: a folder, made anew; what stood there is replaced.
        preset: see :class:`OpenVinoReport`.
        subset: at most so many pictures calibrate.
        transformer: also look for the patterns of attention (NNCF's ``model_type``).
        keep_float: names of layers that stay in float.
        score: given ``pictures -> logits``, returns the figure to hold, from 0 to 1, measured on validation.
        max_drop: points (hundredths) the score may fall; needs ``score``.

    Raises:
        InputError: openvino or nncf is not installed, no pictures, a file OpenVINO cannot read, unknown layers.
    """
    ov, nncf = _libraries()
    begin = time.perf_counter()
    batches = _first(calibration, subset)
    if not batches:
        raise InputError("no pictures to calibrate with", where=str(source))
    if (score is None) != (max_drop is None):
        raise ValueError("score and max_drop belong together")
    model = _read(ov, source)
    before = _layers(model)
    _check_known(keep_float, [name for name, _ in before], str(source))
    options = _options(nncf, preset, len(batches), transformer, sorted(keep_float))
    with _quiet(), signal_stack_kept():
        dataset = nncf.Dataset(batches)
        if score is None or max_drop is None:
            model = nncf.quantize(model, dataset, **options)
        else:
            model = _controlled(nncf, ov, model, dataset, score, max_drop, options)
    rounded = dict(_layers(model))
    _save(ov, model, target)
    return OpenVinoReport(
        preset=preset,
        pictures=sum(len(batch) for batch in batches),
        calibration_hash=_hash(batches),
        layers=tuple(name for name, _ in before if rounded.get(name)),
        float_layers=tuple(name for name, _ in before if not rounded.get(name)),
        max_drop=max_drop,
        seconds=time.perf_counter() - begin,
    )


def _options(nncf: Any, preset: str, subset: int, transformer: bool, keep_float: list[str]) -> dict[str, Any]:
    return {
        "preset": nncf.QuantizationPreset.PERFORMANCE if preset == "performance" else nncf.QuantizationPreset.MIXED,
        "subset_size": subset,
        "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
        "ignored_scope": nncf.IgnoredScope(names=keep_float) if keep_float else None,
    }


def _check_known(wanted: Iterable[str], names: list[str], where: str) -> None:
    if unknown := sorted(set(wanted) - set(names)):
        raise InputError(f"has no layer {unknown[0]!r}", where=where, allowed=names)


def _libraries() -> tuple[Any, Any]:
    silence()
    try:
        with _quiet():
            import nncf  # type: ignore[import-untyped, unused-ignore]
            import openvino  # type: ignore[import-untyped, unused-ignore]
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed", where="INT8 for OpenVINO", mend=_INSTALL) from None
    return openvino, nncf


def _first(calibration: Iterable[Pictures], count: int) -> list[Pictures]:
    batches: list[Pictures] = []
    for batch in calibration:
        left = count - sum(map(len, batches))
        if left <= 0:
            break
        if len(batch):
            batches.append(np.ascontiguousarray(batch[:left]))
    return batches


def _hash(batches: Iterable[Pictures]) -> str:
    digest = hashlib.sha256()
    for picture in (picture for batch in batches for picture in batch):
        digest.update(repr(picture.shape).encode())
        digest.update(picture.tobytes())
    return digest.hexdigest()


def _read(ov: Any, source: Any) -> Any:
    if isinstance(source, ov.Model):
        return source.clone()
    if not Path(source).is_file():
        raise InputError("no such file", where=str(source))
    try:
        return ov.Core().read_model(str(source))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"OpenVINO cannot read it ({reason})", where=str(source)) from None


def _controlled(
    nncf: Any, ov: Any, model: Any, dataset: Any, score: Callable[..., float], max_drop: float, options: dict[str, Any]
) -> Any:
    """Quantise with NNCF's accuracy control; its ``model`` is compiled here with float32 arithmetic."""
    core = ov.Core()

    def validate(candidate: Any, data: Any) -> tuple[float, None]:
        del data
        if isinstance(candidate, ov.Model):
            candidate = core.compile_model(candidate, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def answer(pictures: Pictures) -> NDArray[np.float32]:
            return np.asarray(candidate(pictures)[0], dtype=np.float32)

        return score(answer), None

    return nncf.quantize_with_accuracy_control(
        model, dataset, dataset, validate, max_drop=max_drop / 100, drop_type=nncf.DropType.ABSOLUTE, **options
    )


def _layers(model: Any) -> list[tuple[str, bool]]:
    """Return the layers with weights and whether the values that reach them are rounded, in the graph's order."""
    found = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData"):
            continue
        before = [node.input_value(i).get_node() for i in range(2)]
        if any(_is_weight(other) for other in before):
            found.append((node.get_friendly_name(), any(_is_rounded(other) for other in before)))
    return found


def _is_rounded(node: Any) -> bool:
    while node.get_type_name() in ("Reshape", "Transpose", "Squeeze", "Unsqueeze"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "FakeQuantize")


def _is_weight(node: Any) -> bool:
    """Return whether a value depends on constants alone."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.get_type_name() == "Parameter":
            return False
        waiting.extend(node.input_value(i).get_node() for i in range(node.get_input_size()))
    return True


def _save(ov: Any, model: Any, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    # float16 constants would round what was measured.
    ov.save_model(model, str(target / "model.xml"), compress_to_fp16=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars, prints and log lines of the library away; what goes wrong is raised."""
    log = logging.getLogger("nncf")
    level, disabled = log.level, log.disabled
    log.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        log.disabled = disabled
