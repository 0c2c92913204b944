"""What a benchmark compares: a run in eager PyTorch, and artifacts in their runtimes, all asked in the same way.

Torch is imported for runs alone.
"""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.data.decode import prepare
from danlu.deploy.artifact import ArtifactInfo, parse_model, read_bytes
from danlu.deploy.graph_parts import network_only, with_outputs
from danlu.deploy.opening import CHOICE, is_artifact, open_artifact
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from danlu.deploy.runtimes import Runtime
    from danlu.tasks.trained import Trained

__all__ = [
    "EAGER_PRECISIONS",
    "Contender",
    "Span",
    "compare_values",
    "eager_answer",
    "eager_contender",
    "encoded",
    "open_contenders",
    "runtime_contender",
]

EAGER_PRECISIONS = ("fp32", "bf16")
# Rounding of float32 moves logits by about 1e-6 of the largest, bfloat16 by 1e-2.
_LIKE_FP32 = 3e-4
_PREPROCESSED = "stage.preprocess"
_JPEG_QUALITY = 90

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Span:
    """A part of the way from a picture's file to its answer: ``answer(feed(pictures))``; only ``answer`` is timed."""

    feed: Callable[[Pictures], Any]
    answer: Callable[[Any], Any]


@dataclass
class Contender:
    """One network in one runtime.

    Attributes:
        name: unlike that of all others it is compared with.
        precision: what it really executes.
        answer: uint8 [B, H, W, C] to probabilities [B, K].
        executed: what the runtime says of itself.
        size: (height, width) of its pictures.
        channels: of its pictures.
        classes: names in the order of its answers.
        weights: hash of what it was made from; contenders that share it should answer alike.
        source: the artifact, or the run with its precision, as :mod:`danlu.deploy.cold` opens it.
        spans: other parts of the way that can be timed: ``network``, from normalised floats to logits.
        bursts: seconds of each call by (batch, span), in bursts.
    """

    name: str
    precision: str
    answer: Callable[[Pictures], Any]
    executed: dict[str, Any]
    size: tuple[int, int] = (1, 1)
    channels: int = 1
    classes: tuple[str, ...] = ()
    weights: str | None = None
    source: tuple[str, ...] = ()
    spans: dict[str, Span] = field(default_factory=dict)
    bursts: dict[tuple[int, str], list[list[float]]] = field(default_factory=dict)

    def span(self, name: str) -> Span | None:
        """Return how to time a part of the way: ``arrays``, ``files`` or one of ``spans``."""
        if name == "arrays":
            return Span(lambda pictures: pictures, self.answer)
        if name == "files":
            return Span(encoded, self._answer_files)
        return self.spans.get(name)

    def _answer_files(self, files: Sequence[bytes]) -> list[str]:
        """Decode and fit picture files, answer them, and name their classes, as ``danlu predict`` does."""
        pictures = np.stack([prepare(file, self.channels, self.size) for file in files])
        best = np.asarray(self.answer(pictures)).argmax(axis=1)
        return [self.classes[place] for place in best.tolist()]


def encoded(pictures: Pictures) -> list[bytes]:
    """Return pictures [B, H, W, C] as JPEG files."""
    from PIL import Image

    files = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(
            buffer, format="JPEG", quality=_JPEG_QUALITY
        )
        files.append(buffer.getvalue())
    return files


def open_contenders(
    sources: Sequence[Path | str | Trained], threads: int, eager: Sequence[str] = ("fp32",)
) -> list[Contender]:
    """Open all that ``sources`` hold: a run gives eager PyTorch in each of ``eager`` and the artifacts of its record.

    Raises:
        InputError: neither run nor artifact, contenders that take different
            pictures, or a source given twice.
    """
    if unknown := [name for name in eager if name not in EAGER_PRECISIONS]:
        raise InputError(f"unknown precision {unknown[0]!r}", where="--eager", allowed=EAGER_PRECISIONS)
    found: list[Contender] = []
    for source in sources:
        if isinstance(source, Path | str):
            path = Path(source)
            if is_artifact(path):
                found.append(_artifact_contender(path, threads))
                continue
            from danlu.tasks.trained import open_trained

            source = open_trained(path)
        found += _run_contenders(source, threads, eager)
    _make_unlike(found)
    first = found[0]
    for other in found[1:]:
        if (other.size, other.channels) != (first.size, first.channels):
            what = f"takes pictures of {_shape(other)}, {first.name} takes {_shape(first)}"
            raise InputError(what, where=other.name, mend="compare networks that take the same pictures")
    return found


def _shape(contender: Contender) -> str:
    return f"{contender.size[0]}×{contender.size[1]}×{contender.channels}"


def _make_unlike(found: Sequence[Contender]) -> None:
    """Give contenders of one name their sources' names, too."""
    counts = Counter(contender.name for contender in found)
    for contender in found:
        if counts[contender.name] > 1:
            contender.name = f"{contender.name} {contender.source[0]}"
    if again := [name for name, count in Counter(c.name for c in found).items() if count > 1]:
        raise InputError("is given twice", where=again[0], mend="name each run or artifact once")


def _run_contenders(trained: Trained, threads: int, eager: Sequence[str]) -> list[Contender]:
    artifacts = trained.run.read_record().get("artifacts") or {}
    # A web page and a Triton folder hold the same ONNX file.
    kept = {name: facts for name, facts in artifacts.items() if name.split()[0] not in ("web", "triton")}
    paths = {name: trained.run.path / facts["file"] for name, facts in kept.items() if facts.get("file")}
    found = [eager_contender(trained, threads, precision) for precision in eager]
    return found + [_artifact_contender(path, threads) for _, path in sorted(paths.items())]


def _artifact_contender(path: Path, threads: int) -> Contender:
    runtime, info = open_artifact(path, threads=threads)
    contender = runtime_contender(runtime, info, path)
    if path.is_file() and path.name != CHOICE:
        contender.spans["network"] = _onnx_network(read_bytes(path), str(path), threads)
    return contender


def runtime_contender(runtime: Runtime, info: ArtifactInfo, path: Path) -> Contender:
    """Return an opened artifact as something to measure."""
    executed = runtime.describe()
    wanted = ["probabilities"]
    return Contender(
        name=f"{runtime.name} {info.precision}",
        precision=executed["precision"],
        answer=lambda pictures: runtime.predict(pictures, wanted)["probabilities"],
        executed=executed,
        size=info.picture_size,
        channels=info.channels,
        classes=info.classes,
        weights=info.hashes.get("weights"),
        source=(str(path),),
    )


def _onnx_network(model: bytes, where: str, threads: int) -> Span:
    """Return the network of an ONNX artifact without what stands before and behind it; opened when it is asked for."""
    opened: dict[str, OnnxRuntime] = {}

    def feed(pictures: Pictures) -> NDArray[np.float32]:
        graph = parse_model(model, where)
        front = OnnxRuntime(with_outputs(graph, [_PREPROCESSED]).SerializeToString(), where, threads)
        values = np.asarray(front.predict(pictures, [_PREPROCESSED])[_PREPROCESSED], dtype=np.float32)
        if "network" not in opened:
            cut = network_only(graph, _PREPROCESSED, "logits", values.shape[1:])
            opened["network"] = OnnxRuntime(cut.SerializeToString(), where, threads)
        return values

    return Span(feed, lambda values: opened["network"].run(values))


def eager_answer(trained: Trained, precision: str) -> tuple[Any, Callable[[Pictures], Any]]:
    """Return a run's network and how it answers: as trained (fp32), or a channels-last copy of it in bfloat16."""
    import torch

    network, task, preprocess = trained.model.eval(), trained.task, trained.preprocess
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if precision == "bf16":
        network = copy.deepcopy(network).to(dtype).to(memory_format=torch.channels_last)

    def answer(pictures: Pictures) -> Any:
        with torch.inference_mode():
            logits = network(preprocess(torch.from_numpy(pictures)).to(dtype))
            return task.decode(logits.float()).numpy()

    return network, answer


def eager_contender(trained: Trained, threads: int, precision: str) -> Contender:
    """Return a run's network in eager PyTorch as something to measure."""
    import torch

    network, answer = eager_answer(trained, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    settings = trained.preprocess.settings

    def feed(pictures: Pictures) -> Any:
        with torch.inference_mode():
            return trained.preprocess(torch.from_numpy(pictures)).to(dtype)

    def ask(values: Any) -> Any:
        with torch.inference_mode():
            return network(values)

    blank = np.zeros((1, *settings.picture_size, settings.channels), dtype=np.uint8)
    layers = _layers_of(network, lambda: answer(blank))
    executed = {"runtime": "pytorch", "version": torch.__version__, "threads": threads}
    return Contender(
        name="pytorch eager" if precision == "fp32" else f"pytorch eager {precision}",
        precision=_told(layers),
        answer=answer,
        executed={**executed, "precision": _told(layers), "layers": dict(layers)},
        size=settings.picture_size,
        channels=settings.channels,
        classes=trained.classes,
        weights=trained.weights_hash,
        source=(str(trained.run.path), precision),
        spans={"network": Span(feed, ask)},
    )


_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def _layers_of(network: Any, call: Callable[[], Any]) -> Counter[str]:
    """Return how many layers with weights gave a result of each precision in one call."""
    import torch

    counted: Counter[str] = Counter()

    def see(module: Any, _: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            kind = str(output.dtype).removeprefix("torch.")
            counted[_NAMES.get(kind, kind)] += 1

    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    handles = [module.register_forward_hook(see) for module in network.modules() if isinstance(module, kinds)]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return counted


def _told(layers: Counter[str]) -> str:
    total = sum(layers.values())
    if len(layers) == 1:
        return next(iter(layers))
    return ", ".join(f"{name} {count} of {total} layers" for name, count in layers.most_common()) or "no layers"


def compare_values(contenders: Sequence[Contender], pictures: Pictures) -> None:
    """Note how far answers lie from those of the first contender in fp32, and who says fp32 but does not answer so.

    A runtime may say fp32 and compute in bfloat16; its values cannot. ``executed["difference"]`` is the largest
    difference of a probability's logarithm, as a share of the largest logarithm; contenders made from other weights
    have none.
    """
    first = next((c for c in contenders if c.precision == "fp32"), None)
    if first is None or first.weights is None:
        return
    reference = _logarithms(first.answer(pictures))
    for contender in contenders:
        if contender is first or contender.weights != first.weights:
            continue
        difference = float(np.abs(_logarithms(contender.answer(pictures)) - reference).max() / np.abs(reference).max())
        contender.executed["difference"] = difference
        if contender.precision == "fp32" and not difference < _LIKE_FP32:
            contender.precision = f"fp32 as told, but answers differ by {difference:.1g}"


def _logarithms(probabilities: Any) -> NDArray[np.float64]:
    # What lies below may be zero in one runtime and denormal in another.
    return np.asarray(np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), 1e-30)), dtype=np.float64)
