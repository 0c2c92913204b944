"""From the uint8 pictures of a data set to the floats a network sees; one code for training, evaluation and export."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.core.errors import InputError
from danlu.core.settings import Settings

__all__ = ["Fit", "PictureModel", "Preprocess", "PreprocessSettings", "choose_preprocess"]

Fit = Literal["none", "pad", "resize"]
# Pictures of a settings file are made by the batch: a side beyond this is a mistake, or a file that means harm.
_LARGEST = 16_384


class PreprocessSettings(Settings):
    """How pictures become the network's input.

    Attributes:
        picture_size: (height, width) of the uint8 pictures fed; decoding fits files to it.
        input_size: (height, width) the network sees.
        fit: from the one to the other: ``none`` (they are equal), ``pad`` with zero pixels on all sides (an odd one to
            the right and below), or ``resize`` bilinearly to a larger size.
        channels: 1 (grey) or 3 (RGB).
        mean: per channel, of pictures scaled to [0, 1].
        std: per channel, of pictures scaled to [0, 1].
    """

    picture_size: tuple[int, int]
    input_size: tuple[int, int]
    fit: Fit
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _agree(self) -> PreprocessSettings:
        if min(*self.picture_size, *self.input_size) < 1 or max(*self.picture_size, *self.input_size) > _LARGEST:
            what = f"sizes must be from 1 to {_LARGEST}, got {self.picture_size} and {self.input_size}"
            raise ValueError(what)
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"{self.channels} channels need as many means and deviations")
        if min(self.std) <= 0:
            raise ValueError(f"deviations must be positive, got {self.std}")
        larger = all(inner <= outer for inner, outer in zip(self.picture_size, self.input_size, strict=True))
        if self.fit == "none" and self.picture_size != self.input_size:
            raise ValueError(f"fit 'none' needs equal sizes, got {self.picture_size} and {self.input_size}")
        if self.fit != "none" and not larger:
            # Shrinking without a low-pass filter aliases; decoding shrinks with one.
            raise ValueError(f"fit {self.fit!r} only enlarges, got {self.picture_size} to {self.input_size}")
        return self


class Preprocess(nn.Module):
    """uint8 pictures [B, h, w, C] -> float32 [B, C, H, W], normalised; a channels-last view, no copy to transpose.

    Padding has the value of a zero pixel: it is added before the pictures are normalised.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, settings: PreprocessSettings) -> None:
        super().__init__()
        self.settings = settings
        mean = torch.tensor(settings.mean, dtype=torch.float64).view(1, -1, 1, 1)
        std = torch.tensor(settings.std, dtype=torch.float64).view(1, -1, 1, 1)
        # (x / 255 - mean) / std as one multiplication and one addition; not part of the weights.
        self.register_buffer("scale", (1.0 / (255.0 * std)).float(), persistent=False)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the network's input [B, C, H, W] for uint8 pictures [B, h, w, C]."""
        settings = self.settings
        if pictures.dim() != 4 or tuple(pictures.shape[1:]) != (*settings.picture_size, settings.channels):
            height, width = settings.picture_size
            raise InputError(
                f"pictures of shape {list(pictures.shape)}",
                where="preprocessing",
                allowed=[f"[B, {height}, {width}, {settings.channels}]"],
            )
        x = pictures.permute(0, 3, 1, 2).to(torch.float32)
        if settings.fit == "pad":
            rows = settings.input_size[0] - settings.picture_size[0]
            columns = settings.input_size[1] - settings.picture_size[1]
            top, left = rows // 2, columns // 2
            x = F.pad(x, (left, columns - left, top, rows - top))
        elif settings.fit == "resize":
            x = F.interpolate(x, size=settings.input_size, mode="bilinear", align_corners=False)
        return x * self.scale + self.shift


class PictureModel(nn.Module):
    """A network with its preprocessing in front: uint8 pictures [B, h, w, C] -> the network's output."""

    def __init__(self, preprocess: Preprocess, network: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.network = preprocess, network

    def forward(self, pictures: Tensor) -> Any:
        """Return ``network(preprocess(pictures))``."""
        return self.network(self.preprocess(pictures))


def choose_preprocess(
    picture: tuple[int, int],
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    model_input: tuple[int, int, int] | list[int],
    fixed_input: bool,
    smallest: int = 1,
) -> PreprocessSettings:
    """Choose how pictures of one data set are brought to one network.

    A network with a fixed input gets small pictures padded when at most a quarter of its height and width is missing
    (28 → 32), enlarged when they are squares far smaller (8 → 32), and otherwise pictures that decoding has resized and
    cropped. A network of any size gets the pictures as they are, up to twice the size it was published for; larger ones
    are resized and cropped to that, smaller ones than ``smallest`` to ``smallest``.

    Args:
        picture: (height, width) of the data set's pictures, the median where they differ.
        channels: of the pictures, 1 or 3.
        mean: per channel, of pictures scaled to [0, 1].
        std: per channel, of pictures scaled to [0, 1]; a constant channel's 0 is taken as 1.
        model_input: [C, H, W] the network was published for.
        fixed_input: whether it accepts no other size.
        smallest: the least height and width it accepts.
    """
    height, width = picture
    published = (model_input[1], model_input[2])
    picture_size, input_size = published, published
    fit: Fit = "none"
    if fixed_input:
        missing = (published[0] - height, published[1] - width)
        if min(missing) >= 0 and max(missing) > 0:
            if all(4 * gap <= side for gap, side in zip(missing, published, strict=True)):
                picture_size, fit = picture, "pad"
            elif height == width and published[0] == published[1]:
                picture_size, fit = picture, "resize"
    elif min(picture) < smallest:
        picture_size = input_size = (max(height, smallest), max(width, smallest))
    elif height <= 2 * published[0] and width <= 2 * published[1]:
        picture_size = input_size = picture
    else:
        picture_size = input_size = (2 * published[0], 2 * published[1])
    return PreprocessSettings(
        picture_size=picture_size,
        input_size=input_size,
        fit=fit,
        channels=1 if channels == 1 else 3,
        mean=mean,
        std=tuple(value if value > 0 else 1.0 for value in std),
    )
