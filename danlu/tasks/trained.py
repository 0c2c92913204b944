"""Open what a run has trained: the network, how pictures reach it, and what its outputs mean."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from danlu.core.errors import InputError
from danlu.core.files import sha256_file
from danlu.core.records import RunFolder, open_run_folder
from danlu.core.settings import make_settings
from danlu.models import MODELS, create_model
from danlu.models.base import VisionModel
from danlu.models.weights import checkpoint_folder, load_state, read_verified
from danlu.tasks import TASKS
from danlu.tasks.classification import Classification
from danlu.tasks.preprocess import PictureModel, Preprocess, PreprocessSettings

__all__ = ["Trained", "is_coded", "open_trained"]

# Coded files are read by the room that writes them, which stands below this one: its reader is found by name, as
# everything registered is. The first bytes of such a file are these.
_CODED = ("danlu.compress.dlz", "open_dlz")
_CODED_MAGIC = b"\x89DLZ\r\n\x1a\n"


@dataclass(frozen=True)
class Trained:
    """A trained network and everything that gives its numbers a meaning.

    Attributes:
        model: the network in eval mode, float32, on the CPU.
        preprocess: from uint8 pictures to the network's input.
        task: what the logits mean.
        classes: class names in the order of the logits.
        config: the run's ``config.json``.
        run: the run folder.
        weights_hash: SHA-256 of the weights file.
        model_name: the registered name of the network.
        which: ``best`` or ``last``; ``coded`` for a coded file.
        trained_on: ``train``, or ``train+validation``: no figure of validation would stand.
        edits: what was changed in the network's structure since ``create_model``, in order
            (:class:`danlu.compress.edits.Edit`).
    """

    model: VisionModel
    preprocess: Preprocess
    task: Classification
    classes: tuple[str, ...]
    config: dict[str, Any]
    run: RunFolder
    weights_hash: str
    model_name: str
    which: str
    trained_on: str = "train"
    edits: tuple[Any, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of one picture as the network sees it, (1, C, H, W)."""
        settings = self.preprocess.settings
        return (1, settings.channels, *settings.input_size)

    @property
    def picture_model(self) -> PictureModel:
        """The network with its preprocessing: uint8 [B, h, w, C] -> logits [B, K]."""
        return PictureModel(self.preprocess, self.model).eval()


def open_trained(run: Path | str | RunFolder, which: Literal["best", "last"] = "best") -> Trained:
    """Open the network of a run folder, or of a coded file (``.dlz``).

    Args:
        run: the run folder, as a path or as what training returned, or the file.
        which: the checkpoint with the best validation result, or the last one; the last one is the best where the run
            was trained on validation too, and a coded file has one network.

    Raises:
        InputError: no run folder, a config that is not understood, a checkpoint that is missing, damaged or of another
            network; the message names the file or the tensor.
    """
    if isinstance(run, RunFolder):
        run = run.path
    if is_coded(run):
        opened: Trained = getattr(importlib.import_module(_CODED[0]), _CODED[1])(Path(run))
        return opened
    folder = open_run_folder(Path(run))
    config = folder.read_config()
    where = str(folder.config_path)
    effective = _section(config, "effective", where)
    task_name = effective.get("task", Classification.name)
    kind = TASKS.get(task_name, where) if isinstance(task_name, str) else None
    if kind is None or not issubclass(kind, Classification):
        raise InputError(f"task {task_name!r} cannot be opened", where=where, allowed=TASKS.names())
    described = _section(effective, "model", where)
    settings = make_settings(PreprocessSettings, _section(effective, "preprocess", where), f"{where}, preprocess")
    classes = _section(effective, "data", where).get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise InputError("data.classes is no list of names", where=where)
    name = described.get("name")
    if not isinstance(name, str):
        raise InputError("model.name is no text", where=where)
    model = create_model(
        MODELS.check(name, where),
        num_classes=_count(described, "num_classes", len(classes), where),
        in_channels=_count(described, "in_channels", settings.channels, where),
    )
    trained_on = _trained_on(effective)
    which = which if trained_on == "train" else "last"
    checkpoint = checkpoint_folder(folder, which)
    load_state(model, read_verified(checkpoint), where=str(checkpoint / "weights.safetensors"))
    return Trained(
        model=model.eval(),
        preprocess=Preprocess(settings).eval(),
        task=kind(classes, label_smoothing=_smoothing(effective)),
        classes=tuple(classes),
        config=config,
        run=folder,
        weights_hash=sha256_file(checkpoint / "weights.safetensors"),
        model_name=name,
        which=which,
        trained_on=trained_on,
    )


def is_coded(path: Path | str) -> bool:
    """Return whether ``path`` is a coded file: by its first bytes, or by its suffix where these are damaged."""
    path = Path(path)
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_CODED_MAGIC)) == _CODED_MAGIC or path.suffix.lower() == ".dlz"


def _section(document: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    section = document.get(key)
    if not isinstance(section, dict):
        raise InputError(f"has no section {key!r}", where=where, mend="give the folder that `danlu train` wrote")
    return section


def _count(described: dict[str, Any], key: str, expected: int, where: str) -> int:
    value = described.get(key, expected)
    if value != expected:
        what = f"model.{key} = {value!r} disagrees with the rest of the file"
        raise InputError(what, where=where, allowed=[expected])
    return expected


def _trained_on(effective: dict[str, Any]) -> str:
    train = effective.get("train")
    return str(train.get("train_on", "train")) if isinstance(train, dict) else "train"


def _smoothing(effective: dict[str, Any]) -> float:
    train = effective.get("train")
    value = train.get("label_smoothing", 0.0) if isinstance(train, dict) else 0.0
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 else 0.0
