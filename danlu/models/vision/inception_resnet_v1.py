"""Inception-ResNet-v1 in its widespread form: the network behind most open face recognition in the manner of FaceNet.

Title: Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning
Authors: Christian Szegedy, Sergey Ioffe, Vincent Vanhoucke, Alex Alemi
Year: 2016 (AAAI 2017)
Link: https://arxiv.org/abs/1602.07261
New: residual connections around cheaper Inception modules train faster; this one costs about what Inception-v3 does.
    The face form classifies people and keeps a 512-d embedding, which `embed` gives.
Table: figures 10 to 15, table 1 (widths). Parameters are those of facenet-pytorch, 23,482,624 without the last layer;
    the paper gives none. Other libraries' forms differ: pytorchcv's ImageNet network has 23,995,624.

Deviations:
- An embedding stands before the classifier: a linear layer to 512 without bias, and batch norm. The paper's classifier
  follows the mean.
- A sixth 8×8 module, not scaled and without ReLU, stands behind the five of figure 15.
- Dropout is 0.6; the paper keeps 0.8.
- The added maps are scaled by 0.17, 0.1 and 0.2; the paper proposes 0.1 to 0.3 for its wide networks.
- Pictures are 160×160, not 299×299.
- Batch norm has ε = 10⁻³. Convolutions start as He et al. 2015 propose, linear layers with deviation 0.01; the paper
  does not say.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import ConvNormReLU

__all__ = [
    "VARIANTS",
    "InceptionResNetV1",
    "Parallel",
    "Residual",
    "inception_a",
    "inception_b",
    "inception_c",
    "reduction_a",
    "reduction_b",
]

# Makes convolution, batch norm and ReLU from the paper's channels, kernel, stride and padding.
Conv = Callable[..., ConvNormReLU]


class Parallel(nn.Module):
    """Branches side by side: [B, in_channels, H, W] -> their maps, one after the other along the channels."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, the sum of the branches' channels, H', W']."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Residual(nn.Module):
    """x + scale · 1×1 convolution of the branches, then ReLU unless ``last``: [B, channels, H, W] -> the same shape.

    Args:
        branches: an Inception module that returns ``joined`` channels.
        joined: channels of the branches together.
        channels: of the stream.
        scale: of what is added.
        last: whether this is the network's last one, behind which there is no ReLU.
    """

    def __init__(self, branches: Parallel, joined: int, channels: int, scale: float, last: bool = False) -> None:
        super().__init__()
        self.scale, self.last = scale, last
        self.branches = branches
        self.project = nn.Conv2d(joined, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream with what the module adds."""
        x = x + self.scale * self.project(self.branches(x))
        return x if self.last else F.relu(x, inplace=True)


def inception_a(conv: Conv) -> Parallel:
    """Return the branches of figure 10: [B, 256, H, W] -> [B, 96, H, W]."""
    return Parallel(
        branch0=conv(256, 32, 1),
        branch1=nn.Sequential(conv(256, 32, 1), conv(32, 32, 3)),
        branch2=nn.Sequential(conv(256, 32, 1), conv(32, 32, 3), conv(32, 32, 3)),
    )


def reduction_a(conv: Conv) -> Parallel:
    """Return figure 7 with the widths of table 1: [B, 256, H, W] -> [B, 896, (H - 1) / 2, (W - 1) / 2]."""
    return Parallel(
        branch0=conv(256, 384, 3, 2, 0),
        branch1=nn.Sequential(conv(256, 192, 1), conv(192, 192, 3), conv(192, 256, 3, 2, 0)),
        branch2=nn.MaxPool2d(3, 2),
    )


def inception_b(conv: Conv) -> Parallel:
    """Return the branches of figure 11: [B, 896, H, W] -> [B, 256, H, W]."""
    return Parallel(
        branch0=conv(896, 128, 1),
        branch1=nn.Sequential(conv(896, 128, 1), conv(128, 128, (1, 7)), conv(128, 128, (7, 1))),
    )


def reduction_b(conv: Conv) -> Parallel:
    """Return figure 12: [B, 896, H, W] -> [B, 1792, (H - 1) / 2, (W - 1) / 2]."""
    return Parallel(
        branch0=nn.Sequential(conv(896, 256, 1), conv(256, 384, 3, 2, 0)),
        branch1=nn.Sequential(conv(896, 256, 1), conv(256, 256, 3, 2, 0)),
        branch2=nn.Sequential(conv(896, 256, 1), conv(256, 256, 3), conv(256, 256, 3, 2, 0)),
        branch3=nn.MaxPool2d(3, 2),
    )


def inception_c(conv: Conv) -> Parallel:
    """Return the branches of figure 13: [B, 1792, H, W] -> [B, 384, H, W]."""
    return Parallel(
        branch0=conv(1792, 192, 1),
        branch1=nn.Sequential(conv(1792, 192, 1), conv(192, 192, (1, 3)), conv(192, 192, (3, 1))),
    )


class InceptionResNetV1(VisionModel):
    """Inception-ResNet-v1 with an embedding before the classifier.

    Args:
        blocks: numbers of Inception-ResNet-A, -B and -C modules.
        width: factor on all channels, which must stay whole; 1 in the paper.
        num_classes: K, the people of the training set.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 75×75 pixels and more, returns logits [B, K].
    """

    smallest = 75
    input_reason = "the layers without padding leave no pixel of smaller ones"

    def __init__(
        self, blocks: tuple[int, int, int], width: float = 1.0, num_classes: int = 8631, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes

        def wide(channels: int) -> int:
            return int(channels * width)

        def conv(
            seen: int, channels: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | None = None
        ) -> ConvNormReLU:
            return ConvNormReLU(wide(seen), wide(channels), kernel, stride, padding, eps=1e-3)

        self.stages = (
            Stage("stem1", wide(64), 2),
            Stage("stem2", wide(192), 4),
            Stage("stem3", wide(256), 8),
            Stage("inception_a", wide(256), 8),
            Stage("reduction_a", wide(896), 16),
            Stage("inception_b", wide(896), 16),
            Stage("reduction_b", wide(1792), 32),
            Stage("inception_c", wide(1792), 32),
        )
        first = ConvNormReLU(in_channels, wide(32), 3, 2, 0, eps=1e-3)
        self.stem1 = nn.Sequential(first, conv(32, 32, 3, 1, 0), conv(32, 64, 3))
        self.stem2 = nn.Sequential(nn.MaxPool2d(3, 2), conv(64, 80, 1), conv(80, 192, 3, 1, 0))
        self.stem3 = conv(192, 256, 3, 2, 0)
        a, b, c = blocks
        self.inception_a = nn.Sequential(*(Residual(inception_a(conv), wide(96), wide(256), 0.17) for _ in range(a)))
        self.reduction_a = reduction_a(conv)
        self.inception_b = nn.Sequential(*(Residual(inception_b(conv), wide(256), wide(896), 0.1) for _ in range(b)))
        self.reduction_b = reduction_b(conv)
        self.inception_c = nn.Sequential(
            *(Residual(inception_c(conv), wide(384), wide(1792), 0.2) for _ in range(c - 1)),
            Residual(inception_c(conv), wide(384), wide(1792), 1.0, last=True),
        )
        self.dropout = nn.Dropout(0.6)
        self.embedding = nn.Linear(wide(1792), wide(512), bias=False)
        self.embedding_norm = nn.BatchNorm1d(wide(512), eps=1e-3)
        self.classifier = nn.Linear(wide(512), num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the stages for pictures [B, C, H, W]; sizes below are those of 160×160 pixels."""
        self.check_pictures(x)
        out = {}
        x = out["stem1"] = self.stem1(x)  # [B, 64, 77, 77]
        x = out["stem2"] = self.stem2(x)  # [B, 192, 36, 36]
        x = out["stem3"] = self.stem3(x)  # [B, 256, 17, 17]
        x = out["inception_a"] = self.inception_a(x)  # [B, 256, 17, 17]
        x = out["reduction_a"] = self.reduction_a(x)  # [B, 896, 8, 8]
        x = out["inception_b"] = self.inception_b(x)  # [B, 896, 8, 8]
        x = out["reduction_b"] = self.reduction_b(x)  # [B, 1792, 3, 3]
        x = out["inception_c"] = self.inception_c(x)  # [B, 1792, 3, 3]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for inception_c [B, 1792, H/32, W/32]."""
        logits: Tensor = self.classifier(self._embed(x))
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings [B, 512] of pictures [B, C, H, W], each of length 1."""
        return F.normalize(self._embed(self.features(x)["inception_c"]), dim=1)

    def _embed(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.embedding_norm(self.embedding(self.dropout(x.mean(dim=(2, 3)))))
        return embedded

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes; the embedding stays."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^embedding\.", "last_linear."),
    (r"^embedding_norm\.", "last_bn."),
    (r"^classifier\.", "logits."),
    (r"\.norm\.", ".bn."),
    (r"\.branches\.", "."),
    (r"\.project\.", ".conv2d."),
    (r"^stem1\.0\.", "conv2d_1a."),
    (r"^stem1\.1\.", "conv2d_2a."),
    (r"^stem1\.2\.", "conv2d_2b."),
    (r"^stem2\.1\.", "conv2d_3b."),
    (r"^stem2\.2\.", "conv2d_4a."),
    (r"^stem3\.", "conv2d_4b."),
    (r"^reduction_a\.", "mixed_6a."),
    (r"^reduction_b\.", "mixed_7a."),
    (r"^inception_a\.", "repeat_1."),
    (r"^inception_b\.", "repeat_2."),
    (r"^inception_c\.5\.", "block8."),
    (r"^inception_c\.", "repeat_3."),
)

VARIANTS = (
    Variant(
        name="inception_resnet_v1",
        model=InceptionResNetV1,
        arguments={"blocks": (5, 10, 6), "width": 1.0},
        paper=Paper(
            title="Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
            authors="Szegedy, Ioffe, Vanhoucke, Alemi",
            year=2016,
            link="https://arxiv.org/abs/1602.07261",
        ),
        input=(3, 160, 160),
        classes=8631,
        parameters=27_910_327,
        macs=1_422_081_376,
        published=Published(
            parameters="27,910,327",
            accuracy={"LFW": 99.65},
            source="facenet-pytorch 2.6.0: counted on its network with the 8631 people of VGGFace2 (1.418 G "
            "multiply-adds without the last layer); accuracy of its README",
        ),
        mapping=WeightMapping(
            "facenet-pytorch InceptionResnetV1",
            _RENAME,
            builder="facenet_pytorch:InceptionResnetV1",
            arguments={"classify": True, "num_classes": 8631},
        ),
        smallest=75,
        representative=True,
        check_input=(3, 107, 107),
        learning=Learning(arguments={"blocks": (1, 1, 2), "width": 0.25}, size=75, steps=80, rate=2e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
