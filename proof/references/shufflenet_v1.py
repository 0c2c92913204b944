"""pytorchcv's ShuffleNet changed into the form for 32×32 pictures."""

from __future__ import annotations

from typing import Any

from torch import nn


def shufflenet_cifar() -> nn.Module:
    """Stride 1 and no pooling first, three groups from the first 1×1 convolution on, biases; 100 classes."""
    from pytorchcv.models.shufflenet import shufflenet_g3_w1

    model: Any = shufflenet_g3_w1(num_classes=100)
    model.features.init_block.pool = nn.Identity()
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    for name, layer in list(model.features.named_modules()):
        if isinstance(layer, nn.Conv2d):
            stride: Any = 1 if name == "init_block.conv" else layer.stride
            groups = 3 if name == "stage1.unit1.compress_conv1" else layer.groups
            size: Any = layer.kernel_size
            padding: Any = layer.padding
            biased = nn.Conv2d(layer.in_channels, layer.out_channels, size, stride, padding, groups=groups)
            parent, _, last = name.rpartition(".")
            setattr(model.features.get_submodule(parent), last, biased)
    built: nn.Module = model
    return built
