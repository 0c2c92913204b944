"""FaceNet NN2: an Inception network that maps a face to a point on a sphere, near those of the same person.

Title: FaceNet: A Unified Embedding for Face Recognition and Clustering
Authors: Florian Schroff, Dmitry Kalenichenko, James Philbin
Year: 2015 (CVPR 2015)
Link: https://arxiv.org/abs/1503.03832
New: the network is trained on distances themselves, by a triplet loss; most of its Inception modules pool by the L2
    norm.
Table: table 2. Its rows add up to 7.5M parameters and 1.6B FLOPs with biases, as the paper says; what it calls FLOPs
    are multiply-adds, e.g. 9,472 parameters of conv1 · 112·112 pixels = 119M.

Deviations:
- The local response normalisation has the constants of the released Caffe GoogLeNet (5 channels, α = 10⁻⁴ of the mean,
  β = 0.75, k = 1); the paper writes "norm" and gives none.
- The root of the L2 pooling is taken of the sum + 10⁻¹², so that its gradient is finite where all pixels are zero.
- Its windows have one zero around the map, and so have the maxima one pixel that never wins; the paper does not say.
- Weights start as He et al. 2015 propose, biases at zero; the paper does not say.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import LocalResponseNorm

__all__ = ["VARIANTS", "ConvReLU", "FaceNetNN2", "Inception", "L2Pool", "Reduction"]

# Rows of table 2: #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, kind of pooling, pool proj. Where #1×1 is 0 the wide
# kernels and the maximum have stride 2.
TABLE_2 = {
    "3a": (64, 96, 128, 16, 32, "max", 32),
    "3b": (64, 96, 128, 32, 64, "L2", 64),
    "3c": (0, 128, 256, 32, 64, "max", 0),
    "4a": (256, 96, 192, 32, 64, "L2", 128),
    "4b": (224, 112, 224, 32, 64, "L2", 128),
    "4c": (192, 128, 256, 32, 64, "L2", 128),
    "4d": (160, 144, 288, 32, 64, "L2", 128),
    "4e": (0, 160, 256, 64, 128, "max", 0),
    "5a": (384, 192, 384, 48, 128, "L2", 128),
    "5b": (384, 192, 384, 48, 128, "max", 128),
}


class ConvReLU(nn.Conv2d):
    """Convolution with a bias, and ReLU; odd kernels keep H and W at stride 1."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(in_channels, channels, kernel, stride, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, H / stride, W / stride]."""
        return F.relu(super().forward(x), inplace=True)


class L2Pool(nn.Module):
    """√(Σ x²) over 3×3 pixels around each: [B, C, H, W] -> [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the L2 norm of every window."""
        return (9 * F.avg_pool2d(x.square(), 3, 1, 1) + 1e-12).sqrt()


class Inception(nn.Module):
    """A row of table 2 without stride: [B, in_channels, H, W] -> [B, one + three + five + proj, H, W]."""

    def __init__(
        self, in_channels: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: nn.Module, proj: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvReLU(in_channels, one, 1)
        self.branch2 = nn.Sequential(ConvReLU(in_channels, reduce3, 1), ConvReLU(reduce3, three, 3))
        self.branch3 = nn.Sequential(ConvReLU(in_channels, reduce5, 1), ConvReLU(reduce5, five, 5))
        self.branch4 = nn.Sequential(pool, ConvReLU(in_channels, proj, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the four branches' maps, one after the other along the channels."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class Reduction(nn.Module):
    """A row of table 2 with stride 2: [B, in_channels, H, W] -> [B, three + five + in_channels, H/2, W/2]."""

    def __init__(self, in_channels: int, reduce3: int, three: int, reduce5: int, five: int) -> None:
        super().__init__()
        self.branch2 = nn.Sequential(ConvReLU(in_channels, reduce3, 1), ConvReLU(reduce3, three, 3, 2))
        self.branch3 = nn.Sequential(ConvReLU(in_channels, reduce5, 1), ConvReLU(reduce5, five, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return both branches' maps and the maxima, one after the other along the channels."""
        return torch.cat([self.branch2(x), self.branch3(x), F.max_pool2d(x, 3, 2, 1)], dim=1)


class FaceNetNN2(VisionModel):
    """FaceNet's network NN2; ``num_classes`` is the length of the embedding.

    Args:
        stem: channels of the first convolution (and of the reduction behind it) and of the second.
        table: the modules in their order, as the rows of table 2: name -> (#1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5,
            kind of pooling, pool proj).
        num_classes: length of the embedding; 128 in the paper.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns embeddings [B, num_classes] of length 1.
    """

    smallest = 32
    input_reason = "five layers halve the picture"

    def __init__(
        self,
        stem: tuple[int, int],
        table: Mapping[str, tuple[int, int, int, int, int, str, int]],
        num_classes: int = 128,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        first, seen = stem
        stages = [Stage("conv1", first, 2), Stage("inception2", seen, 4)]
        self.conv1 = ConvReLU(in_channels, first, 7, stride=2)
        self.norm = LocalResponseNorm(5, alpha=1e-4 / 5, beta=0.75, k=1.0)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.inception2 = nn.Sequential(ConvReLU(first, first, 1), ConvReLU(first, seen, 3))
        self.inception = nn.ModuleDict()
        stride = 8
        for name, (one, reduce3, three, reduce5, five, kind, proj) in table.items():
            if one:
                pool = L2Pool() if kind == "L2" else nn.MaxPool2d(3, 1, 1)
                self.inception[name] = Inception(seen, one, reduce3, three, reduce5, five, pool, proj)
                seen = one + three + five + proj
            else:
                self.inception[name] = Reduction(seen, reduce3, three, reduce5, five)
                seen, stride = three + five + seen, 2 * stride
            stages.append(Stage(f"inception{name}", seen, stride))
        self.stages = tuple(stages)
        self.embedding = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1, inception2 and the modules inception3a to inception5b for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.conv1(x)  # [B, 64, H/2, W/2]
        x = self.norm(self.pool(x))  # [B, 64, H/4, W/4]
        x = out["inception2"] = self.inception2(x)  # [B, 192, H/4, W/4]
        x = self.pool(self.norm(x))  # [B, 192, H/8, W/8]
        for name, module in self.inception.items():
            x = out[f"inception{name}"] = module(x)  # 3c and 4e halve the map
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return embeddings [B, num_classes] of length 1 for inception5b [B, 1024, H/32, W/32]."""
        return F.normalize(self.embedding(x.mean(dim=(2, 3))), dim=1)

    def reset_head(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one for embeddings of length ``num_classes``."""
        old = self.embedding
        self.embedding = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.embedding)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^inception2\.0\.", "2_reduce."),
    (r"^inception2\.1\.", "2_conv3."),
    (r"^inception\.(\w+)\.branch1\.", r"\1_conv1."),
    (r"^inception\.(\w+)\.branch2\.0\.", r"\1_reduce3."),
    (r"^inception\.(\w+)\.branch2\.1\.", r"\1_conv3."),
    (r"^inception\.(\w+)\.branch3\.0\.", r"\1_reduce5."),
    (r"^inception\.(\w+)\.branch3\.1\.", r"\1_conv5."),
    (r"^inception\.(\w+)\.branch4\.1\.", r"\1_proj."),
    (r"^embedding\.", "fc."),
)
_TWIN = {
    "3a": (16, 16, 32, 8, 16, "max", 16),
    "3b": (16, 16, 32, 8, 16, "L2", 16),
    "3c": (0, 16, 32, 8, 16, "max", 0),
    "4e": (0, 32, 64, 16, 32, "max", 0),
}

VARIANTS = (
    Variant(
        name="facenet_nn2",
        model=FaceNetNN2,
        arguments={"stem": (64, 192), "table": TABLE_2},
        paper=Paper(
            title="FaceNet: A Unified Embedding for Face Recognition and Clustering",
            authors="Schroff, Kalenichenko, Philbin",
            year=2015,
            link="https://arxiv.org/abs/1503.03832",
        ),
        input=(3, 224, 224),
        classes=128,
        parameters=7_456_304,
        macs=1_596_530_688,
        published=Published(
            parameters="7.5 M",
            macs="1.6 G",
            accuracy={"LFW": 99.63, "YouTube Faces": 95.12},
            source="table 2 (7.5M parameters, 1.6B FLOPs, which are multiply-adds); abstract, sections 5.6 and 5.7, "
            "for the paper's best network, trained on its own faces",
            unverified=("accuracy",),
        ),
        mapping=WeightMapping(
            "table 2 written apart, one name for each of its cells",
            _RENAME,
            builder="proof.references.facenet_nn2:NN2",
        ),
        smallest=32,
        task="embedding",
        representative=True,
        check_input=(3, 64, 64),
        learning=Learning(arguments={"stem": (16, 32), "table": _TWIN}, steps=260, rate=2e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
