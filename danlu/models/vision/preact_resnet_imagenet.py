"""Pre-activated residual networks for ImageNet (ResNet v2) of 50 to 152 layers.

Title: Identity Mappings in Deep Residual Networks
Authors: Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun
Year: 2016 (ECCV)
Link: https://arxiv.org/abs/1603.05027
New: batch norm and ReLU before each convolution leave the path of the shortcuts free, as deep as a network may be.
Table: table 5 (101, 152 and 200 layers on pictures of 320 pixels); layers as in table 1 of He et al. 2015. Keras counts
    25,613,800 for its ResNet50V2: other stem, strides at the end of a stage, biases, and statistics counted, too.

Deviations:
- Nothing stands between conv1 and the maximum, as in timm; the paper activates once more right after conv1.
- A bottleneck halves the picture in its 3×3 convolution (v1.5).
- The classifier is written as a 1×1 convolution of the mean, as in timm, which is the same.
- Convolutions start as He et al. 2015 propose for the backward pass; the classifier normal with deviation 0.01, as in
  timm.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "FirstPreActBottleneck", "PreActBottleneck", "ResNetV2"]


class PreActBottleneck(nn.Module):
    """x + residual(relu(norm(x))): 1×1 to ``width`` channels, 3×3, and 1×1 to four times as many.

    Takes [B, in_channels, H, W], returns [B, 4 width, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)

    def residual(self, active: Tensor) -> Tensor:
        """Return [B, 4 width, H', W'] for the activated input."""
        x = F.relu(self.norm2(self.conv1(active)), inplace=True)  # [B, width, H, W]
        x = F.relu(self.norm3(self.conv2(x)), inplace=True)  # [B, width, H', W']
        out: Tensor = self.conv3(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(relu(norm(x)))."""
        return x + self.residual(F.relu(self.norm1(x), inplace=True))


class FirstPreActBottleneck(PreActBottleneck):
    """The first block of a stage: what is activated goes both ways, the shortcut is a 1×1 projection."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        self.shortcut = nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(active) + residual(active) with active = relu(norm(x))."""
        active = F.relu(self.norm1(x), inplace=True)
        out: Tensor = self.shortcut(active) + self.residual(active)
        return out


class ResNetV2(VisionModel):
    """The network of table 1 of He et al. 2015 with pre-activated bottlenecks.

    Args:
        blocks: how many in conv2_x to conv5_x.
        width: of conv1 and of the blocks of conv2_x; 64 in the paper.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "conv1, the pooling and three stages halve the picture"

    def __init__(self, blocks: Sequence[int], width: int = 64, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        stages, seen = [Stage("conv1", width, 2)], width
        for number, count in enumerate(blocks):
            inner = width * 2**number
            first = FirstPreActBottleneck(seen, inner, 1 if number == 0 else 2)
            seen = 4 * inner
            stages.append(Stage(f"conv{number + 2}_x", seen, 4 * 2**number))
            rest = [PreActBottleneck(seen, inner, 1) for _ in range(count - 1)]
            self.add_module(stages[-1].name, nn.Sequential(first, *rest))
        self.stages = tuple(stages)
        self.norm = nn.BatchNorm2d(seen)
        self.classifier = nn.Conv2d(seen, num_classes, 1)
        self.apply(_initialise)
        _initialise_classifier(self.classifier)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return conv1 and conv2_x to conv5_x for pictures [B, C, H, W]; the sums, before batch norm and ReLU."""
        self.check_pictures(x)
        out = {}
        x = out["conv1"] = self.conv1(x)  # [B, 64, H/2, W/2]
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, 64, H/4, W/4]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, 256, H/4, W/4] … [B, 2048, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for conv5_x [B, 2048, H/32, W/32]."""
        x = F.relu(self.norm(x), inplace=True)
        logits: Tensor = self.classifier(x.mean(dim=(2, 3), keepdim=True)).flatten(1)
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Conv2d(old.in_channels, num_classes, 1, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise_classifier(self.classifier)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _initialise_classifier(classifier: nn.Conv2d) -> None:
    nn.init.normal_(classifier.weight, std=0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)


_NAMES = renamer(
    (r"^conv1\.", "stem.conv."),
    (r"^conv2_x\.", "stages.0.blocks."),
    (r"^conv3_x\.", "stages.1.blocks."),
    (r"^conv4_x\.", "stages.2.blocks."),
    (r"^conv5_x\.", "stages.3.blocks."),
    (r"\.shortcut\.", ".downsample.conv."),
    (r"^classifier\.", "head.fc."),
)


def _variant(layers: int, blocks: tuple[int, ...], parameters: int, macs: int, published: str) -> Variant:
    return Variant(
        name=f"resnetv2_{layers}",
        model=ResNetV2,
        arguments={"blocks": blocks},
        paper=Paper(
            title="Identity Mappings in Deep Residual Networks",
            authors="He, Zhang, Ren, Sun",
            year=2016,
            link="https://arxiv.org/abs/1603.05027",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=published,
            source="counts of timm 1.0.31, on the meta device; no accuracy of this depth at 224 pixels in the paper",
        ),
        mapping=WeightMapping(f"timm resnetv2_{layers}", _NAMES, builder=f"timm.models:resnetv2_{layers}"),
        smallest=32,
        representative=layers == 50,
        check_input=(3, 64, 64),
        learning=Learning(arguments={"blocks": (2, 1, 1, 1), "width": 8}, size=32, steps=200, rate=3e-3),
    )


VARIANTS = (
    _variant(50, (3, 4, 6, 3), 25_549_352, 4_089_184_256, "4.0892 G"),
    _variant(101, (3, 4, 23, 3), 44_541_480, 7_801_405_440, "7.8014 G"),
    _variant(152, (3, 8, 36, 3), 60_185_128, 11_513_626_624, "11.5136 G"),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
