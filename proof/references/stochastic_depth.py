"""torchvision's ResNet with a 3×3 stem and biases, without ReLU after the additions; nothing is dropped."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from proof.references.resnet import small


def _with_bias(conv: nn.Conv2d) -> nn.Conv2d:
    sides: Any = (conv.kernel_size, conv.stride, conv.padding)
    return nn.Conv2d(conv.in_channels, conv.out_channels, *sides)


class _Linear(nn.Module):
    """A block of torchvision; its last ReLU, which is the same object as the others, is not called."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.last = max(int(name[-1]) for name in self._modules if name.startswith("conv"))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.last + 1):
            out = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(out))
            out = out.relu() if number < self.last else out
        downsample = self._modules.get("downsample")
        return out + (x if downsample is None else downsample(x))


def linear(name: str) -> nn.Module:
    """Return torchvision's network ``name`` for pictures of 32 pixels and 100 classes, its blocks linear at the end."""
    net: Any = small(name)
    net.conv1 = _with_bias(net.conv1)
    for number in (1, 2, 3, 4):
        layer = net.get_submodule(f"layer{number}")
        for i, block in enumerate(layer):
            assert isinstance(block, BasicBlock | Bottleneck)
            if isinstance(block, BasicBlock):
                block.conv1, block.conv2 = _with_bias(block.conv1), _with_bias(block.conv2)
                if block.downsample is not None:
                    block.downsample[0] = _with_bias(block.downsample[0])
            layer[i] = _Linear(block)
    return net  # type: ignore[no-any-return]
