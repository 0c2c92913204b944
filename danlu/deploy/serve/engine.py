"""An artifact that is ready to answer: decoded pictures in, classes and maps out. No torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import CheckFailed, InputError
from danlu.data.decode import decode, fit, resized_size
from danlu.deploy.activation import MAPS
from danlu.deploy.artifact import ArtifactInfo, read_bytes
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime
from danlu.deploy.serve.batching import Pace
from danlu.deploy.serve.problems import Problem

__all__ = ["PROBABILITIES", "Decoded", "Engine"]

PROBABILITIES = "probabilities"
_SUFFIX = ".onnx"
_PIXEL = b"P5 1 1 255\n\x7f"  # a whole picture file
_CELLS = 8  # of an occlusion map, a side

Pictures = NDArray[np.uint8]


class Decoded:
    """One picture as the network takes it, and which part of the upright original that is.

    Attributes:
        pixels: uint8 [h, w, C].
        height: of the upright original.
        width: of the upright original.
        crop: (left, top, width, height) of what the network sees, in pixels of the upright original.
    """

    def __init__(self, data: bytes, info: ArtifactInfo, name: str, max_pixels: int) -> None:
        whole = decode(data, info.channels, name=name, max_pixels=max_pixels)
        self.height, self.width = whole.shape[:2]
        self.pixels = fit(whole, info.picture_size)
        h, w = info.picture_size
        new_h, new_w = resized_size(self.height, self.width, info.picture_size)
        width, height = self.width * w / new_w, self.height * h / new_h
        self.crop = ((self.width - width) / 2, (self.height - height) / 2, width, height)


class Engine:
    """A loaded artifact. Make one with :meth:`open`.

    Attributes:
        info: what the artifact says of itself.
        runtime: what executes it.
        pace: how long its batches take.
    """

    def __init__(self, runtime: OnnxRuntime, info: ArtifactInfo, where: str) -> None:
        self.runtime, self.info, self.where = runtime, info, where
        self.pace = self._warm()

    @classmethod
    def open(cls, path: Path, threads: int | None = None) -> Engine:
        """Load an artifact, check that it answers, and measure how long it takes.

        One guard for every file, whatever its name says: the bytes must be an artifact sealed by its export, or nothing
        parses them.

        Raises:
            InputError: no artifact, changed since its export, no classifier, or one that ONNX Runtime cannot run.
            CheckFailed: its probabilities are not finite.
        """
        where = str(path)
        if path.suffix.lower() != _SUFFIX and path.is_file():
            raise InputError("is no .onnx file", where=where, allowed=["the .onnx file that `danlu export` wrote"])
        data = read_bytes(path, sealed_only=True)
        runtime = OnnxRuntime.load(data, threads=threads, where=where)
        info = ArtifactInfo.from_metadata(runtime.metadata, where)
        if info.task != "classification" or PROBABILITIES not in runtime.outputs:
            what = f"is for {info.task} and gives {', '.join(runtime.outputs)}"
            raise InputError(what, where=where, allowed=["classification"])
        runtime.forget_model()
        return cls(runtime, info, where)

    @property
    def has_maps(self) -> bool:
        """Whether the artifact gives class-activation maps."""
        return MAPS in self.runtime.outputs

    def _warm(self) -> Pace:
        """Answer for grey pictures: memory is taken, and what cannot run is found before a client does."""
        h, w = self.info.picture_size
        grey = np.full((2, h, w, self.info.channels), 127, np.uint8)
        decode(_PIXEL, self.info.channels)  # Pillow looks for its formats when it decodes for the first time
        try:
            self.answer(grey[:1], [PROBABILITIES])
            begin = time.perf_counter()
            self.answer(grey[:1], [PROBABILITIES])
            one = time.perf_counter() - begin
            self.answer(grey, [PROBABILITIES])
            two = time.perf_counter() - begin - one
        except Problem as error:
            raise CheckFailed(f"{self.where}: {error.detail}; export it again") from None
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"ONNX Runtime cannot run it ({reason})", where=self.where) from None
        return Pace(one, two)

    def answer(self, pictures: Pictures, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the outputs for uint8 pictures [B, H, W, C].

        Raises:
            Problem: 500, probabilities that are not finite or of another number than the artifact's classes.
        """
        found = self.runtime.predict(pictures, list(outputs))
        probabilities = found[PROBABILITIES]
        if probabilities.shape != (len(pictures), len(self.info.classes)):
            raise Problem(500, f"the artifact gives probabilities {list(probabilities.shape)}")
        if not np.isfinite(probabilities).all():
            raise Problem(500, "the artifact gives probabilities that are not finite")
        return found

    def ranked(self, probabilities: NDArray[np.float32], top: int) -> list[dict[str, Any]]:
        """Return the ``top`` most probable classes of one picture: ``class``, ``index``, ``probability``."""
        # A stable sort: of equal probabilities the first class stands first, as argmax has it.
        best = np.argsort(-probabilities, kind="stable")[:top].tolist()
        return [{"class": self.info.classes[i], "index": i, "probability": float(probabilities[i])} for i in best]

    def occluded(self, picture: Pictures) -> Pictures:
        """Return the picture with each cell of a grid hidden in turn: uint8 [cells², h, w, C], row by row.

        A cell is covered with the picture's mean colour, a little beyond its edges. Source: Zeiler and Fergus,
        "Visualizing and Understanding Convolutional Networks", 2014, section 4.2.
        """
        h, w = picture.shape[:2]
        rows, columns = min(_CELLS, h), min(_CELLS, w)
        mean = picture.reshape(-1, picture.shape[2]).mean(axis=0).round().astype(np.uint8)
        hidden = np.repeat(picture[None], rows * columns, axis=0)
        over_h, over_w = h // (2 * rows), w // (2 * columns)
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            top, bottom = row * h // rows - over_h, (row + 1) * h // rows + over_h
            left, right = column * w // columns - over_w, (column + 1) * w // columns + over_w
            hidden[place, max(0, top) : bottom, max(0, left) : right] = mean
        return hidden

    def occlusion_shape(self) -> tuple[int, int]:
        """Return rows and columns of an occlusion map."""
        h, w = self.info.picture_size
        return min(_CELLS, h), min(_CELLS, w)

    def card(self) -> dict[str, Any]:
        """Return what the page's model card shows."""
        info = self.info
        h, w = info.picture_size
        return {
            "model": info.model,
            "task": info.task,
            "precision": info.precision,
            "classes": list(info.classes),
            "picture": {"height": h, "width": w, "channels": info.channels},
            "explanations": ["activation", "occlusion"] if self.has_maps else ["occlusion"],
            "hashes": dict(info.hashes),
            "parity": info.parity,
            "version": info.version,
            "runtime": {"name": self.runtime.name, "threads": self.runtime.threads},
        }
