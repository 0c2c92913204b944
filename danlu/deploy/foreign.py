"""An ONNX file that says nothing about itself: asked with what the reference feeds its own network, matched by value.

No names are trusted. Of every tensor of the graph the value is taken, and each stage of the reference is the tensor,
in the order of the graph, whose values are nearest to it in one of the layouts that are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError
from danlu.deploy.artifact import parse_model
from danlu.deploy.culprit import ANSWERS
from danlu.deploy.front import Front
from danlu.deploy.runtimes.onnxruntime import open_session

if TYPE_CHECKING:
    import onnx

    from danlu.deploy.subjects import Subject

__all__ = ["ForeignSubject", "Match", "is_foreign"]

_LOGITS = "logits"
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
_LEAST = 1e-30
_AGREES = 1e-3
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Match:
    """The tensor of a foreign graph that is a stage: its name, its values, the relative difference."""

    tensor: str
    values: NDArray[np.float32]
    relative: float


def is_foreign(model: onnx.ModelProto) -> bool:
    """Return whether a graph has no metadata of this tool."""
    return not any(entry.key == "danlu.schema" for entry in model.metadata_props)


class ForeignSubject:
    """A foreign ONNX file beside its reference ``guide``, whose preprocessing and classes it is taken to share.

    Attributes:
        expects: what it wants to be fed in place of the reference's input, where that alone makes it agree.
        output_name: of the tensor that answers.
        gives: ``logits`` or ``probabilities``, read off the values.
        batch: the number of pictures it takes, where that is fixed.
        matches: stage -> :class:`Match` of the last call of :meth:`stages`.
    """

    kind = "onnxruntime"
    data_hash: str | None = None
    split_seed: int | None = None
    trained_on = "train"

    def __init__(self, model: bytes, name: str, guide: Subject, threads: int | None = None) -> None:
        self.name, self._guide, self.task = name, guide, guide.task
        self._model, self._threads = parse_model(model, name), threads or usable_cores()
        self._session = open_session(model, name, self._threads)
        self.classes, self.size, self.channels = guide.classes, guide.size, guide.channels
        kinds = {node.op_type for node in self._model.graph.node}
        self.precision = "int8" if kinds & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"} else "fp32"
        self.front: Front = guide.front
        given = self._session.get_inputs()
        if len(given) != 1 or given[0].type not in _TYPES or len(given[0].shape) != 4:
            told = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in given)
            raise InputError(f"takes {told}", where=name, allowed=["one tensor of pictures with four sides"])
        self._input, self._shape = given[0].name, given[0].shape
        self._type: Any = _TYPES[given[0].type]
        self.batch = self._shape[0] if isinstance(self._shape[0], int) and self._shape[0] > 0 else None
        self._last = self._type is np.uint8 or (self._shape[3] == self.channels and self._shape[1] != self.channels)
        self.matches: dict[str, Match] = {}
        self.expects, self._alternative = "", (False, "")
        self.output_name = self._choose_output()
        self.gives = _LOGITS
        self._staged: Any = None

    def _choose_output(self) -> str:
        count = len(self.classes)
        outputs = [one for one in self._session.get_outputs() if len(one.shape) == 2 and one.shape[1] in (count, None)]
        outputs = outputs or [one for one in self._session.get_outputs() if len(one.shape) == 2]
        if not outputs:
            told = ", ".join(f"{one.name} {one.shape}" for one in self._session.get_outputs())
            raise InputError(f"gives {told}", where=self.name, allowed=[f"[batch, {count}]"])
        named = [one for one in outputs if _LOGITS in one.name.lower()]
        return str((named or outputs)[0].name)

    def learn(self, pictures: NDArray[np.uint8]) -> None:
        """Find out what it gives and, where the reference's input does not make it agree, what it expects instead.

        Args:
            pictures: a few, uint8 [B, h, w, C].
        """
        raw = self.raw(pictures)
        if self._probable(raw):
            self.gives = "probabilities"
        if self._type is np.uint8 or self._distance(raw, pictures) < _AGREES:
            return
        for told, way in self._alternatives():
            self._alternative = way
            if self._distance(self.raw(pictures), pictures) < _AGREES:
                self.expects = told
                break
        self._alternative = (False, "")

    def _distance(self, raw: NDArray[Any], pictures: NDArray[np.uint8]) -> float:
        logits = self._guide.logits(pictures)
        wanted = ANSWERS[self.task](logits) if self._probable(raw) else logits
        if raw.shape != wanted.shape or not np.isfinite(raw).all():
            return float("inf")
        return float(np.abs(raw - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))

    def _alternatives(self) -> Iterator[tuple[str, tuple[bool, str]]]:
        ways = {
            "": "",
            "0-255": "0-255 instead of normalised values",
            "0-1": "0-1 instead of normalised values",
            "-1…1": "mean 0.5 and std 0.5",
            "imagenet": "the mean and std of ImageNet",
        }
        for reverse, (way, told) in product((False, True) if self.channels == 3 else (False,), ways.items()):
            if reverse or way:
                both = [*(["BGR instead of RGB"] if reverse else []), *([told] if told else [])]
                yield " and ".join(both), (reverse, way)

    def _feed(self, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        if self._type is np.uint8:
            return pictures
        reverse, way = self._alternative
        floats: NDArray[Any] = self._guide.stages(pictures)["preprocess"]
        if way:
            pixels = getattr(self._guide, "pixels", None)
            floats = pixels(pictures) if pixels else pictures.transpose(0, 3, 1, 2).astype(np.float32)
            if way == "imagenet":
                mean, std = (np.array(row, np.float32)[: self.channels, None, None] for row in _IMAGENET)
                floats = (floats / 255 - mean) / std
            else:
                floats = {"0-255": floats, "0-1": floats / 255, "-1…1": floats / 127.5 - 1}[way]
        floats = floats[:, ::-1] if reverse else floats
        laid = floats.transpose(0, 2, 3, 1) if self._last else floats
        return np.ascontiguousarray(laid, dtype=self._type)

    def _probable(self, raw: NDArray[Any]) -> bool:
        """Whether an output reads as probabilities: of one choice they add to one, of several each is a share."""
        return bool((raw >= 0).all() and (raw <= 1).all()) if self.task == "multilabel" else _adds_to_one(raw)

    def raw(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return its output [B, K] as it is."""
        return np.asarray(self._run(self._session, [self.output_name], pictures)[0], dtype=np.float32)

    def _run(self, session: Any, names: list[str], pictures: NDArray[np.uint8]) -> list[NDArray[Any]]:
        fed = self._feed(pictures)
        if self.batch is None or self.batch == len(fed):
            return list(session.run(names, {self._input: fed}))
        rows = []
        for start in range(0, len(fed), self.batch):
            part = fed[start : start + self.batch]
            missing = self.batch - len(part)
            whole = np.concatenate([part, np.repeat(part[-1:], missing, 0)]) if missing else part
            values = session.run(names, {self._input: whole})
            rows.append([v[: len(part)] if np.ndim(v) and len(v) == self.batch else v for v in values])
        return [np.concatenate(v) if np.ndim(v[0]) else v[0] for v in zip(*rows, strict=True)]

    def logits(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits [B, K], up to a constant where it gives probabilities, for uint8 pictures [B, h, w, C]."""
        raw = self.raw(pictures)
        if self.gives != "probabilities":
            return raw
        others = 1 - raw if self.task == "multilabel" else np.ones_like(raw)
        return np.asarray(np.log(np.maximum(raw, _LEAST) / np.maximum(others, _LEAST)), dtype=np.float32)

    def probabilities(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what it gives as probabilities [B, K], or those that its logits make in its task."""
        raw = self.raw(pictures)
        return raw if self.gives == "probabilities" else ANSWERS[self.task](raw)

    def stages(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the values nearest to each stage of the reference; ``matches`` tells which tensors they are."""
        names, values = self._tensors(pictures)
        self.matches, begin = {}, 0
        for stage, wanted in self._guide.stages(pictures).items():
            best: tuple[float, int, NDArray[np.float32]] | None = None
            for place in range(begin, len(names)):
                for laid in _laid(values[place], wanted.shape):
                    relative = _relative(wanted, laid)
                    if best is None or relative < best[0] * 0.999:
                        best = (relative, place, laid)
            if best is None:
                continue
            self.matches[stage] = Match(names[best[1]], best[2], best[0])
            if best[0] < _AGREES:
                begin = best[1] + 1
        return {stage: match.values for stage, match in self.matches.items()}

    def _tensors(self, pictures: NDArray[np.uint8]) -> tuple[list[str], list[NDArray[Any]]]:
        """Return every tensor that holds floats by picture, in the order of the graph."""
        import onnx

        order = [name for node in self._model.graph.node for name in node.output if name]
        if self._staged is None:
            shown = onnx.ModelProto()
            shown.CopyFrom(self._model)
            given = {value.name for value in shown.graph.output}
            shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in order if name not in given)
            self._staged = open_session(shown.SerializeToString(), self.name, self._threads)
        values = dict(zip(order, self._run(self._staged, order, pictures), strict=True))
        kept = [name for name in order if np.ndim(values[name]) > 1 and len(values[name]) == len(pictures)]
        kept = [name for name in kept if values[name].dtype.kind == "f"]
        fed = self._feed(pictures).astype(np.float32)
        return [self._input, *kept], [fed, *(values[name].astype(np.float32) for name in kept)]

    def graph(self, *, folded: bool = True) -> onnx.ModelProto | None:
        """Return the foreign graph."""
        return self._model

    def executed(self) -> str | None:
        """Return None: it says nothing about what it should be."""
        return None


def _adds_to_one(values: NDArray[Any]) -> bool:
    return values.shape[1] > 1 and bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3))


def _laid(values: NDArray[Any], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Yield ``values`` in the shape of a stage, in the ways that fit."""
    if values.shape == shape:
        yield values
    elif values.size == int(np.prod(shape)) and len(values) == shape[0]:
        if values.ndim == 4 and len(shape) == 4 and values.transpose(0, 3, 1, 2).shape == shape:
            yield values.transpose(0, 3, 1, 2)
        elif values.ndim == 3 and len(shape) == 4 and values.shape[2] == shape[1]:
            yield values.transpose(0, 2, 1).reshape(shape)
        else:
            yield values.reshape(shape)


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    if not np.isfinite(b).all():
        return float("inf")
    return float(np.abs(a - b).max()) / max(float(np.abs(a).max()), 1e-12)
