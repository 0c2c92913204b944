"""The settings of each optimiser: its own keys and no others, so that none is given in vain."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from danlu.core.settings import Settings

__all__ = [
    "AdadeltaSettings",
    "AdagradSettings",
    "AdamSettings",
    "AdamWSettings",
    "CommonSettings",
    "LambSettings",
    "LarsSettings",
    "MuonSettings",
    "OptimizerSettings",
    "RmsPropSettings",
    "SgdSettings",
]

Rate = Annotated[float, Field(gt=0.0)]
Decay = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class CommonSettings(Settings):
    """What all optimisers have.

    Attributes:
        lr: the peak learning rate.
        weight_decay: pulls weights to zero; not applied to biases and norms. Coupled decay is added to the gradient
            (L2 regularisation); ``adamw``, ``lamb`` and ``muon`` shrink the weights beside the update (decoupled).
    """

    lr: Rate = 0.001
    weight_decay: Decay = 0.0


class SgdSettings(CommonSettings):
    """Stochastic gradient descent with momentum; Nesterov's form of it (Sutskever et al. 2013).

    Attributes:
        momentum: share of the last update that is kept.
        nesterov: look ahead along the momentum.
    """

    name: Literal["sgd"] = "sgd"
    lr: Rate = 0.1
    weight_decay: Decay = 5e-4
    momentum: Share = 0.9
    nesterov: bool = True

    @model_validator(mode="after")
    def _agree(self) -> SgdSettings:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class LarsSettings(CommonSettings):
    """Layer-wise adaptive rate scaling for large batches (You, Gitman, Ginsburg 2017).

    Attributes:
        momentum: share of the last update that is kept.
        trust: η of equation 6: the largest share of a layer's norm that one step may change.
    """

    name: Literal["lars"] = "lars"
    lr: Rate = 1.0
    weight_decay: Decay = 5e-4
    momentum: Share = 0.9
    trust: Rate = 0.001


class AdagradSettings(CommonSettings):
    """Adagrad (Duchi, Hazan, Singer 2011)."""

    name: Literal["adagrad"] = "adagrad"
    lr: Rate = 0.01
    eps: Rate = 1e-10


class AdadeltaSettings(CommonSettings):
    """Adadelta (Zeiler 2012).

    Attributes:
        rho: decay of both running averages.
        eps: keeps the first steps from being zero.
    """

    name: Literal["adadelta"] = "adadelta"
    lr: Rate = 1.0
    rho: Share = 0.9
    eps: Rate = 1e-6


class RmsPropSettings(CommonSettings):
    """RMSprop (Tieleman, Hinton 2012), with momentum and centring as Graves 2013 has them.

    Attributes:
        alpha: decay of the running mean of squares.
        eps: added to the root.
        momentum: share of the last update that is kept.
        centered: subtract the running mean, so that the variance divides.
    """

    name: Literal["rmsprop"] = "rmsprop"
    lr: Rate = 0.01
    alpha: Share = 0.99
    eps: Rate = 1e-8
    momentum: Share = 0.0
    centered: bool = False


class AdamSettings(CommonSettings):
    """Adam (Kingma, Ba 2014); its decay is coupled.

    Attributes:
        beta1: decay of the running mean.
        beta2: decay of the running mean of squares.
        eps: added to the root.
    """

    name: Literal["adam"] = "adam"
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: Rate = 1e-8


class AdamWSettings(AdamSettings):
    """Adam with decoupled decay (Loshchilov, Hutter 2017)."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: Decay = 0.01


class LambSettings(AdamSettings):
    """Adam's update scaled to each layer's norm, for large batches (You et al. 2019, algorithm 2)."""

    name: Literal["lamb"] = "lamb"  # type: ignore[assignment]
    weight_decay: Decay = 0.01
    eps: Rate = 1e-6


class MuonSettings(CommonSettings):
    """Momentum made orthogonal, for matrices and convolution kernels (Jordan et al. 2024).

    What is no matrix (biases, norms), the first convolution and the last layer are moved by SGD with ``rest_lr``.

    Attributes:
        momentum: share of the last update that is kept.
        iterations: Newton-Schulz iterations.
        rest_lr: learning rate of the rest, relative to ``lr``.
        head_lr: learning rate of the last layer, relative to ``lr``; None: that of the rest.
        rest_momentum: momentum of the rest; None: the same.
        rest_decay: share of the rest's weights, biases and norms too, that a step at the peak rate takes away, through
            the momentum (coupled), whatever the rates; None: ``weight_decay``, as for everything else.
        normalize: before each update a kernel is scaled to a norm of √(its outputs), so that only its direction is
            learned (the airbench script of Jordan 2024).
    """

    name: Literal["muon"] = "muon"
    lr: Rate = 0.02
    weight_decay: Decay = 0.0
    momentum: Share = 0.95
    iterations: Annotated[int, Field(ge=1, le=20)] = 5
    rest_lr: Rate = 1.0
    head_lr: Rate | None = None
    rest_momentum: Share | None = None
    rest_decay: Share | None = None
    normalize: bool = False


OptimizerSettings = Annotated[
    SgdSettings
    | LarsSettings
    | AdagradSettings
    | AdadeltaSettings
    | RmsPropSettings
    | AdamSettings
    | AdamWSettings
    | LambSettings
    | MuonSettings,
    Field(discriminator="name"),
]
