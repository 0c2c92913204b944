"""A program of one's own as one side of parity: the functions of a deployment, put in the place of ours one by one.

Most of what goes wrong between training and deployment stands in front of the network, in a few lines that decode,
resize and normalise with another library. Give those lines as functions and :func:`danlu.deploy.parity.parity` says
which of them differs, and how::

    parity("runs/cats-resnet18-1", Program(open_subject("runs/cats-resnet18-1"), resize=my_resize), load_data("cats"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.deploy.culprit import ANSWERS
from danlu.deploy.front import Front, Pixels
from danlu.deploy.subjects import LOGITS, EagerSubject

__all__ = ["Program"]

Floats = NDArray[np.float32]
_INPUT = "preprocess"


class Program:
    """The steps of ``guide`` with some of them replaced.

    Args:
        guide: the trained network whose steps stand where none is given.
        name: what messages call it.
        decode: file, bytes or pixels -> uint8 [H, W, C'].
        colour: [H, W, C'] -> [H, W, C].
        resize: [H, W, C] -> [H', W', C].
        crop: [H', W', C] -> [h, w, C].
        normalise: uint8 [B, h, w, C] -> float32 [B, C, H, W], the network's input.
        network: the network's input -> logits [B, K].
        answer: logits [B, K] -> probabilities [B, K]; without one, that of the guide's task.
        classes: the class names in the order of the logits.
    """

    kind = "program"
    precision = "fp32"
    data_hash: str | None = None
    split_seed: int | None = None

    def __init__(
        self,
        guide: EagerSubject,
        *,
        name: str = "program",
        decode: Callable[[Any], Pixels] | None = None,
        colour: Callable[[Pixels], Pixels] | None = None,
        resize: Callable[[Pixels], Pixels] | None = None,
        crop: Callable[[Pixels], Pixels] | None = None,
        normalise: Callable[[Pixels], Floats] | None = None,
        network: Callable[[Floats], Floats] | None = None,
        answer: Callable[[Floats], Floats] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        own = guide.front
        self.name, self._guide = name, guide
        self.front = Front(decode or own.decode, colour or own.colour, resize or own.resize, crop or own.crop)
        self._normalise, self._network, self._answer = normalise, network, answer or ANSWERS[guide.task]
        self.classes = tuple(classes) if classes is not None else guide.classes
        self.size, self.channels = guide.size, guide.channels

    def stages(self, pictures: Pixels) -> dict[str, Floats]:
        """Return what is known of each stage, the network's input first and the logits last."""
        floats = np.asarray((self._normalise or self._given)(pictures), dtype=np.float32)
        if self._network is not None:
            return {_INPUT: floats, LOGITS: np.asarray(self._network(floats), dtype=np.float32)}
        return {_INPUT: floats, **self._guide.network_stages(floats)}

    def _given(self, pictures: Pixels) -> Floats:
        return self._guide.stages(pictures)[_INPUT]

    def logits(self, pictures: Pixels) -> Floats:
        """Return logits [B, K] for uint8 pictures [B, h, w, C]."""
        return self.stages(pictures)[LOGITS]

    def probabilities(self, pictures: Pixels) -> Floats:
        """Return what it answers [B, K] for uint8 pictures [B, h, w, C]."""
        return np.asarray(self._answer(self.logits(pictures)), dtype=np.float32)

    def graph(self, *, folded: bool = True) -> None:
        """Return None: a program has no graph."""

    def executed(self) -> None:
        """Return None: it does not say."""
