"""Caffe's LeNet: the network of its MNIST example, wider than LeNet-5, and the one that compression papers compress.

Title: Caffe: Convolutional Architecture for Fast Feature Embedding
Authors: Yangqing Jia, Evan Shelhamer, Jeff Donahue, Sergey Karayev, Jonathan Long, Ross Girshick, Sergio Guadarrama,
    Trevor Darrell
Year: 2014 (ACM Multimedia 2014)
Link: https://arxiv.org/abs/1408.5093
New: LeNet with 20 and 50 maps, maximum pooling and one ReLU, as the first example of a framework everyone had.
Table: examples/mnist/lenet_train_test.prototxt (layers 20-50-500-10); counts are the closed form.

Deviations:
- none
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "LeNetCaffe"]


class LeNetCaffe(VisionModel):
    """Two convolutions without a nonlinearity of their own, each followed by maximum pooling, and two linear layers.

    Args:
        num_classes: K.
        in_channels: C of the pictures; 1 in the example.

    Takes [B, C, 28, 28], returns logits [B, K].
    """

    stages = (Stage("conv1", 20, 1), Stage("pool1", 20, 2), Stage("conv2", 50, 2), Stage("pool2", 50, 4))
    input_size = (28, 28)
    input_reason = "ip1 is fully connected to the 50×4×4 maps that 28×28 pictures leave"

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = nn.Conv2d(in_channels, 20, kernel_size=5)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.ip1 = nn.Linear(50 * 4 * 4, 500)
        self.ip2 = nn.Linear(500, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1, pool1, conv2 and pool2 for pictures [B, C, 28, 28]."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.conv1(x)  # [B, 20, 24, 24]
        x = out["pool1"] = F.max_pool2d(x, 2)  # [B, 20, 12, 12]
        x = out["conv2"] = self.conv2(x)  # [B, 50, 8, 8]
        x = out["pool2"] = F.max_pool2d(x, 2)  # [B, 50, 4, 4]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for pool2 [B, 50, 4, 4]."""
        x = F.relu(self.ip1(x.flatten(1)))  # [B, 500]
        logits: Tensor = self.ip2(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace ip2 by a fresh one for ``num_classes`` classes."""
        weight = self.ip2.weight
        self.ip2 = nn.Linear(500, num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.ip2)


def _initialise(module: nn.Module) -> None:
    # Caffe's "xavier" filler: uniform with variance 1 / fan-in; its "constant" filler for biases is zero.
    if isinstance(module, nn.Conv2d | nn.Linear):
        bound = math.sqrt(3 / math.prod(module.weight.shape[1:]))
        nn.init.uniform_(module.weight, -bound, bound)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


_RENAME = renamer((r"^conv(\d)\.", r"maps\1."), (r"^ip(\d)\.", r"dense\1."))

VARIANTS = (
    Variant(
        name="lenet5_caffe",
        model=LeNetCaffe,
        arguments={},
        paper=Paper(
            title="Caffe: Convolutional Architecture for Fast Feature Embedding",
            authors="Jia, Shelhamer, Donahue, Karayev, Long, Girshick, Guadarrama, Darrell",
            year=2014,
            link="https://arxiv.org/abs/1408.5093",
        ),
        input=(1, 28, 28),
        classes=10,
        parameters=431_080,
        macs=2_293_000,
        published=Published(
            parameters="431,080",
            macs="2,293,000",
            accuracy={"MNIST": 99.2},
            source="counts: the closed form; accuracy: Han, Mao, Dally 2015 (Deep Compression), table 1: 0.80 % error",
        ),
        mapping=WeightMapping(
            "Caffe's LeNet written apart, under the names maps1 maps2 dense1 dense2",
            _RENAME,
            builder="proof.references.lenet_caffe:LeNet",
        ),
        fixed_input=True,
        smallest=28,
        representative=True,
        learning=Learning(data="mnist", size=28, steps=120, rate=1e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
