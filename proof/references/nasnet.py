"""timm's NASNet-A with averages as TensorFlow takes them, and its cells put together for 32×32 pictures."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Average(nn.Module):
    """3×3 at stride 2: sums over what is there, divided by how many pixels are there."""

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
        sums, counts = (self.total(each) for each in (x, ones))
        return sums / counts

    def total(self, x: Tensor) -> Tensor:
        for axis in (2, 3):
            size = x.shape[axis]
            before, after = (1, 1) if size % 2 else (0, 1)
            edges = [0, 0, before, after] if axis == 2 else [before, after, 0, 0]
            x = F.pad(x, edges)
            part: list[Any] = [slice(None)] * 4
            shifted = []
            for tap in (0, 1, 2):
                part[axis] = slice(tap, tap + 2 * ((size + 1) // 2) - 1, 2)
                shifted.append(x[tuple(part)])
            x = shifted[0] + shifted[1] + shifted[2]
        return x


def nasnet_large() -> nn.Module:
    """timm's own, whose averages at stride 2 count the padding otherwise."""
    import timm

    model: nn.Module = timm.create_model("nasnetalarge")
    leave_padding_out(model)
    return model


def leave_padding_out(model: nn.Module) -> None:
    for name, layer in list(model.named_modules()):
        if type(layer).__name__ == "AvgPool2dSame":
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, Average())


class NASNetCIFAR(nn.Module):
    """Four cells of 44 channels, a reduction, four of 88, a reduction, four of 176."""

    def __init__(self) -> None:
        super().__init__()
        from timm.layers import ConvNormAct
        from timm.models.nasnet import FirstCell, NormalCell, ReductionCell0

        norm: Any = partial(nn.BatchNorm2d, eps=0.001)
        self.conv0 = ConvNormAct(3, 44, 3, norm_layer=norm, apply_act=False)
        self.order: list[str] = []
        left = right = 44
        for stack, width in enumerate((44, 88, 176)):
            if stack:
                self.put(f"reduction_cell_{stack - 1}", ReductionCell0(left, width, right, width, pad_type="same"))
                left, right = right, 4 * width
            for i in range(4):
                if stack and i == 0:
                    cell: Any = FirstCell(left, width // 2, right, width, pad_type="same")
                else:
                    cell = NormalCell(left, width, right, width, pad_type="same")
                if left == width:  # nothing to adjust
                    cell.conv_prev_1x1 = nn.Identity()
                self.put(f"cell_{4 * stack + i}", cell)
                left, right = right, 6 * width
        self.last_linear = nn.Linear(right, 100)
        leave_padding_out(self)

    def put(self, name: str, cell: nn.Module) -> None:
        self.add_module(name, cell)
        self.order.append(name)

    def forward(self, x: Tensor) -> Tensor:
        before = x = self.conv0(x)
        for name in self.order:
            before, x = x, self.get_submodule(name)(x, before)
        out: Tensor = self.last_linear(x.clamp(min=0).mean(dim=(2, 3)))
        return out


def nasnet_cifar() -> nn.Module:
    return NASNetCIFAR()
