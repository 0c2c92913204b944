"""Darknet-19 and Darknet-53: pytorchcv's, whose mean takes maps of any size."""

from __future__ import annotations

from torch import nn


def darknet19() -> nn.Module:
    """Build the form for 1000 classes."""
    from pytorchcv.models.darknet import darknet19 as build

    model: nn.Module = build()
    model.get_submodule("output").add_module("final_pool", nn.AdaptiveAvgPool2d(1))
    return model


def darknet53() -> nn.Module:
    """Build the form for 1000 classes."""
    from pytorchcv.models.darknet53 import darknet53 as build

    model: nn.Module = build()
    model.get_submodule("features").add_module("final_pool", nn.AdaptiveAvgPool2d(1))
    return model
