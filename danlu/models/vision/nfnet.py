"""NFNet: residual networks without any normalisation of activations, whose weights are standardised instead.

Title: High-Performance Large-Scale Image Recognition Without Normalization
Authors: Andrew Brock, Soham De, Samuel L. Smith, Karen Simonyan
Year: 2021 (ICML 2021)
Link: https://arxiv.org/abs/2102.06171
New: standardised weights, scaled residuals and clipped gradients do the work of batch norm, so that pictures of a
    batch no longer see one another. (The adaptive clipping is an optimiser's affair.)
Table: tables 1 and 3 (F0 to F6); figure 3 (blocks). The counts are for the pictures it is trained on, 192 pixels for F0
    and 224 for F1; the accuracy is that of its test pictures, 256 and 320.

Deviations:
- 1e-5 is added to the variance of a kernel, as in timm; the authors' program bounds fan-in · variance by 1e-4 below.
- GELU is exact, as the paper defines it; the authors' program approximates it by a hyperbolic tangent.
- Stochastic depth divides what it keeps by the share it keeps; the authors' program does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import SameAvgPool2d, SqueezeExcite, StochasticDepth, pad_same

__all__ = ["VARIANTS", "NFBlock", "NFNet", "ScaledStdConv2d", "scaled_gelu"]

ALPHA = 0.2  # growth of the residual stream: each block adds α² to its variance
DEPTH_RATE = 0.25  # of stochastic depth, in the authors' settings


def scaled_gelu(x: Tensor) -> Tensor:
    """Return γ GELU(x), γ such that a standard normal x keeps the variance 1; section 2."""
    return F.gelu(x) * 1.7015043497085571


class ScaledStdConv2d(nn.Conv2d):
    """Convolution whose every kernel has mean 0 and variance gain² / fan-in, padded as SAME; equation 1.

    [B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, channels, kernel, stride, groups=groups)
        self.gain = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def standardised(self) -> Tensor:
        """Return the kernels [C', C / groups, k, k] it convolves with."""
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)  # [C', 1, 1, 1]
        fan_in = self.weight[0].numel()
        return centred * (self.gain * torch.rsqrt((variance + 1e-5) * fan_in))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the padded maps with the standardised kernels."""
        x = pad_same(x, self.kernel_size, self.stride)
        return F.conv2d(x, self.standardised(), self.bias, self.stride, groups=self.groups)


class NFBlock(nn.Module):
    """Bottleneck of two grouped 3×3 convolutions and a channel gate, activations first; figure 3.

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)]. The first block of a stage
    gives its shortcut the new width, and the pixels their new size by averages of 2×2.

    Args:
        in_channels: channels in.
        channels: channels out; the bottleneck has half as many.
        stride: of the first 3×3 convolution.
        beta: 1 / the standard deviation of what comes in, by which it is multiplied.
        group_width: channels a group of the 3×3 convolutions.
        rate: of stochastic depth.
        first: whether it opens a stage, and so has a convolution in its shortcut.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, beta: float, group_width: int, rate: float, first: bool
    ) -> None:
        super().__init__()
        middle = channels // 2
        self.beta = beta
        self.shortcut_pool = SameAvgPool2d(2, 2) if stride == 2 else nn.Identity()
        self.shortcut_conv = ScaledStdConv2d(in_channels, channels, 1) if first else None
        self.conv0 = ScaledStdConv2d(in_channels, middle, 1)
        self.conv1 = ScaledStdConv2d(middle, middle, 3, stride, groups=middle // group_width)
        self.conv1b = ScaledStdConv2d(middle, middle, 3, groups=middle // group_width)
        self.conv2 = ScaledStdConv2d(middle, channels, 1)
        self.gate = SqueezeExcite(channels, channels // 2)
        self.drop = StochasticDepth(rate)
        self.skip_gain = nn.Parameter(torch.zeros(()))

    def residual(self, x: Tensor) -> Tensor:
        """Return what the block learns to add, for its activated input."""
        x = self.conv0(x)  # [B, channels / 2, H, W]
        x = self.conv1(scaled_gelu(x))  # [B, channels / 2, H', W']
        x = self.conv1b(scaled_gelu(x))
        x = self.conv2(scaled_gelu(x))  # [B, channels, H', W']
        # Twice, since a gate that starts at one half would take three quarters of the variance.
        out: Tensor = 2 * self.gate(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut + α · gain · residual."""
        active = scaled_gelu(x) * self.beta
        if self.shortcut_conv is not None:
            x = self.shortcut_conv(self.shortcut_pool(active))
        out: Tensor = x + ALPHA * self.skip_gain * self.drop(self.residual(active))
        return out


class NFNet(VisionModel):
    """NFNet-F, a stem of four 3×3 convolutions and four stages.

    Args:
        depths: number of blocks of each stage; F0 has (1, 2, 6, 3), Fn has n + 1 times as many.
        drop_rate: of the dropout before the classifier.
        widths: channels of each stage.
        group_width: channels a group of the 3×3 convolutions.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of any size, since SAME padding leaves a pixel of every pixel, returns logits [B, K].
    """

    def __init__(
        self,
        depths: Sequence[int],
        drop_rate: float,
        widths: Sequence[int] = (256, 512, 1536, 1536),
        group_width: int = 128,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        stem, final = widths[0] // 2, 2 * widths[-1]
        self.stages = (
            Stage("stem", stem, 4),
            *(Stage(f"stage{i + 1}", width, 4 * 2**i) for i, width in enumerate(widths)),
            Stage("final_conv", final, 32),
        )
        self.stem_conv0 = ScaledStdConv2d(in_channels, stem // 8, 3, stride=2)
        self.stem_conv1 = ScaledStdConv2d(stem // 8, stem // 4, 3)
        self.stem_conv2 = ScaledStdConv2d(stem // 4, stem // 2, 3)
        self.stem_conv3 = ScaledStdConv2d(stem // 2, stem, 3, stride=2)
        # Rates rise from 0; the last block stays one step below the full rate.
        rates = iter([DEPTH_RATE * block / sum(depths) for block in range(sum(depths))])
        seen, deviation = stem, 1.0
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for block in range(depth):
                first = block == 0
                stride = 2 if first and i > 0 else 1
                blocks.append(NFBlock(seen, width, stride, 1 / deviation, group_width, next(rates), first))
                # The shortcut of a first block starts the variance anew.
                deviation = ((1.0 if first else deviation**2) + ALPHA**2) ** 0.5
                seen = width
            self.add_module(f"stage{i + 1}", nn.Sequential(*blocks))
        self.final_conv = ScaledStdConv2d(seen, final, 1)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(final, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the stem, the four stages and the last convolution for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = scaled_gelu(self.stem_conv0(x))  # [B, stem / 8, H/2, W/2]
        x = scaled_gelu(self.stem_conv1(x))
        x = scaled_gelu(self.stem_conv2(x))  # [B, stem / 2, H/2, W/2]
        x = out["stem"] = self.stem_conv3(x)  # [B, stem, H/4, W/4]
        for name in ("stage1", "stage2", "stage3", "stage4"):
            x = out[name] = self.get_submodule(name)(x)  # [B, widths[i], H/4 … H/32, W/4 … W/32]
        out["final_conv"] = self.final_conv(x)  # [B, 2 · widths[3], H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for final_conv [B, 2 · widths[3], H/32, W/32]."""
        x = scaled_gelu(x).mean(dim=(2, 3))  # [B, 2 · widths[3]]
        logits: Tensor = self.classifier(self.dropout(x))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _initialise(module: nn.Module) -> None:
    # As in the authors' program: variance 1 / fan-in for kernels, deviation 0.01 for the classifier.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear):
        assert module.bias is not None
        nn.init.zeros_(module.bias)


_RENAME = renamer(
    (r"^stem_conv0", "stem.conv1"),
    (r"^stem_conv1", "stem.conv2"),
    (r"^stem_conv2", "stem.conv3"),
    (r"^stem_conv3", "stem.conv4"),
    *((rf"^stage{i + 1}\.", f"stages.{i}.") for i in range(4)),
    (r"^(stages.*)\.conv2\.", r"\1.conv3."),
    (r"^(stages.*)\.conv1b\.", r"\1.conv2b."),
    (r"^(stages.*)\.conv1\.", r"\1.conv2."),
    (r"^(stages.*)\.conv0\.", r"\1.conv1."),
    (r"\.shortcut_conv\.", ".downsample.conv."),
    (r"\.gate\.", ".attn_last."),
    (r"\.skip_gain$", ".skipinit_gain"),
    (r"^classifier\.", "head.fc."),
)

# Both sizes learn as one tiny twin.
_LEARNING = Learning(
    arguments={"depths": (1, 1, 2, 1), "drop_rate": 0.1, "widths": (128, 64, 64, 64), "group_width": 32},
    size=16,
    steps=120,
    rate=8e-3,
    batch=256,
)


def _variant(n: int, drop_rate: float, size: int, counts: tuple[int, int], macs: str, accuracy: float) -> Variant:
    return Variant(
        name=f"nfnet_f{n}",
        model=NFNet,
        arguments={"depths": tuple((n + 1) * depth for depth in (1, 2, 6, 3)), "drop_rate": drop_rate},
        paper=Paper(
            title="High-Performance Large-Scale Image Recognition Without Normalization",
            authors="Brock, De, Smith, Simonyan",
            year=2021,
            link="https://arxiv.org/abs/2102.06171",
        ),
        input=(3, size, size),
        classes=1000,
        parameters=counts[0],
        macs=counts[1],
        published=Published(
            parameters=f"{counts[0]:,}",
            macs=macs,
            accuracy={"ImageNet-1K": accuracy},
            source="counts of timm 1.0.31; accuracy of table 3",
            unverified=("accuracy",),
        ),
        mapping=WeightMapping(f"timm dm_nfnet_f{n}", _RENAME, builder=f"timm.models.nfnet:dm_nfnet_f{n}"),
        aliases=(f"dm_nfnet_f{n}",),
        representative=n == 0,
        check_input=(3, 64, 64),
        learning=_LEARNING,
    )


VARIANTS = (
    _variant(0, 0.2, 192, (71_489_284, 6_977_003_520), "6.9770 G", 83.6),
    _variant(1, 0.3, 224, (132_634_256, 17_437_921_280), "17.4379 G", 84.7),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
