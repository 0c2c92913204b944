"""LeNet-300-100: the fully connected network beside LeNet-5, known today from the compression papers.

Title: Gradient-Based Learning Applied to Document Recognition
Authors: Yann LeCun, Léon Bottou, Yoshua Bengio, Patrick Haffner
Year: 1998 (Proceedings of the IEEE 86(11))
Link: https://doi.org/10.1109/5.726791
New: the yardstick: what back-propagation reaches on pixels without local receptive fields.
Table: section III-C.4 and figure 9 (MNIST test errors of "28x28-300-100-10"); counts are the closed form.

Deviations:
- ReLU follows the two hidden layers, as in the form that is compressed; the paper uses a scaled hyperbolic tangent.
- The output is a linear layer for a softmax; the paper minimises squared errors of its outputs.
- Weights start as He et al. 2015 propose for ReLU, biases at zero; the paper draws uniformly from ±2.4 / fan-in.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "LeNet300100"]


class LeNet300100(VisionModel):
    """Two hidden layers of 300 and 100 units on 784 pixels.

    Args:
        num_classes: K.
        in_channels: C of the pictures; 1 in the paper.

    Takes [B, C, 28, 28], returns logits [B, K]. Its stages are vectors.
    """

    stages = (Stage("hidden1", 300, 28), Stage("hidden2", 100, 28))
    input_size = (28, 28)
    input_reason = "hidden1 is fully connected to the 28×28 pixels"

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.hidden1 = nn.Linear(in_channels * 28 * 28, 300)
        self.hidden2 = nn.Linear(300, 100)
        self.output = nn.Linear(100, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return hidden1 and hidden2 for pictures [B, C, 28, 28]."""
        self.check_pictures(x)
        out = {}
        x = out["hidden1"] = F.relu(self.hidden1(x.flatten(1)))  # [B, 300]
        x = out["hidden2"] = F.relu(self.hidden2(x))  # [B, 100]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for hidden2 [B, 100]."""
        logits: Tensor = self.output(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the output layer by a fresh one for ``num_classes`` classes."""
        weight = self.output.weight
        self.output = nn.Linear(100, num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.output)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


_RENAME = renamer((r"^hidden(\d)\.", r"fc\1."), (r"^output\.", "fc3."))

VARIANTS = (
    Variant(
        name="lenet_300_100",
        model=LeNet300100,
        arguments={},
        paper=Paper(
            title="Gradient-Based Learning Applied to Document Recognition",
            authors="LeCun, Bottou, Bengio, Haffner",
            year=1998,
            link="https://doi.org/10.1109/5.726791",
        ),
        input=(1, 28, 28),
        classes=10,
        parameters=266_610,
        macs=266_200,
        published=Published(
            parameters="266,610",
            macs="266,200",
            accuracy={"MNIST": 98.36},
            source="counts: the closed form; accuracy: Han, Mao, Dally 2015 (Deep Compression), table 1: 1.64 % error",
        ),
        mapping=WeightMapping(
            "the three-layer network written apart, under the usual names fc1 fc2 fc3",
            _RENAME,
            builder="proof.references.lenet_300_100:MLP",
        ),
        fixed_input=True,
        smallest=28,
        representative=True,
        learning=Learning(data="mnist", size=28, steps=120, rate=1e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
