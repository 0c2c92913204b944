"""AlexNet as it won in 2012: two groups of kernels, one for each of two cards, and local response normalisation.

Title: ImageNet Classification with Deep Convolutional Neural Networks
Authors: Alex Krizhevsky, Ilya Sutskever, Geoffrey E. Hinton
Year: 2012 (NIPS 2012)
Link: https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks
New: a deep convolutional network of ReLU units, trained on two cards with dropout, halved ImageNet's best error.
Table: section 3.5 and figure 2 (layers), table 2 (40.7 % top-1 validation error of one network); the paper says
    60 million parameters. Without groups, as some programs have it, it would have 62,378,344.

Deviations:
- Pictures have 227×227 pixels, which is what the 55×55 maps of conv1 take without padding; the paper says 224×224.
- Response normalisation runs over all maps of a layer; the paper does not say whether it crosses the two cards.
- Maps of other pictures than 227×227 are averaged to 6×6 before fc6; the paper has one size.
- Dropout in train mode is scaled by 1 / (1 - p), which is the paper's factor at test time the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import LocalResponseNorm

__all__ = ["VARIANTS", "AlexNet"]


class AlexNet(VisionModel):
    """Five convolutions, of which conv2, conv4 and conv5 see only their own card's half, and three linear layers.

    Args:
        widths: kernels of conv1 to conv5.
        hidden: units of fc6 and fc7.
        dropout: probability after fc6 and after fc7.
        deviation: of the fresh weights; what 0.01 does depends on the widths, so that other widths need another.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 67×67 pixels and more, returns logits [B, K].
    """

    smallest = 67
    input_reason = "conv1 and three poolings leave nothing of a smaller picture"

    def __init__(
        self,
        widths: Sequence[int],
        hidden: int,
        dropout: float,
        deviation: float,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        w1, w2, w3, w4, w5 = widths
        self.in_channels, self.num_classes, self.deviation = in_channels, num_classes, deviation
        self.stages = tuple(
            Stage(f"conv{i}", width, stride)
            for i, (width, stride) in enumerate(zip(widths, (4, 8, 16, 16, 16), strict=True), 1)
        )
        self.conv1 = nn.Conv2d(in_channels, w1, 11, stride=4)
        self.norm1, self.norm2 = LocalResponseNorm(), LocalResponseNorm()
        self.conv2 = nn.Conv2d(w1, w2, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(w2, w3, 3, padding=1)
        self.conv4 = nn.Conv2d(w3, w4, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(w4, w5, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(w5 * 6 * 6, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.dropout6, self.dropout7 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.fc8 = nn.Linear(hidden, num_classes)
        # Section 5: biases of one feed the ReLUs of these layers with positive inputs from the start.
        ones = (self.conv2, self.conv4, self.conv5, self.fc6, self.fc7)
        for layer in (self.conv1, self.conv3, self.fc8, *ones):
            self._initialise(layer, 1.0 if layer in ones else 0.0)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1 to conv5 for pictures [B, C, H, W]; 1 and 2 are normalised before they are pooled."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.norm1(F.relu(self.conv1(x)))  # [B, 96, H/4, W/4]
        x = out["conv2"] = self.norm2(F.relu(self.conv2(F.max_pool2d(x, 3, 2))))  # [B, 256, H/8, W/8]
        x = out["conv3"] = F.relu(self.conv3(F.max_pool2d(x, 3, 2)))  # [B, 384, H/16, W/16]
        x = out["conv4"] = F.relu(self.conv4(x))  # [B, 384, H/16, W/16]
        x = out["conv5"] = F.relu(self.conv5(x))  # [B, 256, H/16, W/16]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for conv5 [B, 256, H/16, W/16]."""
        x = F.adaptive_avg_pool2d(F.max_pool2d(x, 3, 2), (6, 6))  # [B, 256, 6, 6]
        x = self.dropout6(F.relu(self.fc6(x.flatten(1))))
        x = self.dropout7(F.relu(self.fc7(x)))  # [B, 4096]
        logits: Tensor = self.fc8(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace fc8 by a fresh one for ``num_classes`` classes."""
        weight = self.fc8.weight
        self.fc8 = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        self._initialise(self.fc8, 0.0)

    def _initialise(self, layer: nn.Conv2d | nn.Linear, bias: float) -> None:
        nn.init.normal_(layer.weight, 0, self.deviation)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, bias)


_RENAME = renamer((r"^conv(\d)\.", r"kernels\1."), (r"^fc(\d)\.", r"units\1."))

VARIANTS = (
    Variant(
        name="alexnet_2012",
        model=AlexNet,
        arguments={"widths": (96, 256, 384, 384, 256), "hidden": 4096, "dropout": 0.5, "deviation": 0.01},
        paper=Paper(
            title="ImageNet Classification with Deep Convolutional Neural Networks",
            authors="Krizhevsky, Sutskever, Hinton",
            year=2012,
            link="https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks",
        ),
        input=(3, 227, 227),
        classes=1000,
        parameters=60_965_224,
        macs=724_406_816,
        published=Published(
            parameters="60,965,224",
            macs="724 M",
            accuracy={"ImageNet-1K": 59.3},
            source="closed form of section 3.5; table 2: 40.7 % top-1 validation error of one network",
            unverified=("macs", "accuracy"),
        ),
        mapping=WeightMapping(
            "the two-group form written apart, under the names kernels1 … kernels5 units6 … units8",
            _RENAME,
            builder="proof.references.alexnet:AlexNet",
        ),
        smallest=67,
        representative=True,
        check_input=(3, 99, 99),
        learning=Learning(
            data="mnist",
            arguments={"widths": (16, 16, 24, 24, 24), "hidden": 128, "dropout": 0.1, "deviation": 0.08},
            size=67,
            steps=160,
            rate=2e-3,
        ),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
