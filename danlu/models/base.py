"""What every vision model promises: named stages, features, a head, and a variant's published facts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from danlu.core.errors import InputError

__all__ = ["Paper", "Stage", "Variant", "VisionModel", "WeightMapping"]

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """One stage of a network: what comes out of it is [B, ``channels``, about H / ``stride``, about W / ``stride``]."""

    name: str
    channels: int
    stride: int


class VisionModel(nn.Module, ABC):
    """A network that takes pictures [B, C, H, W] through named stages to a head.

    ``forward(x) == head(features(x)[last stage])`` by construction, so that what an analysis, a parity check or a dense
    task sees is what the classifier sees.

    Attributes:
        stages: the stages in the order the tensor passes them; known without a forward.
        in_channels: C of the pictures.
        num_classes: K, the length of the logits.
        input_size: the only (H, W) the network accepts, or None when it accepts any that is not too small.
        smallest: the least H and W where ``input_size`` is None.
        input_reason: why pictures must have that size; for the error message.
        mapping: renames the weights of a widespread implementation; set by :meth:`Variant.build`.
    """

    stages: tuple[Stage, ...]
    in_channels: int
    num_classes: int
    input_size: tuple[int, int] | None = None
    smallest: int = 1
    input_reason: str = ""
    mapping: WeightMapping | None = None

    @abstractmethod
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the output of every stage for pictures [B, C, H, W], in the order of ``stages``."""

    @abstractmethod
    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for the output of the last stage."""

    @abstractmethod
    def reset_head(self, num_classes: int) -> None:
        """Replace the last layer by a freshly initialised one for ``num_classes`` classes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for pictures [B, C, H, W]."""
        return self.head(self.features(x)[self.stages[-1].name])

    def check_pictures(self, x: Tensor) -> None:
        """Refuse what the network cannot take, before a matrix product fails with a riddle.

        Raises:
            InputError: not [B, C, H, W], another C, or a size the network does not accept.
        """
        name = type(self).__name__
        if x.dim() != 4:
            raise InputError(f"pictures of shape {list(x.shape)}", where=name, allowed=["[B, C, H, W]"])
        channels, height, width = x.shape[1:]
        if channels != self.in_channels:
            raise InputError(
                f"pictures with {channels} channels, this network was built for {self.in_channels}",
                where=name,
                mend=f"give [B, {self.in_channels}, H, W], or build it with in_channels={channels}",
            )
        if self.input_size is not None and (height, width) != self.input_size:
            size = f"{self.input_size[0]}×{self.input_size[1]}"
            raise InputError(
                f"pictures of {height}×{width}, this network accepts {size} only: {self.input_reason}",
                where=name,
                mend=f"pad or resize them to {size}",
            )
        if min(height, width) < self.smallest:
            raise InputError(
                f"pictures of {height}×{width}, this network accepts {self.smallest}×{self.smallest} and larger: "
                f"{self.input_reason}",
                where=name,
                mend="enlarge them",
            )


@dataclass(frozen=True)
class Paper:
    """Where an architecture comes from; the words of the module docstring, as data."""

    title: str
    authors: str
    year: int
    link: str


@dataclass(frozen=True)
class WeightMapping:
    """Renames the weights of a widespread implementation into ours and back.

    Attributes:
        reference: which implementation, in words.
        from_reference: its state dict -> ours.
        to_reference: ours -> its.
    """

    reference: str
    from_reference: Callable[[Weights], dict[str, Tensor]]
    to_reference: Callable[[Weights], dict[str, Tensor]]


@dataclass(frozen=True)
class Variant:
    """One published size of an architecture.

    Attributes:
        name: what ``create_model`` calls it.
        model: the class (or function) that builds it from ``arguments``, ``num_classes`` and ``in_channels``.
        arguments: what distinguishes this variant.
        paper: where it comes from.
        input: [C, H, W] the published counts are for.
        classes: number of classes the published counts are for.
        parameters: exact number of parameters.
        macs: exact multiply-adds of one picture (convolutions, linear layers, matrix products).
        accuracy: published test accuracy in per cent, by data set.
        source: table and page the published values come from.
        mapping: weights of a widespread implementation, both ways.
        fixed_input: whether no other picture size is accepted.
        smallest: the least height and width accepted.
    """

    name: str
    model: Callable[..., VisionModel]
    arguments: Mapping[str, Any]
    paper: Paper
    input: tuple[int, int, int]
    classes: int
    parameters: int
    macs: int
    accuracy: Mapping[str, float]
    source: str
    mapping: WeightMapping
    fixed_input: bool = False
    smallest: int = 1
    task: str = field(default="classification")

    def build(self, *, num_classes: int | None = None, in_channels: int | None = None) -> VisionModel:
        """Build the model; the variant's own numbers stand where none are given."""
        model = self.model(
            **self.arguments,
            num_classes=self.classes if num_classes is None else num_classes,
            in_channels=self.input[0] if in_channels is None else in_channels,
        )
        model.mapping = self.mapping
        return model

    def facts(self) -> dict[str, Any]:
        """Return the plain facts that stand in the models' index."""
        return {
            "title": self.paper.title,
            "year": self.paper.year,
            "paper": f"{self.paper.authors} {self.paper.year}",
            "link": self.paper.link,
            "task": self.task,
            "input": list(self.input),
            "fixed_input": self.fixed_input,
            "smallest": self.smallest,
            "parameters": self.parameters,
            "macs": self.macs,
            "classes": self.classes,
            "accuracy": dict(self.accuracy),
        }
