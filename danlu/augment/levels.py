"""Levels of whole batches changed by one value a picture: brightness, contrast, posterize, equalize and the like.

Every function takes uint8 pictures [n, H, W, C] with n ≥ 1 and returns new ones, with the rounding of torchvision's
tensor kernels. Those kernels blend two values with one fused multiply-add in float32 and cut the fraction off; here
that is one step in float64, rounded to float32: the same level on every machine and for every batch size.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.core.errors import InputError

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "autocontrast",
    "blend",
    "equalize",
    "invert",
    "look_up",
    "luma",
    "per_picture",
    "posterize",
    "solarize",
]

Values = NDArray[np.float64]


def per_picture(values: Values, pictures: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return values [n] as [n, 1, 1, 1], or [n, C] as [n, 1, 1, C], on the device of ``pictures``."""
    columns = 1 if values.ndim == 1 else values.shape[1]
    return torch.from_numpy(np.ascontiguousarray(values)).to(pictures.device, dtype).reshape(-1, 1, 1, columns)


def luma(pictures: torch.Tensor) -> torch.Tensor:
    """Return the grey levels float32 [n, H, W, 1], whole numbers, of pictures with one channel or three.

    0.2989 R + 0.587 G + 0.114 B, cut off; ten thousand times that is whole and exact in float32.

    Raises:
        InputError: another number of channels.
    """
    if pictures.shape[3] == 1:
        return pictures.float()
    if pictures.shape[3] != 3:
        raise InputError(f"{pictures.shape[3]} channels have no grey level", where="augment", allowed=["1", "3"])
    red, green, blue = pictures.unbind(3)
    return ((red * 2989.0).add_(green * 5870.0).add_(blue * 1140.0) / 10000.0).floor_().unsqueeze(3)


def look_up(pictures: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Return every level replaced by its entry in the picture's table.

    Args:
        pictures: uint8 [n, H, W, C].
        tables: uint8 [n, 256] of each picture, or [n, C, 256] of each of its channels.
    """
    planes = pictures if tables.ndim == 2 else pictures.permute(0, 3, 1, 2).contiguous()
    flat, rows = planes.reshape(tables.numel() // 256, -1), tables.reshape(-1, 256)
    if pictures.device.type == "cpu":
        # bytes.translate looks one byte up in about 2 ns; a gather, which wants 8-byte indices, takes 10.
        parts = [
            row.tobytes().translate(table.tobytes()) for row, table in zip(flat.numpy(), rows.numpy(), strict=True)
        ]
        out = torch.frombuffer(bytearray().join(parts), dtype=torch.uint8)
    else:
        out = rows.gather(1, flat.long())
    out = out.reshape(planes.shape)
    return out if tables.ndim == 2 else out.permute(0, 2, 3, 1).contiguous()


def adjust_brightness(pictures: torch.Tensor, factors: Values) -> torch.Tensor:
    """Return the levels times ``factors`` [n], each ≥ 0."""
    return (pictures * per_picture(factors, pictures)).clamp_(0, 255).to(torch.uint8)


def adjust_contrast(pictures: torch.Tensor, factors: Values) -> torch.Tensor:
    """Return ``f · level + (1 - f) · mean`` for ``factors`` f [n] ≥ 0 and the mean grey level of each picture."""
    grey = luma(pictures)
    # float64, because the grey levels of a large picture add up to more than float32 can count.
    mean = grey.sum(dim=(1, 2, 3), dtype=torch.float64) / (grey.shape[1] * grey.shape[2])
    ramp = torch.arange(256, device=pictures.device, dtype=torch.float32).reshape(1, 1, 256, 1)
    tables = blend(ramp, mean.float().reshape(-1, 1, 1, 1), factors)
    return look_up(pictures, tables.reshape(-1, 256))


def blend(levels: torch.Tensor, others: torch.Tensor, factors: Values) -> torch.Tensor:
    """Return uint8 ``f · levels + (1 - f) · others`` for ``factors`` f [n], cut to [0, 255] and the fraction cut off.

    Args:
        levels: uint8 or float32 [n, …] with four axes, or one for all.
        others: float32, to be broadcast against ``levels``.
        factors: [n].
    """
    scaled = (levels * per_picture(factors, others)).double()
    share = per_picture(1.0 - factors, others).double()
    return scaled.add_(others.double().mul_(share)).float().clamp_(0, 255).to(torch.uint8)


def posterize(pictures: torch.Tensor, bits: Values) -> torch.Tensor:
    """Return the levels with their highest ``bits`` [n] in 0…8 kept and the others 0."""
    masks = (0xFF00 >> bits.astype(np.int64)) & 0xFF
    return pictures & per_picture(masks.astype(np.float64), pictures, torch.uint8)


def solarize(pictures: torch.Tensor, thresholds: Values) -> torch.Tensor:
    """Return the levels with those at or above ``thresholds`` [n] inverted."""
    bright = pictures >= per_picture(np.ceil(thresholds), pictures, torch.uint8)
    # 0 or 1 becomes 0 or 255, and 255 turns every bit over.
    return bright.to(torch.uint8).neg_().bitwise_xor_(pictures)


def invert(pictures: torch.Tensor) -> torch.Tensor:
    """Return 255 minus the levels."""
    return 255 - pictures


def autocontrast(pictures: torch.Tensor) -> torch.Tensor:
    """Return each channel stretched so that its least level is 0 and its greatest 255; a flat one stays."""
    # Whole rows first, whose values lie side by side, then the few that are left.
    low = pictures.amin(1, keepdim=True).amin(2, keepdim=True)
    high = pictures.amax(1, keepdim=True).amax(2, keepdim=True)
    flat = low == high
    span = (high - low).float().mul_(1.0 / 255.0).masked_fill_(flat, 1.0)
    return (pictures - low.float().masked_fill_(flat, 0.0)).div_(span).clamp_(0, 255).to(torch.uint8)


def equalize(pictures: torch.Tensor) -> torch.Tensor:
    """Return each channel with its histogram made flat, as Pillow's ``ImageOps.equalize`` does it."""
    count, _, _, channels = pictures.shape
    planes = pictures.permute(0, 3, 1, 2).reshape(count * channels, -1)
    offsets = torch.arange(count * channels, device=pictures.device).mul_(256).unsqueeze(1)
    histogram = torch.bincount((planes + offsets).reshape(-1), minlength=count * channels * 256).reshape(-1, 256)
    below = histogram.cumsum(1) - histogram
    # A level's share of the picture without its brightest level, in steps of which 255 make the whole.
    brightest = planes.amax(1, keepdim=True).long()
    step = (planes.shape[1] - histogram.gather(1, brightest)) // 255
    tables = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255).to(torch.uint8)
    same = torch.arange(256, device=pictures.device).to(torch.uint8)
    return look_up(pictures, torch.where(step == 0, same, tables).reshape(count, channels, 256))
