"""LeNet-5: the convolutional network that read the cheques of American banks.

Title: Gradient-Based Learning Applied to Document Recognition
Authors: Yann LeCun, Léon Bottou, Yoshua Bengio, Patrick Haffner
Year: 1998 (Proceedings of the IEEE 86(11))
Link: https://doi.org/10.1109/5.726791
New: local receptive fields, shared weights and sub-sampling, trained end to end by back-propagation.
Table: section II-B and figure 2 (layers), figure 9 (MNIST test errors); the modern form's counts are computed.

Deviations:
- C3 sees all six maps of S2; the paper connects it by table I (1,516 parameters instead of 2,416).
- S2 and S4 take the maximum of 2×2 pixels; the paper adds them up and learns a coefficient and a bias for each map.
- ReLU follows C1, C3, C5 and F6; the paper uses a scaled hyperbolic tangent.
- The output is a linear layer for a softmax; the paper computes distances to fixed 7×12 bitmaps (RBF units).
- C5 is written as a linear layer: on 32×32 pictures its 5×5 kernel covers S4 exactly.
- Weights start as He et al. 2015 propose for ReLU, biases at zero; the paper draws uniformly from ±2.4 / fan-in.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "LeNet5"]


class LeNet5(VisionModel):
    """LeNet-5 with ReLU, maximum pooling and a linear output.

    Args:
        num_classes: K.
        in_channels: C of the pictures; 1 in the paper.

    Takes [B, C, 32, 32], returns logits [B, K].
    """

    stages = (Stage("c1", 6, 1), Stage("s2", 6, 2), Stage("c3", 16, 2), Stage("s4", 16, 4))
    input_size = (32, 32)
    input_reason = "C5 is fully connected to the 16×5×5 maps that 32×32 pictures leave"

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.c5 = nn.Linear(16 * 5 * 5, 120)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return c1, s2, c3 and s4 for pictures [B, C, 32, 32]."""
        self.check_pictures(x)
        out = {}
        x = out["c1"] = F.relu(self.c1(x))  # [B, 6, 28, 28]
        x = out["s2"] = F.max_pool2d(x, 2)  # [B, 6, 14, 14]
        x = out["c3"] = F.relu(self.c3(x))  # [B, 16, 10, 10]
        x = out["s4"] = F.max_pool2d(x, 2)  # [B, 16, 5, 5]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for s4 [B, 16, 5, 5]."""
        x = x.flatten(1)  # [B, 400], channel by channel
        x = F.relu(self.c5(x))  # [B, 120]
        x = F.relu(self.f6(x))  # [B, 84]
        logits: Tensor = self.output(x)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the output layer by a fresh one for ``num_classes`` classes."""
        weight = self.output.weight
        self.output = nn.Linear(84, num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.output)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^c1\.", "conv1."), (r"^c3\.", "conv2."), (r"^c5\.", "fc1."), (r"^f6\.", "fc2."), (r"^output\.", "fc3.")
)

VARIANTS = (
    Variant(
        name="lenet5",
        model=LeNet5,
        arguments={},
        paper=Paper(
            title="Gradient-Based Learning Applied to Document Recognition",
            authors="LeCun, Bottou, Bengio, Haffner",
            year=1998,
            link="https://doi.org/10.1109/5.726791",
        ),
        input=(1, 32, 32),
        classes=10,
        parameters=61_706,
        macs=416_520,
        published=Published(
            parameters="61,706",
            macs="416,520",
            accuracy={"MNIST (1998 form)": 99.05, "MNIST (1998 form, distorted training pictures)": 99.2},
            source="figure 9 and section III-B: 0.95 % and 0.8 % test error of the 1998 form; the closed form",
        ),
        mapping=WeightMapping(
            "the modern LeNet-5 written apart, under the usual names conv1 conv2 fc1 fc2 fc3",
            _RENAME,
            builder="proof.references.lenet:LeNet5",
        ),
        fixed_input=True,
        smallest=32,
        representative=True,
        learning=Learning(data="mnist", steps=120, rate=2e-3),
    ),
)

for _variant in VARIANTS:
    MODELS.register(_variant.name, _variant, __name__, **_variant.facts())
