"""Let an attention have fewer heads than its width is divided by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.compress.edits import EDITS
from danlu.core.errors import InputError

__all__ = ["HeadAttention", "keep_heads"]


class HeadAttention(nn.Module):
    """Self-attention whose heads have a size of their own: [B, N, width] -> [B, N, width].

    It holds the layers of the attention it stands for under the same names.

    Args:
        qkv: width -> 3 · heads · size.
        project: heads · size -> width.
        heads: how many.
        size: numbers a head.
    """

    def __init__(self, qkv: nn.Linear, project: nn.Linear, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv, self.project = qkv, project

    def forward(self, x: Tensor) -> Tensor:
        """Return project(softmax(q kᵀ / √size) v), the heads side by side."""
        batch, tokens = x.shape[:2]
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, self.size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, size]
        seen = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.project(seen.transpose(1, 2).reshape(batch, tokens, self.heads * self.size))
        return mixed


def keep_heads(model: nn.Module, heads: Mapping[str, Sequence[int]]) -> None:
    """Replace attentions, in place, by ones that say how many heads they have and how wide each is.

    Args:
        model: its attentions have ``qkv``, ``project`` and ``heads``.
        heads: name of an attention -> [heads, size].

    Raises:
        InputError: no such attention, or numbers that are no sizes.
    """
    found = dict(model.named_modules())
    for name, (number, size) in heads.items():
        old = found.get(name)
        qkv, project = getattr(old, "qkv", None), getattr(old, "project", None)
        if not isinstance(qkv, nn.Linear) or not isinstance(project, nn.Linear) or "." not in name:
            raise InputError(f"{name!r} is no attention of this network")
        if any(type(one) is not int or one < 1 for one in (number, size)):
            raise InputError(f"{name}: {number!r} heads of {size!r} numbers")
        owner, _, own = name.rpartition(".")
        setattr(found[owner], own, HeadAttention(qkv, project, number, size).train(model.training))


EDITS.register("keep_heads", keep_heads, __name__, title="attentions with fewer heads")
