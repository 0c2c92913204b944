"""What parity compares: a trained network in eager PyTorch, or an artifact in ONNX Runtime, asked in the same way."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError
from danlu.deploy.artifact import ArtifactInfo, is_sealed, parse_model, read_bytes
from danlu.deploy.culprit import ANSWERS
from danlu.deploy.folder import MANIFEST, read_folder
from danlu.deploy.front import Front, graph_front, shared_front
from danlu.deploy.graph_parts import with_outputs
from danlu.deploy.hostile import load_unknown
from danlu.deploy.opening import read_choice
from danlu.deploy.runtimes import RUNTIMES, Runtime
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    import onnx

    from danlu.evaluate import Predictor
    from danlu.tasks.trained import Trained

__all__ = [
    "LOGITS",
    "ArtifactSubject",
    "EagerSubject",
    "FolderSubject",
    "Subject",
    "open_subject",
    "predictor_for",
    "threads_of",
]

LOGITS = "logits"


def threads_of(trained: Trained | None, threads: int | None = None) -> int:
    """Return ``threads`` if given, else what the run's training measured as best, else the usable cores.

    Raises:
        InputError: fewer than one.
    """
    if threads is None and trained is not None:
        machine = trained.config["effective"].get("machine")
        threads = machine.get("threads") if isinstance(machine, dict) else None
        # On a smaller machine than it was trained on, its number would only cost time.
        threads = min(threads, usable_cores()) if isinstance(threads, int) and threads > 0 else None
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads}", where="--threads", allowed=["1 and more"])
    return threads or usable_cores()


class Subject(Protocol):
    """A network that can be asked, whatever runs it.

    Attributes:
        name: what messages call it.
        kind: what runs it: ``PyTorch`` or the name of a runtime.
        precision: ``fp32``, ``bf16`` or ``int8``.
        classes: class names in the order of the logits.
        size: (height, width) pictures are fitted to.
        channels: of the pictures.
        data_hash: of the data it was trained on, or None where that is not known.
        split_seed: of the split of that data, or None.
        trained_on: ``train``, or ``train+validation``.
        task: ``classification``, or ``multilabel``.
    """

    @property
    def front(self) -> Front:
        """The steps from a picture file to the pixels the network is fed."""
        ...

    name: str
    kind: str
    task: str
    precision: str
    classes: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    data_hash: str | None
    split_seed: int | None
    trained_on: str

    def logits(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits [B, K] for uint8 pictures [B, h, w, C]."""
        ...

    def stages(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the output of each stage, the preprocessing first and the logits last."""
        ...

    def probabilities(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities [B, K] for uint8 pictures [B, h, w, C]."""
        ...

    def graph(self, *, folded: bool = True) -> onnx.ModelProto | None:
        """Return the network as an ONNX graph where there is one, with batch normalisation folded away or not."""
        ...

    def executed(self) -> str | None:
        """Return the precision that is really executed, or None where that is not known."""
        ...


class EagerSubject:
    """A trained network in eager PyTorch, float32."""

    kind = "PyTorch"
    precision = "fp32"

    def __init__(self, trained: Trained) -> None:
        import torch

        from danlu.deploy.capture import STAGE_PREFIX, Probed, full_precision

        settings = trained.preprocess.settings
        self.name = trained.run.name
        self.classes, self.size = trained.classes, settings.picture_size
        self.channels: int = settings.channels
        described = trained.config["effective"]["data"]
        self.data_hash: str | None = described.get("hash")
        self.split_seed: int | None = described.get("seed")
        self.trained_on, self.task = trained.trained_on, trained.task.name
        # The logits come from the network as it was trained and evaluated, not from what was made for the export.
        # A copy, because channels-last, which is faster, would change the memory of the owner's weights.
        self._network = copy.deepcopy(trained.picture_model).to(memory_format=torch.channels_last)
        self._probed = Probed(trained).eval()
        self._full_precision, self._prefix = full_precision, STAGE_PREFIX
        self.front = shared_front(self.size, self.channels)
        self._trained, self._graphs = trained, dict[bool, Any]()

    def logits(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits [B, K] for uint8 pictures [B, h, w, C]."""
        with self._full_precision():
            return _array(self._network(_tensor(pictures)))

    def stages(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the output of each stage, the preprocessing first and the logits last."""
        with self._full_precision():
            values = dict(zip(self._probed.output_names, self._probed(_tensor(pictures)), strict=True))
        staged = {name: value for name, value in values.items() if name.startswith(self._prefix)}
        named = {name.removeprefix(self._prefix): _array(value) for name, value in staged.items()}
        return {**named, LOGITS: _array(values[LOGITS])}

    def probabilities(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities [B, K] for uint8 pictures [B, h, w, C]."""
        return ANSWERS[self.task](self.logits(pictures))

    def pixels(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's input [B, C, H, W] before it is normalised, in 0…255."""
        preprocess = self._probed.preprocess
        with self._full_precision():
            return _array((preprocess(_tensor(pictures)) - preprocess.shift) / preprocess.scale)

    def network_stages(self, floats: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the output of each stage and the logits for the network's own input [B, C, H, W]."""
        with self._full_precision():
            values = self._probed.network(_tensor(np.ascontiguousarray(floats)))
        names = [name for name in self._probed.output_names if name != f"{self._prefix}preprocess"]
        named = {name.removeprefix(self._prefix): value for name, value in zip(names, values, strict=True)}
        logits = named.pop(LOGITS)
        named.pop("probabilities", None)
        return {name: _array(value) for name, value in named.items()} | {LOGITS: _array(logits)}

    def graph(self, *, folded: bool = True) -> onnx.ModelProto | None:
        """Return the network as a graph, with batch normalisation folded away or not; computed once."""
        if folded not in self._graphs:
            from danlu.deploy.capture import capture

            self._graphs[folded] = capture(self._trained, folded=folded)
        found: onnx.ModelProto = self._graphs[folded]
        return found

    def executed(self) -> str | None:
        """Return the precision that is really executed, where that can be known."""
        return self.precision


def _tensor(pictures: NDArray[Any]) -> Any:
    import torch

    # torch warns of memory it may not write to; it does not write.
    return torch.from_numpy(pictures if pictures.flags.writeable else pictures.copy())


def _array(tensor: Any) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().numpy(), dtype=np.float32)


class ArtifactSubject:
    """An artifact in ONNX Runtime.

    Args:
        model: the bytes of the ONNX file.
        name: what messages call it.
        threads: of one prediction.
    """

    kind = "onnxruntime"

    def __init__(self, model: bytes, name: str, threads: int | None = None) -> None:
        self.name, self._model, self._threads = name, model, threads
        self.runtime = OnnxRuntime.load(model, threads=threads)
        self.info = ArtifactInfo.from_metadata(self.runtime.metadata, name)
        self.precision, self.classes, self.task = self.info.precision, self.info.classes, self.info.task
        self.size, self.channels = self.info.picture_size, self.info.channels
        self.data_hash = self.info.hashes.get("data")
        split = self.info.split or {}
        self.split_seed: int | None = split.get("seed")
        self.trained_on: str = split.get("trained_on", "train")
        self._staged: OnnxRuntime | None = None

    @functools.cached_property
    def front(self) -> Front:
        """The steps from a file to the pixels: those of the graph where it resizes itself."""
        found = graph_front(parse_model(self._model, self.name), self.size, self.channels)
        return found or shared_front(self.size, self.channels)

    def graph(self, *, folded: bool = True) -> onnx.ModelProto | None:
        """Return the artifact's own graph."""
        return parse_model(self._model, self.name)

    def executed(self) -> str | None:
        """Return the precision that is really executed."""
        return str(self.runtime.describe()["precision"])

    def logits(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits [B, K] for uint8 pictures [B, H, W, C] of any size."""
        return np.asarray(self.runtime.predict(pictures, [LOGITS])[LOGITS], dtype=np.float32)

    def probabilities(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities [B, K] for uint8 pictures [B, H, W, C] of any size."""
        return np.asarray(self.runtime.predict(pictures, ["probabilities"])["probabilities"], dtype=np.float32)

    def stages(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the output of each stage, the preprocessing first and the logits last."""
        tensors = [*self.info.stages.values(), LOGITS]
        if self._staged is None:
            # The artifact itself gives no stages; this is the same graph with more outputs.
            shown = with_outputs(parse_model(self._model, self.name), tensors)
            self._staged = OnnxRuntime.load(shown.SerializeToString(), threads=self._threads)
        values = self._staged.predict(pictures, tensors)
        return {stage: np.asarray(values[name], dtype=np.float32) for stage, name in self.info.stages.items()} | {
            LOGITS: np.asarray(values[LOGITS], dtype=np.float32)
        }


class FolderSubject:
    """An artifact's folder in the runtime it is for.

    Args:
        path: the folder with ``artifact.json``.
        name: what messages call it.
        threads: of one prediction.
    """

    def __init__(self, path: Path, name: str, threads: int | None = None) -> None:
        folder = read_folder(path)
        self.name, self.kind, self._path, self._threads = name, folder.runtime, path, threads
        self.runtime: Runtime = RUNTIMES.get(RUNTIMES.check(folder.runtime, str(path))).load(path, threads=threads)
        self.info = folder.info
        self.precision, self.classes, self.task = self.info.precision, self.info.classes, self.info.task
        self.size, self.channels = self.info.picture_size, self.info.channels
        self.data_hash = self.info.hashes.get("data")
        split = self.info.split or {}
        self.split_seed: int | None = split.get("seed")
        self.trained_on: str = split.get("trained_on", "train")
        self.front = shared_front(self.size, self.channels)
        self._staged: Runtime | None = None

    def graph(self, *, folded: bool = True) -> onnx.ModelProto | None:
        """Return None: the runtime keeps no ONNX graph."""
        return None

    def executed(self) -> str | None:
        """Return the precision that is really executed."""
        return str(self.runtime.describe()["precision"])

    def logits(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits [B, K] for uint8 pictures [B, H, W, C] of any size."""
        return np.asarray(self.runtime.predict(pictures, [LOGITS])[LOGITS], dtype=np.float32)

    def probabilities(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities [B, K] for uint8 pictures [B, H, W, C] of any size."""
        return np.asarray(self.runtime.predict(pictures, ["probabilities"])["probabilities"], dtype=np.float32)

    def stages(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the output of each stage, the preprocessing first and the logits last."""
        tensors = list(self.info.stages.values())
        if self._staged is None:
            self._staged = self.runtime
            if self.kind == "openvino":  # gives no tensor that it was not asked for when it was compiled
                from danlu.deploy.runtimes.openvino import OpenVINO

                self._staged = OpenVINO.load(self._path, threads=self._threads, extra=tensors)
        values = self._staged.predict(pictures, [*tensors, LOGITS])
        named = {**self.info.stages, LOGITS: LOGITS}
        return {stage: np.asarray(values[tensor], dtype=np.float32) for stage, tensor in named.items()}


def open_subject(source: Path | str | Trained, threads: int | None = None) -> Subject:
    """Open a run folder, a coded file, an artifact (a file, a folder, or what a choice names), or an open network.

    Raises:
        InputError: none of these.
    """
    if not isinstance(source, Path | str):
        return EagerSubject(source)
    path = Path(source)
    if (path / MANIFEST).is_file():
        return FolderSubject(path, str(path), threads)
    # A coded file is told by its suffix before torch is imported to look into it.
    if path.is_dir() or path.suffix.lower() == ".dlz":
        from danlu.tasks.trained import open_trained

        return EagerSubject(open_trained(path))
    if path.suffix.lower() == ".json":
        choice = read_choice(path)
        return open_subject(choice.artifact, threads)
    if path.suffix.lower() != ".onnx" and not path.is_file():
        raise InputError("is neither a run folder nor an artifact", where=str(path), mend="give RUN or RUN/model.onnx")
    model = read_bytes(path)
    if not is_sealed(model):
        load_unknown(path)
    parse_model(model, str(path))
    return ArtifactSubject(model, str(path), threads)


def predictor_for(subject: Subject) -> Predictor:
    """Return what :func:`danlu.evaluate.evaluate` needs to run ``subject``, and to know what it was trained on."""
    from danlu.evaluate import Predictor

    return Predictor(
        name=subject.name,
        classes=subject.classes,
        size=subject.size,
        channels=subject.channels,
        logits=subject.logits,
        data_hash=subject.data_hash,
        split_seed=subject.split_seed,
        trained_on=subject.trained_on,
        task=subject.task,
    )
