"""pytorchcv's MobileNet changed into the shallow network of table 5 and into the form for 32×32 pictures."""

from __future__ import annotations

from torch import nn


def shallow_mobilenet() -> nn.Module:
    """Table 1 without the five repeated layers."""
    from pytorchcv.models.mobilenet import MobileNet

    channels = [[32], [64], [128, 128], [256, 256], [512], [1024, 1024]]
    model: nn.Module = MobileNet(channels=channels, first_stage_stride=False)
    return model


def mobilenet_cifar() -> nn.Module:
    """Stride 1 first, biases in the 1×1 convolutions, a mean over whatever is left; 100 classes."""
    from pytorchcv.models.mobilenet import mobilenet_w1

    model: nn.Module = mobilenet_w1(num_classes=100)
    features = model.get_submodule("features")
    first = features.get_submodule("init_block.conv")
    assert isinstance(first, nn.Conv2d)
    first.stride = (1, 1)
    for name, layer in list(features.named_modules()):
        if name.endswith("pw_conv.conv"):
            assert isinstance(layer, nn.Conv2d)
            features.get_submodule(name.removesuffix(".conv")).conv = nn.Conv2d(
                layer.in_channels, layer.out_channels, 1
            )
    features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model
