"""What every vision model promises: named stages, features, a head, and a variant's published facts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from danlu.core.errors import InputError

__all__ = ["Learning", "Paper", "Published", "Stage", "Variant", "VisionModel", "WeightMapping", "renamer"]

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """One stage of a network.

    What comes out of it is a map [B, ``channels``, about H / ``stride``, about W / ``stride``], tokens
    [B, N, ``channels``] of patches of ``stride`` pixels, or a vector [B, ``channels``].
    """

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
        auxiliary_weight: what the loss of an auxiliary output counts, where ``forward`` gives any: in train mode it
            then returns ``{"logits": …, "aux1": …}``.
        mapping: renames the weights of a widespread implementation; set by :meth:`Variant.build`.
    """

    stages: tuple[Stage, ...]
    in_channels: int
    num_classes: int
    input_size: tuple[int, int] | None = None
    smallest: int = 1
    input_reason: str = ""
    auxiliary_weight: float = 0.0
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

    def forward(self, x: Tensor) -> Any:
        """Return logits [B, K] for pictures [B, C, H, W]; see ``auxiliary_weight`` for networks with side outputs."""
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
class Published:
    """What the literature says of a variant, in its own digits.

    Attributes:
        parameters: e.g. ``"25,557,032"`` or ``"25.6 M"``; ours must agree in every digit given.
        macs: multiply-adds of one picture, e.g. ``"4.089 G"``; likewise.
        accuracy: top-1 test accuracy in per cent, by data set.
        source: table and page, or the program, that each of them comes from.
        unverified: which of ``parameters``, ``macs``, ``accuracy`` were not read in their source.
    """

    parameters: str = "none published"
    macs: str = "none published"
    accuracy: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightMapping:
    """Renames the weights of an independent implementation into ours and back, and says how to build that one.

    Attributes:
        reference: which implementation, in words, e.g. ``"torchvision resnet50"``.
        rename: our name of a tensor -> its name; one to one.
        builder: ``"package.module:function"`` that builds the implementation; empty where none can be had.
        arguments: what the builder is called with.
        outputs: names of what it returns in train mode, where that is more than the logits.
        tolerance: of the largest |logit|, for the parity in float32.
        reason: why the tolerance is looser than 1e-5.
    """

    reference: str
    rename: Callable[[str], str]
    builder: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("logits",)
    tolerance: float = 1e-5
    reason: str = ""

    def to_reference(self, weights: Weights) -> dict[str, Tensor]:
        """Return our weights under the names of the reference."""
        return {self.rename(name): value for name, value in weights.items()}

    def from_reference(self, weights: Weights, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the reference's weights under ours, which are ``names``; a name that is not the reference's stays."""
        back = {self.rename(name): name for name in names}
        return {back.get(name, name): value for name, value in weights.items()}


def renamer(*rules: tuple[str, str]) -> Callable[[str], str]:
    """Return a function that rewrites a name by ``(pattern, replacement)`` rules, one after the other."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


@dataclass(frozen=True)
class Learning:
    """How it is shown that a network learns: 512 real pictures, fitted from its own initialisation.

    Attributes:
        arguments: what replaces the variant's arguments where the full size is too large for two cores.
        data: whose training pictures: 10 classes either way.
        size: height and width they are resized to.
        steps: within which at least 95 % of them are classified rightly, in eval mode.
        rate: learning rate.
        optimizer: Adam, or SGD with Nesterov momentum 0.9.
        batch: pictures a step.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    data: Literal["cifar10", "mnist"] = "cifar10"
    size: int = 32
    steps: int = 160
    rate: float = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: int = 64


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
        published: what the literature says of it.
        mapping: weights of an independent implementation, both ways; None where there is none.
        oracle: where ``mapping`` is None: what its structure was checked against, e.g. the paper's table 1.
        fixed_input: whether no other picture size is accepted.
        smallest: the least height and width accepted.
        task: what its output is for.
        aliases: other names people know it by.
        representative: whether it has a code path of its own, so that tests run the costly checks on it.
        check_input: [C, H, W] on which a forward shows the same as on ``input`` and costs less; ``input`` when None.
        learning: how it is shown that it learns.
    """

    name: str
    model: Callable[..., VisionModel]
    arguments: Mapping[str, Any]
    paper: Paper
    input: tuple[int, int, int]
    classes: int
    parameters: int
    macs: int
    published: Published
    mapping: WeightMapping | None
    oracle: str = ""
    fixed_input: bool = False
    smallest: int = 1
    task: str = "classification"
    aliases: tuple[str, ...] = ()
    representative: bool = False
    check_input: tuple[int, int, int] | None = None
    learning: Learning = Learning()

    def build(self, *, num_classes: int | None = None, in_channels: int | None = None) -> VisionModel:
        """Build the model; the variant's own numbers stand where none are given."""
        model = self.model(
            **self.arguments,
            num_classes=self.classes if num_classes is None else num_classes,
            in_channels=self.input[0] if in_channels is None else in_channels,
        )
        model.mapping = self.mapping
        return model

    def twin(self) -> Variant:
        """Return the variant at the size it is shown to learn at: the same code, fewer and narrower layers."""
        pictures = (self.input[0], self.learning.size, self.learning.size)
        return replace(
            self, arguments={**self.arguments, **self.learning.arguments}, input=pictures, check_input=pictures
        )

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
            "accuracy": dict(self.published.accuracy),
            "aliases": list(self.aliases),
            "representative": self.representative,
        }
