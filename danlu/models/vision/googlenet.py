"""GoogLeNet as its paper has it: 5×5 branches, local response normalisation, biases, and no batch norm.

Title: Going Deeper with Convolutions
Authors: Christian Szegedy, Wei Liu, Yangqing Jia, Pierre Sermanet, Scott Reed, Dragomir Anguelov, Dumitru Erhan,
    Vincent Vanhoucke, Andrew Rabinovich
Year: 2014 (CVPR 2015)
Link: https://arxiv.org/abs/1409.4842
New: modules of four branches side by side, cheap because 1×1 convolutions narrow what the wide kernels see.
Table: table 1 (widths), figure 3 (order of layers), section 5 (auxiliary heads, dropout). The parameters given here are
    the closed form of those widths with biases.

Deviations:
- The constants of the normalisation are those of the released Caffe model (5 channels, α = 10⁻⁴ of the mean, β = 0.75,
  k = 1); the paper gives none.
- The first convolution has three zeros on every side, as in the Caffe model; figure 3 says "same", which for
  TensorFlow would be two before and three after.
- Maps of another size than 14×14 are brought to four windows a side before an auxiliary head; the paper knows 224×224
  pictures alone.
- Weights start as He et al. 2015 propose, biases at zero; the paper does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import LocalResponseNorm

__all__ = ["VARIANTS", "AuxiliaryHead", "ConvReLU", "GoogLeNet2014", "Inception"]

# Rows of table 1: #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj.
TABLE_1 = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class ConvReLU(nn.Conv2d):
    """Convolution with a bias, and ReLU; odd kernels keep H and W at stride 1."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(in_channels, channels, kernel, stride, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, H / stride, W / stride]."""
        return F.relu(super().forward(x), inplace=True)


class Inception(nn.Module):
    """Figure 2(b): 1×1, 3×3 and 5×5 convolutions and a maximum side by side, the wide ones behind 1×1 reductions.

    Takes [B, in_channels, H, W], returns [B, one + three + five + pool, H, W].
    """

    def __init__(
        self, in_channels: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvReLU(in_channels, one, 1)
        self.branch2 = nn.Sequential(ConvReLU(in_channels, reduce3, 1), ConvReLU(reduce3, three, 3))
        self.branch3 = nn.Sequential(ConvReLU(in_channels, reduce5, 1), ConvReLU(reduce5, five, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvReLU(in_channels, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the four branches' maps, one after the other along the channels."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """The softmax classifier of section 5 in the middle of the network: [B, in_channels, H/16, W/16] -> [B, K]."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvReLU(in_channels, 128, 1)
        self.fc1 = nn.Linear(16 * 128, 1024)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]."""
        # Windows of 5×5 pixels, three apart: 4×4 of a 14×14 map. Both adaptive means change nothing there.
        x = F.adaptive_avg_pool2d(x, (max(x.shape[2], 14), max(x.shape[3], 14)))
        x = F.adaptive_avg_pool2d(F.avg_pool2d(x, 5, 3), 4)  # [B, in_channels, 4, 4]
        x = F.relu(self.fc1(self.conv(x).flatten(1)))  # [B, 1024]
        logits: Tensor = self.fc2(self.dropout(x))
        return logits


class GoogLeNet2014(VisionModel):
    """GoogLeNet with the layers of table 1.

    Args:
        stem: channels of the first convolution (and of the reduction behind it) and of the second.
        table: the Inception modules in their order, as the rows of table 1: name -> (#1×1, #3×3 reduce, #3×3, #5×5
            reduce, #5×5, pool proj), the map being halved before each a; the auxiliary heads need 4a and 4d.
        auxiliary: whether the two heads of section 5 exist, behind inception (4a) and (4d).
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K]; in train mode with auxiliary heads
    ``{"logits", "aux1", "aux2"}``.
    """

    auxiliary_weight = 0.3
    smallest = 32
    input_reason = "five layers halve the picture"

    def __init__(
        self,
        stem: tuple[int, int],
        table: Mapping[str, tuple[int, ...]],
        auxiliary: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        first, seen = stem
        stages = [Stage("conv1", first, 2), Stage("conv2", seen, 4)]
        self.conv1 = ConvReLU(in_channels, first, 7, stride=2)
        self.norm = LocalResponseNorm(5, alpha=1e-4 / 5, beta=0.75, k=1.0)
        # Ceiling: 112, 56, 28 and 14 pixels are halved exactly.
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2_reduce = ConvReLU(first, first, 1)
        self.conv2 = ConvReLU(first, seen, 3)
        self.inception = nn.ModuleDict()
        out, stride = {}, 4
        for name, (one, reduce3, three, reduce5, five, pool) in table.items():
            stride *= 2 if name.endswith("a") else 1
            self.inception[name] = Inception(seen, one, reduce3, three, reduce5, five, pool)
            seen = out[name] = one + three + five + pool
            stages.append(Stage(f"inception{name}", seen, stride))
        self.stages = tuple(stages)
        self.aux1 = AuxiliaryHead(out["4a"], num_classes) if auxiliary else None
        self.aux2 = AuxiliaryHead(out["4d"], num_classes) if auxiliary else None
        self.dropout = nn.Dropout(0.4)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1, conv2 and the modules inception3a to inception5b for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.conv1(x)  # [B, 64, H/2, W/2]
        x = self.conv2_reduce(self.norm(self.pool(x)))  # [B, 64, H/4, W/4]
        x = out["conv2"] = self.conv2(x)  # [B, 192, H/4, W/4]
        x = self.norm(x)
        for name, module in self.inception.items():
            if name.endswith("a"):
                x = self.pool(x)  # [B, 192, H/8, W/8], [B, 480, H/16, W/16], [B, 832, H/32, W/32]
            x = out[f"inception{name}"] = module(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for inception5b [B, 1024, H/32, W/32]."""
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))
        return logits

    def forward(self, x: Tensor) -> Any:
        """Return logits [B, K]; in train mode with auxiliary heads a dictionary of three."""
        out = self.features(x)
        logits = self.head(out[self.stages[-1].name])
        if not self.training or self.aux1 is None or self.aux2 is None:
            return logits
        return {"logits": logits, "aux1": self.aux1(out["inception4a"]), "aux2": self.aux2(out["inception4d"])}

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier, and those of the auxiliary heads, by fresh ones for ``num_classes`` classes."""
        self.classifier = _fresh(self.classifier, num_classes)
        for aux in (self.aux1, self.aux2):
            if aux is not None:
                aux.fc2 = _fresh(aux.fc2, num_classes)
        self.num_classes = num_classes


def _fresh(old: nn.Linear, num_classes: int) -> nn.Linear:
    layer = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    _initialise(layer)
    return layer


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^conv1\.", "conv1_7x7_s2."),
    (r"^conv2_reduce\.", "conv2_3x3_reduce."),
    (r"^conv2\.", "conv2_3x3."),
    (r"^inception\.(\w+)\.branch1\.", r"inception_\1_1x1."),
    (r"^inception\.(\w+)\.branch2\.0\.", r"inception_\1_3x3_reduce."),
    (r"^inception\.(\w+)\.branch2\.1\.", r"inception_\1_3x3."),
    (r"^inception\.(\w+)\.branch3\.0\.", r"inception_\1_5x5_reduce."),
    (r"^inception\.(\w+)\.branch3\.1\.", r"inception_\1_5x5."),
    (r"^inception\.(\w+)\.branch4\.1\.", r"inception_\1_pool_proj."),
    (r"^aux(\d)\.conv\.", r"loss\1_conv."),
    (r"^aux(\d)\.fc1\.", r"loss\1_fc."),
    (r"^aux(\d)\.fc2\.", r"loss\1_classifier."),
    (r"^classifier\.", "loss3_classifier."),
)


_TWIN = {
    "3a": (16, 16, 32, 8, 16, 16),
    "4a": (16, 16, 32, 8, 16, 16),
    "4d": (16, 16, 32, 8, 16, 16),
    "5a": (32, 32, 64, 16, 32, 32),
}


def _variant(name: str, auxiliary: bool, parameters: int) -> Variant:
    return Variant(
        name=name,
        model=GoogLeNet2014,
        arguments={"stem": (64, 192), "table": TABLE_1, "auxiliary": auxiliary},
        paper=Paper(
            title="Going Deeper with Convolutions",
            authors="Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich",
            year=2014,
            link="https://arxiv.org/abs/1409.4842",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=1_582_671_872,
        published=Published(
            parameters="none published",
            macs="1.5 G",
            accuracy={"ImageNet-1K top-5": 89.93},
            source="section 5 (1.5 billion multiply-adds), table 3 (10.07 % top-5 error of one network on one crop)",
            unverified=("accuracy",),
        ),
        mapping=WeightMapping(
            "table 1 and figure 3 written apart, under the layer names of the released Caffe model",
            _RENAME,
            builder="proof.references.googlenet:GoogLeNet2014",
            arguments={"auxiliary": auxiliary},
            outputs=("logits", "aux1", "aux2"),
        ),
        smallest=32,
        representative=True,
        check_input=(3, 64, 64),
        learning=Learning(arguments={"stem": (16, 32), "table": _TWIN}, steps=280, rate=1.5e-3),
    )


VARIANTS = (_variant("googlenet_2014", False, 6_998_552), _variant("googlenet_2014_aux", True, 13_378_280))

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
