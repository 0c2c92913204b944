"""One batched pass of a network over a data set: pictures in, logits out, in the data set's order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from danlu.core.errors import CheckFailed
from danlu.core.log import progress
from danlu.evaluate.views import views
from danlu.tasks.trained import Trained

__all__ = ["BATCH", "PictureLoader", "Predictor", "predict_both", "predict_logits", "predictor_of"]

BATCH = 256

Pictures = NDArray[np.uint8]
Logits = NDArray[np.float32]


class PictureLoader(Protocol):
    """What is needed of :class:`danlu.data.loader.Loader`."""

    def prefetch(self, batches: Iterator[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], Pictures]]: ...


@dataclass(frozen=True)
class Predictor:
    """Anything that turns pictures into logits, and what is needed to feed and read it.

    Attributes:
        name: what to call it in messages, e.g. the run folder or the artifact.
        classes: class names in the order of the logits.
        size: (height, width) of the pictures fed.
        channels: of the pictures fed, 1 or 3.
        logits: uint8 pictures [B, h, w, C] -> logits [B, K], or a mapping that holds them as ``"logits"``; or a module
            that does so on tensors.
        data_hash: of the data it was trained on, or None where that is not known.
        split_seed: of the split of that data, or None; a split by another seed holds pictures it was trained on.
        trained_on: ``train``, or ``train+validation``.
        task: ``classification``, or ``multilabel``.
    """

    name: str
    classes: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    logits: nn.Module | Callable[[Pictures], Any]
    data_hash: str | None = None
    split_seed: int | None = None
    trained_on: str = "train"
    task: str = "classification"


def predictor_of(trained: Trained) -> Predictor:
    """Return the predictor of a trained network, on the CPU in float32; ``trained`` itself stays as it is."""
    settings = trained.preprocess.settings
    # The copy may change its memory format, which its owner would notice when saving.
    module = copy.deepcopy(trained.picture_model).to(memory_format=torch.channels_last).eval()
    described = trained.config["effective"]["data"]
    return Predictor(
        name=trained.run.name,
        classes=trained.classes,
        size=settings.picture_size,
        channels=settings.channels,
        logits=module,
        data_hash=described.get("hash"),
        split_seed=described.get("seed"),
        trained_on=trained.trained_on,
        task=trained.task.name,
    )


def predict_logits(
    network: nn.Module | Callable[[Pictures], Any],
    loader: PictureLoader,
    indices: NDArray[np.int64],
    batch: int = BATCH,
    title: str = "evaluate",
) -> Logits:
    """Return logits [N, K], float32, of the samples at ``indices``, in that order.

    Args:
        network: see :attr:`Predictor.logits`; a module is put into eval mode and runs on its own device
            without autocast.
        loader: gives uint8 pictures [B, h, w, C].
        indices: integers [N].
        batch: pictures in one call, the last one excepted.
        title: what the progress bar says.

    Raises:
        CheckFailed: a call gave another number of rows, or logits that are not finite.
    """
    return predict_both(network, loader, indices, batch, title)[0]


def predict_both(
    network: nn.Module | Callable[[Pictures], Any],
    loader: PictureLoader,
    indices: NDArray[np.int64],
    batch: int = BATCH,
    title: str = "evaluate",
    tta: str | None = None,
) -> tuple[Logits, Logits]:
    """Return logits [N, K] of the pictures as they are, and the weighted mean over their views.

    Args:
        network: see :func:`predict_logits`, as are the next four.
        loader: likewise.
        indices: likewise.
        batch: likewise.
        title: likewise.
        tta: which views (:data:`danlu.evaluate.views.TTA`); without any the two are the same array.

    Raises:
        InputError: an unknown ``tta``.
        CheckFailed: see :func:`predict_logits`.
    """
    call = _module_call(network) if isinstance(network, nn.Module) else network
    batches = (indices[start : start + batch] for start in range(0, len(indices), batch))
    rows: list[Logits] = []
    means: list[Logits] = []
    done = 0
    with progress(title, len(indices), "pictures") as advance:
        for chosen, pictures in loader.prefetch(batches):
            parts = [(weight, _checked(call(view), chosen)) for weight, view in views(pictures, tta)]
            rows.append(parts[0][1])
            if tta is not None:
                means.append(np.asarray(sum(np.float32(weight) * logits for weight, logits in parts)))
            done += len(chosen)
            advance(done, "")
    if done != len(indices):
        raise CheckFailed(f"{len(indices)} pictures were asked for, {done} came")
    plain = np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.float32)
    return plain, np.concatenate(means) if means else plain


def _checked(outputs: Any, chosen: NDArray[np.int64]) -> Logits:
    """Return the logits [B, K] among the outputs for the samples ``chosen`` [B]."""
    logits = np.asarray(outputs["logits"] if isinstance(outputs, Mapping) else outputs, dtype=np.float32)
    if logits.ndim != 2 or len(logits) != len(chosen):
        raise CheckFailed(f"{len(chosen)} pictures gave outputs of shape {list(logits.shape)}, not [B, K]")
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise CheckFailed(f"the logits of sample number {chosen[~finite][0]} are not finite")
    return logits


def _module_call(module: nn.Module) -> Callable[[Pictures], Any]:
    module.eval()
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))

    def call(pictures: Pictures) -> Any:
        tensor = torch.from_numpy(pictures if pictures.flags.writeable else pictures.copy()).to(device)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            outputs = module(tensor)
        return outputs.float().cpu().numpy()

    return call
