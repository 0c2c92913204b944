"""Network in Network: 1×1 convolutions between the large ones, and a mean in place of fully connected layers.

Title: Network In Network
Authors: Min Lin, Qiang Chen, Shuicheng Yan
Year: 2013 (ICLR 2014)
Link: https://arxiv.org/abs/1312.4400
New: a small network slides over the picture where a linear filter did; the last maps are the classes, and their mean
    the logits.
Table: table 1 (CIFAR-10 test errors); the paper gives no widths, these are the authors' for CIFAR-10 (0.97 million
    parameters), and the count is the closed form.

Deviations:
- The poolings pad by one pixel, so that 32×32 maps become 16×16 and 8×8; the authors' program rounds up instead. The
  mean of the second one counts the zeros.
- Weights start uniform as He et al. 2015 propose, biases at zero; the authors' start with deviation 0.05.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "MLPConv", "NiN"]


class MLPConv(nn.Sequential):
    """A convolution and 1×1 convolutions, each followed by ReLU: a multilayer perceptron at every pixel.

    Takes [B, in_channels, H, W], returns [B, widths[-1], H, W].
    """

    def __init__(self, in_channels: int, widths: Sequence[int], kernel: int) -> None:
        super().__init__()
        for number, (channels, size) in enumerate(zip(widths, (kernel, 1, 1), strict=False), 1):
            self.add_module(f"conv{number}", nn.Conv2d(in_channels, channels, size, padding=size // 2))
            self.add_module(f"relu{number}", nn.ReLU(inplace=True))
            in_channels = channels


class NiN(VisionModel):
    """Three multilayer perceptron convolutions with dropout between them, the last of which ends in the classes.

    Args:
        widths: maps of the three layers of each of the three; the last of all has as many as there are classes.
        kernels: sides of their first kernels.
        dropout: probability after each of the two poolings.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 4×4 pixels and more, returns logits [B, K].
    """

    smallest = 4
    input_reason = "two poolings halve the picture"

    def __init__(
        self,
        widths: tuple[Sequence[int], Sequence[int], Sequence[int]],
        kernels: Sequence[int],
        dropout: float,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        one, two, three = widths
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stages = tuple(Stage(f"mlpconv{i}", width[-1], 2 ** (i - 1)) for i, width in enumerate(widths, 1))
        self.mlpconv1 = MLPConv(in_channels, one, kernels[0])
        self.dropout1 = nn.Dropout(dropout)
        self.mlpconv2 = MLPConv(one[-1], two, kernels[1])
        self.dropout2 = nn.Dropout(dropout)
        self.mlpconv3 = MLPConv(two[-1], three, kernels[2])
        self.classes = nn.Conv2d(three[-1], num_classes, 1)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return mlpconv1, mlpconv2 and mlpconv3, without its last layer, for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["mlpconv1"] = self.mlpconv1(x)  # [B, 96, H, W]
        x = self.dropout1(F.max_pool2d(x, 3, stride=2, padding=1))
        x = out["mlpconv2"] = self.mlpconv2(x)  # [B, 192, H/2, W/2]
        x = self.dropout2(F.avg_pool2d(x, 3, stride=2, padding=1))
        x = out["mlpconv3"] = self.mlpconv3(x)  # [B, 192, H/4, W/4]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for mlpconv3 [B, 192, H/4, W/4]: the means of the maps of the classes."""
        maps = F.relu(self.classes(x))  # [B, K, H/4, W/4]
        return maps.mean(dim=(2, 3))

    def reset_head(self, num_classes: int) -> None:
        """Replace the layer of the classes by a fresh one for ``num_classes`` of them."""
        weight = self.classes.weight
        self.classes = nn.Conv2d(weight.shape[1], num_classes, 1, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classes)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^mlpconv(\d)\.conv(\d)\.", r"features.stage\1.unit\2.conv."), (r"^classes\.", "output.final_conv.conv.")
)

VARIANTS = (
    Variant(
        name="nin",
        model=NiN,
        arguments={"widths": ((192, 160, 96), (192, 192, 192), (192, 192)), "kernels": (5, 5, 3), "dropout": 0.5},
        paper=Paper(
            title="Network In Network", authors="Lin, Chen, Yan", year=2013, link="https://arxiv.org/abs/1312.4400"
        ),
        input=(3, 32, 32),
        classes=10,
        parameters=966_986,
        macs=222_486_528,
        published=Published(
            parameters="966,986",
            macs="222.5 M",
            accuracy={"CIFAR-10 (not augmented)": 89.59, "CIFAR-10": 91.19},
            source="pytorchcv 0.0.74 README (counts); table 1: 10.41 % and, with translation and flips, 8.81 % error",
            unverified=("accuracy",),
        ),
        mapping=WeightMapping(
            "pytorchcv nin_cifar10",
            _RENAME,
            builder="pytorchcv.models.nin_cifar:nin_cifar10",
        ),
        smallest=4,
        representative=True,
        learning=Learning(
            data="mnist",
            arguments={"widths": ((32, 32, 32), (32, 32, 32), (32, 32)), "dropout": 0.0},
            size=14,
            steps=200,
            rate=2e-3,
        ),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
