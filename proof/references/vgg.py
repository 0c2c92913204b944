"""VGG for 32×32 pictures: torchvision's, with one pixel in place of 7×7 before the classifier."""

from __future__ import annotations

from torch import nn


def vgg_cifar(layers: int) -> nn.Module:
    """Build the form of ``layers`` layers with batch norm for 100 classes."""
    import torchvision

    model: nn.Module = getattr(torchvision.models, f"vgg{layers}_bn")(num_classes=100)
    model.avgpool = nn.Identity()
    classifier = model.get_submodule("classifier")
    assert isinstance(classifier, nn.Sequential)
    classifier[0] = nn.Linear(512, 4096)
    return model
