"""Pictures, masks, boxes and points seen through 3×3 matrices.

Whole-pixel shifts and mirrors are copied exactly; every other matrix is resampled once, for pictures as their
:class:`Sampling` says and to the nearest pixel for masks, where what comes from outside is 255 (ignore).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field

__all__ = ["IGNORE", "PLAIN", "Sampling", "is_exact", "warp_boxes", "warp_masks", "warp_pictures", "warp_points"]

IGNORE = 255
Fill = Annotated[int, Field(ge=0, le=255)] | Literal["edge"]
# What whole-pixel shifts can bring in besides: no resampling of torchvision's mirrors, so none of ours does.
Beyond = Fill | Literal["reflect"]
Interpolation = Literal["bilinear", "nearest"]
# Matrices are products of a few; what is within this of a whole number is meant to be whole.
_WHOLE = 1e-9


@dataclass(frozen=True)
class Sampling:
    """How the pixels of a moved picture are made.

    Args:
        fill: the level of what comes from outside, or ``"edge"``: the nearest pixel of the picture's edge, or
            ``"reflect"``: the picture mirrored at the middle of its outermost pixels.
        interpolation: ``"bilinear"`` or ``"nearest"``.
    """

    fill: Beyond = 0
    interpolation: Interpolation = "bilinear"


PLAIN = Sampling()


def is_exact(matrices: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return [B]: which matrices [B, 3, 3] only shift by whole pixels and mirror."""
    scale = matrices[:, (0, 1), (0, 1)]
    shift = matrices[:, :2, 2]
    rest = matrices[:, (0, 1, 2, 2, 2), (1, 0, 0, 1, 2)] - np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    whole = (np.abs(np.abs(scale) - 1.0) < _WHOLE).all(1) & (np.abs(shift - np.rint(shift)) < _WHOLE).all(1)
    return np.asarray(whole & (np.abs(rest) < _WHOLE).all(1), dtype=np.bool_)


def warp_pictures(
    pictures: torch.Tensor,
    matrices: NDArray[np.float64],
    sampling: Sampling = PLAIN,
) -> torch.Tensor:
    """Return uint8 pictures [B, H, W, C] moved by ``matrices`` [B, 3, 3]; same shape, a new tensor."""
    return _warp(pictures, matrices, fill=sampling.fill, mode=sampling.interpolation)


def warp_masks(masks: torch.Tensor, matrices: NDArray[np.float64]) -> torch.Tensor:
    """Return uint8 class masks [B, H, W] moved by ``matrices`` [B, 3, 3]; outside is 255."""
    return _warp(masks.unsqueeze(3), matrices, fill=IGNORE, mode="nearest").squeeze(3)


def _warp(pictures: torch.Tensor, matrices: NDArray[np.float64], *, fill: Beyond, mode: str) -> torch.Tensor:
    exact = is_exact(matrices)
    if exact.all():
        return _copy_shifted(pictures, matrices, fill)
    if not exact.any():
        return _resample(pictures, matrices, fill, mode)
    # Each picture takes the way its own matrix asks for, so that its pixels do not depend on its batch.
    out = torch.empty_like(pictures)
    for chosen, way in ((exact, "copy"), (~exact, "resample")):
        rows = torch.from_numpy(np.flatnonzero(chosen)).to(pictures.device)
        some = pictures[rows]
        part = matrices[chosen]
        out[rows] = _copy_shifted(some, part, fill) if way == "copy" else _resample(some, part, fill, mode)
    return out


def _copy_shifted(pictures: torch.Tensor, matrices: NDArray[np.float64], fill: Beyond) -> torch.Tensor:
    height, width = int(pictures.shape[1]), int(pictures.shape[2])
    mirror_y, mirror_x = matrices[:, 1, 1] < 0, matrices[:, 0, 0] < 0
    # Unmirrored, out[j] = in[j - t]; mirrored, out[L-1-j] = in[j + t - L]. A shift past the edge leaves nothing, unless
    # what lies beyond it goes on and on.
    top = _offsets(matrices[:, 1, 2], mirror_y, height, fill)
    left = _offsets(matrices[:, 0, 2], mirror_x, width, fill)
    if pictures.device.type == "cpu":
        return torch.from_numpy(_copy_windows(pictures.numpy(), top, left, mirror_y, mirror_x, fill))
    return _gather(pictures, top, left, mirror_y, mirror_x, fill)


def _gather(
    pictures: torch.Tensor,
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    mirror_y: NDArray[np.bool_],
    mirror_x: NDArray[np.bool_],
    fill: Beyond,
) -> torch.Tensor:
    """Do what ``_copy_windows`` does, on any device."""
    count, height, width, _ = pictures.shape
    device = pictures.device
    rows, columns = np.arange(height) + top[:, None], np.arange(width) + left[:, None]
    rows = np.where(mirror_y[:, None], rows[:, ::-1], rows)
    columns = np.where(mirror_x[:, None], columns[:, ::-1], columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    looked = [_mirrored(rows, height), _mirrored(columns, width)] if fill == "reflect" else [rows, columns]
    y = torch.from_numpy(looked[0].clip(0, height - 1)).to(device)
    x = torch.from_numpy(looked[1].clip(0, width - 1)).to(device)
    batch = torch.arange(count, device=device)
    moved = pictures[batch[:, None, None], y[:, :, None], x[:, None, :]]
    if isinstance(fill, str):
        return moved
    return moved.masked_fill_(torch.from_numpy(~inside).to(device).unsqueeze(3), fill)


def _mirrored(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return where places outside 0 … length - 1 lie when the picture is mirrored at its outermost pixels."""
    period = max(1, 2 * (length - 1))
    folded = places % period
    return np.minimum(folded, period - folded) if length > 1 else np.zeros_like(places)


def _offsets(shift: NDArray[np.float64], mirrored: NDArray[np.bool_], length: int, fill: Beyond) -> NDArray[np.int64]:
    offsets = np.where(mirrored, shift - length, -shift)
    offsets = offsets if fill == "reflect" else offsets.clip(-length, length)
    return np.asarray(np.rint(offsets), dtype=np.int64)


def _copy_windows(
    pictures: NDArray[np.uint8],
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    mirror_y: NDArray[np.bool_],
    mirror_x: NDArray[np.bool_],
    fill: Beyond,
) -> NDArray[np.uint8]:
    count, height, width, channels = pictures.shape
    pad_y, pad_x = int(np.abs(top).max(initial=0)), int(np.abs(left).max(initial=0))
    if pad_y == 0 and pad_x == 0:
        out = pictures.copy()
    else:
        if isinstance(fill, str):
            # np.pad keeps the order of its input, the windows below take it that columns follow each other.
            around = ((0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0))
            padded = np.ascontiguousarray(np.pad(pictures, around, mode=fill))
        else:
            padded = np.full((count, height + 2 * pad_y, width + 2 * pad_x, channels), fill, dtype=np.uint8)
            padded[:, pad_y : pad_y + height, pad_x : pad_x + width] = pictures
        per_picture, per_row, per_column = padded.strides[:3]
        # Every window of every picture as a view [B, offsets y, offsets x, H, W·C]; indexing copies whole rows.
        windows = np.lib.stride_tricks.as_strided(
            padded,
            (count, 2 * pad_y + 1, 2 * pad_x + 1, height, width * channels),
            (per_picture, per_row, per_column, per_row, 1),
            writeable=False,
        )
        out = windows[np.arange(count), top + pad_y, left + pad_x].reshape(pictures.shape)
    if mirror_x.any():
        out[mirror_x] = out[mirror_x][:, :, ::-1]
    if mirror_y.any():
        out[mirror_y] = out[mirror_y][:, ::-1]
    return out


def _resample(pictures: torch.Tensor, matrices: NDArray[np.float64], fill: Beyond, mode: str) -> torch.Tensor:
    level = 0 if isinstance(fill, str) else fill
    values = pictures.permute(0, 3, 1, 2).float()
    # grid_sample takes what lies outside as 0: shifting the values by the fill makes that the fill.
    values = values.sub_(level) if level else values
    padding = {"edge": "border", "reflect": "reflection"}.get(str(fill), "zeros")
    grid = _sources(matrices, int(pictures.shape[1]), int(pictures.shape[2]), pictures.device)
    moved = F.grid_sample(values, grid, mode=mode, padding_mode=padding, align_corners=False)
    moved = moved.add_(level) if level else moved
    moved = moved.round_() if mode == "bilinear" else moved
    return moved.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _sources(matrices: NDArray[np.float64], height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return float32 [B, H, W, 2]: where each pixel comes from, (x, y) with the picture's edges at -1 and 1."""
    affine = (matrices[:, 2] == (0.0, 0.0, 1.0)).all(axis=1)
    inverse = np.linalg.inv(matrices)
    inverse[affine, 2] = (0.0, 0.0, 1.0)
    third = inverse[:, 2:]
    # Sides from 0…W to -1…1, before the division by the third row; float32 only after that.
    inverse = np.stack([inverse[:, k] * (2.0 / side) - inverse[:, 2] for k, side in enumerate((width, height))], axis=1)
    inverse = inverse if affine.all() else np.concatenate([inverse, third], axis=1)
    # Each is a sum of what depends on the column and what depends on the row: one addition a pixel. No matrix product,
    # whose rounding may depend on the batch size.
    columns = inverse[:, :, None, 0] * (np.arange(width) + 0.5)
    rows = inverse[:, :, None, 1] * (np.arange(height) + 0.5) + inverse[:, :, None, 2]
    along = torch.from_numpy(columns.astype(np.float32)).to(device).unsqueeze(2)
    down = torch.from_numpy(rows.astype(np.float32)).to(device).unsqueeze(3)
    grid = torch.empty(len(matrices), height, width, 2, device=device)
    for k in range(2):
        torch.add(along[:, k], down[:, k], out=grid[..., k])
    return grid if affine.all() else grid.div_((along[:, 2] + down[:, 2]).unsqueeze(3))


def warp_points(points: torch.Tensor, matrix: NDArray[np.float64]) -> torch.Tensor:
    """Return points float32 [n, 2] (x, y) moved by ``matrix`` [3, 3]; they may lie outside the picture."""
    ones = torch.ones(len(points), 1, dtype=torch.float64)
    moved = torch.cat([points.double().cpu(), ones], dim=1) @ torch.from_numpy(np.ascontiguousarray(matrix.T))
    return (moved[:, :2] / moved[:, 2:]).float().to(points.device)


def warp_boxes(
    boxes: torch.Tensor, matrix: NDArray[np.float64], size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes moved by ``matrix`` and cut to the picture, with the share of their area left inside.

    Args:
        boxes: float32 [n, 4], absolute (x1, y1, x2, y2).
        matrix: [3, 3].
        size: (height, width) of the picture.

    Returns:
        boxes float32 [n, 4] around the moved corners, and float32 [n] shares in [0, 1].
    """
    if len(boxes) == 0:
        return boxes.reshape(0, 4).float(), torch.zeros(0)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    moved = warp_points(corners, matrix).reshape(-1, 4, 2)
    low, high = moved.amin(1), moved.amax(1)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
    inside_low, inside_high = torch.minimum(low.clamp(min=0), limit), torch.minimum(high.clamp(min=0), limit)
    whole = (high - low).prod(1)
    share = torch.where(whole > 0, (inside_high - inside_low).prod(1) / whole.clamp(min=1e-12), torch.zeros_like(whole))
    return torch.cat([inside_low, inside_high], dim=1), share
