"""Colours and neighbourhoods of whole batches: saturation, hue, grey, lighting, blur, sharpness.

Every function takes uint8 pictures [n, H, W, C] with n ≥ 1 and returns new ones. What has no colour (one channel) stays
as it is where a function is about colour, as in torchvision.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.augment.levels import blend, luma, per_picture

__all__ = [
    "adjust_hsv",
    "adjust_hue",
    "adjust_saturation",
    "adjust_sharpness",
    "gaussian_blur",
    "shift_channels",
    "to_grey",
]

Values = NDArray[np.float64]


def adjust_saturation(pictures: torch.Tensor, factors: Values) -> torch.Tensor:
    """Return ``f · level + (1 - f) · grey`` for ``factors`` f [n] ≥ 0: 0 is grey, 1 changes nothing."""
    return pictures.clone() if pictures.shape[3] == 1 else blend(pictures, luma(pictures), factors)


def to_grey(pictures: torch.Tensor) -> torch.Tensor:
    """Return the pictures in grey, with as many channels as they had."""
    return luma(pictures).to(torch.uint8).expand(pictures.shape).contiguous()


def shift_channels(pictures: torch.Tensor, shifts: Values) -> torch.Tensor:
    """Return the levels plus ``shifts`` [n, C], rounded and cut to [0, 255]."""
    return (pictures + per_picture(shifts, pictures)).round_().clamp_(0, 255).to(torch.uint8)


def adjust_hue(pictures: torch.Tensor, turns: Values) -> torch.Tensor:
    """Return the hue turned by ``turns`` [n] of the whole circle, e.g. 1/3 takes red to green."""
    ones = np.ones_like(turns)
    return adjust_hsv(pictures, np.stack([turns, ones, ones], axis=1))


def adjust_hsv(pictures: torch.Tensor, values: Values) -> torch.Tensor:
    """Return the pictures with hue turned and saturation and value multiplied, both cut to [0, 1].

    The cone is that of Smith, Color Gamut Transform Pairs (1978). Levels become [0, 1] by 1/255 and come back by
    255.999, cut off, as in torchvision.

    Args:
        pictures: uint8 [n, H, W, 3]; with one channel they stay as they are.
        values: [n, 3]: turns of the hue, factor of the saturation, factor of the value.
    """
    if pictures.shape[3] == 1:
        return pictures.clone()
    luma(pictures[:1])  # refuses what has no colour
    planes = pictures.permute(3, 0, 1, 2).float().mul_(1.0 / 255.0).contiguous()
    red, green = planes[0], planes[1]
    low, high = planes.aminmax(dim=0)
    span = high - low
    grey = span == 0
    saturation = span / high.masked_fill(grey, 1.0)
    # How far each channel is below the greatest, in parts of the span.
    below_red, below_green, below_blue = (high - planes) / span.masked_fill(grey, 1.0)
    sixth = torch.where(
        high == red,
        below_blue - below_green,
        torch.where(high == green, (below_red + 2.0) - below_blue, (below_green + 4.0) - below_red),
    )
    turn, more_saturation, more_value = (per_picture(column, pictures).squeeze(3) for column in values.T)
    hue = ((sixth * (1.0 / 6.0) + 1.0).fmod_(1.0) + turn).remainder_(1.0)
    saturation = (saturation * more_saturation).clamp_(0.0, 1.0)
    value = (high * more_value).clamp_(0.0, 1.0)
    return _from_hsv(hue, saturation, value)


def _from_hsv(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    six = hue * 6.0
    sector = six.floor()
    rest = six - sector
    part = saturation * rest
    white = 1.0 - saturation
    falling = ((1.0 - part) * value).clamp_(0.0, 1.0)
    rising = ((part + white) * value).clamp_(0.0, 1.0)
    least = (white * value).clamp_(0.0, 1.0)
    sector = sector.long().remainder_(6)
    # Which of the four each channel takes in each sixth of the circle, red to red.
    choices = torch.stack([value, falling, rising, least])
    order = torch.tensor([[0, 1, 3, 3, 2, 0], [2, 0, 0, 1, 3, 3], [3, 3, 2, 0, 0, 1]], device=hue.device)
    channels = [choices.gather(0, order[channel][sector].unsqueeze(0))[0] for channel in range(3)]
    return torch.stack(channels, dim=3).mul_(255.999).to(torch.uint8)


def adjust_sharpness(pictures: torch.Tensor, factors: Values) -> torch.Tensor:
    """Return ``blurred + f · (level - blurred)`` for ``factors`` f [n] ≥ 0 inside the picture; its rim stays.

    The blur is the mean of the 3×3 neighbours with the middle counted five times. A picture of one or two pixels a side
    is all rim.
    """
    out = pictures.clone()
    if min(pictures.shape[1:3]) <= 2:
        return out
    wide = pictures.short()
    columns = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    total = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
    middle = wide[:, 1:-1, 1:-1]
    blurred = (total.add_(middle, alpha=4) * (1.0 / 13.0)).round_()
    change = blurred.sub_(middle).double().mul_(per_picture(1.0 - factors, pictures).double())
    out[:, 1:-1, 1:-1] = change.add_(middle).float().clamp_(0, 255).to(torch.uint8)
    return out


def gaussian_blur(pictures: torch.Tensor, sigmas: Values, size: int) -> torch.Tensor:
    """Return the pictures blurred by a Gaussian of ``sigmas`` [n] pixels, cut at ``size`` (odd) taps.

    Beyond its edge a picture is mirrored without repeating the edge pixel. Rows, then columns, in float32: torchvision
    sums all taps at once, so that a level may differ by one where the sum lies between two levels.
    """
    taps = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigmas[:, None]) ** 2)
    taps /= taps.sum(axis=1, keepdims=True)
    weights = [per_picture(taps[:, k], pictures) for k in range(size)]
    values = pictures.float()
    for axis in (1, 2):
        length = int(pictures.shape[axis])
        places = _mirrored(np.arange(-(size // 2), length + size // 2), length)
        padded = values.index_select(axis, torch.from_numpy(places).to(pictures.device))
        # One tap after the other, so that the sum does not depend on the batch.
        values = padded.narrow(axis, 0, length) * weights[0]
        for k in range(1, size):
            values += padded.narrow(axis, k, length) * weights[k]
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _mirrored(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    period = max(1, 2 * (length - 1))
    folded = np.abs((places + length - 1) % period - (length - 1))
    return np.asarray(np.minimum(folded, length - 1), dtype=np.int64)
