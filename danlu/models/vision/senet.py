"""SENet: residual networks whose channels are weighed by a gate that sees the whole picture.

Title: Squeeze-and-Excitation Networks
Authors: Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu
Year: 2017 (CVPR 2018)
Link: https://arxiv.org/abs/1709.01507
New: the mean of each channel goes through a bottleneck of two layers and returns as a factor for that channel.
Table: table 2 (ImageNet errors and GFLOPs); errors of the released models from the authors' README, which differ from
  the table's; exact counts from timm's legacy_ models. timm's newer seresnet50 has the same 28,088,024 parameters and
  4.0917 G instead of 3.8605 G multiply-adds: it halves the picture in the 3×3 convolution, not in the first 1×1.

Deviations:
- The first maximum pooling has no padding and rounds the size up, as the authors' Caffe does.
- The two layers of a gate have biases, as in the authors' program; equation 3 writes none.
- seresnet18 and seresnet34, which the paper does not have, follow timm: a ReLU stands before the gate too.
- Convolutions start as He et al. 2015 propose, with fan-out; the paper does not say which fan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.layers import SqueezeExcite

__all__ = ["VARIANTS", "SEBasicBlock", "SENet", "SENet154Block", "SEResNeXtBlock", "SEResNetBlock"]

_REDUCTION = 16


class SEBasicBlock(nn.Module):
    """Two 3×3 convolutions and a gate: [B, in_channels, H, W] -> [B, width, H / stride, W / stride].

    ``groups`` is 1 in every variant; all blocks are called alike.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, groups: int, projection: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcite(width, width // _REDUCTION)
        self.shortcut = _shortcut(in_channels, width, stride, projection)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + gated residual(x))."""
        residual = F.relu(self.norm1(self.conv1(x)), inplace=True)
        residual = F.relu(self.norm2(self.conv2(residual)), inplace=True)
        return F.relu(self.shortcut(x) + self.se(residual), inplace=True)


class _Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a gate: [B, in_channels, H, W] -> [B, 4 width, H / stride, W / stride]."""

    expansion = 4

    def __init__(
        self, channels: tuple[int, int, int, int], strides: tuple[int, int], groups: int, projection: int
    ) -> None:
        super().__init__()
        seen, first, second, made = channels
        self.conv1 = nn.Conv2d(seen, first, 1, stride=strides[0], bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride=strides[1], padding=1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, made, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(made)
        self.se = SqueezeExcite(made, made // _REDUCTION)
        self.shortcut = _shortcut(seen, made, strides[0] * strides[1], projection)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + gated residual(x))."""
        residual = F.relu(self.norm1(self.conv1(x)), inplace=True)
        residual = F.relu(self.norm2(self.conv2(residual)), inplace=True)
        residual = self.norm3(self.conv3(residual))
        return F.relu(self.shortcut(x) + self.se(residual), inplace=True)


class SEResNetBlock(_Bottleneck):
    """The bottleneck of ResNet-50, which halves the picture in its first 1×1 convolution, as the first ResNets did."""

    def __init__(self, in_channels: int, width: int, stride: int, groups: int, projection: int) -> None:
        super().__init__((in_channels, width, width, 4 * width), (stride, 1), groups, projection)


class SEResNeXtBlock(_Bottleneck):
    """The bottleneck of ResNeXt: in the first stage, of width 64, each group of the 3×3 convolution has 4 channels."""

    def __init__(self, in_channels: int, width: int, stride: int, groups: int, projection: int) -> None:
        inner = width * 4 // 64 * groups
        super().__init__((in_channels, inner, inner, 4 * width), (1, stride), groups, projection)


class SENet154Block(_Bottleneck):
    """The bottleneck of SENet-154: its first 1×1 convolution has half the channels of its 3×3 (paper, appendix)."""

    def __init__(self, in_channels: int, width: int, stride: int, groups: int, projection: int) -> None:
        super().__init__((in_channels, 2 * width, 4 * width, 4 * width), (1, stride), groups, projection)


Block = Callable[[int, int, int, int, int], nn.Module]


def _shortcut(in_channels: int, channels: int, stride: int, kernel: int) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


class SENet(VisionModel):
    """A residual network of four stages with a squeeze-and-excitation gate in every block.

    Args:
        block: the residual block.
        depths: number of blocks in each stage.
        width: of the first stage's blocks; doubles with every stage.
        groups: of the 3×3 convolutions.
        stem: channels of its convolutions: one is 7×7, several are 3×3; the first halves the picture.
        projection: kernel of the shortcuts that halve the picture.
        dropout: rate before the classifier.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 32×32 pixels and more, returns logits [B, K].
    """

    smallest = 32
    input_reason = "five layers halve the picture, so that 32 pixels leave one"

    def __init__(
        self,
        block: type[SEBasicBlock | _Bottleneck],
        depths: Sequence[int],
        width: int = 64,
        groups: int = 1,
        stem: Sequence[int] = (64,),
        projection: int = 1,
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem = _stem(in_channels, stem)
        channels = stem[-1]
        stages = [Stage("stem", channels, 4)]
        make: Block = block
        for number, depth in enumerate(depths, 1):
            stage = nn.Sequential()
            for index in range(depth):
                stride = 2 if number > 1 and index == 0 else 1
                stage.append(make(channels, width, stride, groups, projection if number > 1 else 1))
                channels = block.expansion * width
            self.add_module(f"stage{number}", stage)
            stages.append(Stage(f"stage{number}", channels, 2 ** (number + 1)))
            width *= 2
        self.stages = tuple(stages)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and stage1 … stage4 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = self.stem(x)  # [B, 64, H/2, W/2]
        x = out["stem"] = F.max_pool2d(x, 3, stride=2, ceil_mode=True)  # [B, 64, H/4, W/4]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, channels, H/stride, W/stride]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage4 [B, C, h, w]."""
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))  # the mean is [B, C]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        weight = self.classifier.weight
        self.classifier = nn.Linear(weight.shape[1], num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes


def _stem(in_channels: int, widths: Sequence[int]) -> nn.Sequential:
    kernel = 7 if len(widths) == 1 else 3
    stem = nn.Sequential()
    for number, channels in enumerate(widths, 1):
        stride = 2 if number == 1 else 1
        conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        stem.add_module(f"conv{number}", conv)
        stem.add_module(f"norm{number}", nn.BatchNorm2d(channels))
        stem.add_module(f"relu{number}", nn.ReLU(inplace=True))
        in_channels = channels
    return stem


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


_RENAME = renamer(
    (r"^stem\.", "layer0."),
    (r"^stage(\d)\.", r"layer\1."),
    (r"\.norm(\d)\.", r".bn\1."),
    (r"\.se\.", ".se_module."),
    (r"\.shortcut\.", ".downsample."),
    (r"^classifier\.", "last_linear."),
)
_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_README = "; accuracy: README of hujie-frank/SENet, released models, 100 % minus the error"
_TWIN: Mapping[str, object] = {"depths": (1, 1, 1, 1), "width": 16}


def _variant(
    name: str,
    arguments: Mapping[str, object],
    parameters: int,
    macs: int,
    published: str,
    accuracy: float | None,
    twin: Mapping[str, object] | None = None,
) -> Variant:
    return Variant(
        name=name,
        model=SENet,
        arguments=arguments,
        paper=Paper(
            title="Squeeze-and-Excitation Networks",
            authors="Hu, Shen, Albanie, Sun, Wu",
            year=2017,
            link="https://arxiv.org/abs/1709.01507",
        ),
        input=(3, 224, 224),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=Published(
            parameters=f"{parameters:,}",
            macs=published,
            accuracy={} if accuracy is None else {"ImageNet-1K": accuracy},
            source=f"timm 1.0.31 legacy_{name}, counted" + ("" if accuracy is None else _README),
        ),
        mapping=WeightMapping(
            f"timm legacy_{name}",
            _RENAME,
            builder=f"timm.models:legacy_{name}",
            arguments={"drop_rate": 0.0},
        ),
        smallest=32,
        representative=name in ("seresnet18", "seresnet50", "seresnext50_32x4d", "senet154"),
        check_input=(3, 64, 64),
        learning=Learning(arguments={**_TWIN, **(twin or {})}, steps=120, rate=2e-3),
    )


def _resnet(layers: int, parameters: int, macs: int, published: str, accuracy: float | None) -> Variant:
    block = SEBasicBlock if layers < 50 else SEResNetBlock
    arguments = {"block": block, "depths": _DEPTHS[layers]}
    twin = {"width": 32 if layers < 50 else 16}  # a gate of one unit may be shut on every picture of a batch
    return _variant(f"seresnet{layers}", arguments, parameters, macs, published, accuracy, twin)


def _resnext(layers: int, parameters: int, macs: int, published: str, accuracy: float) -> Variant:
    arguments = {"block": SEResNeXtBlock, "depths": _DEPTHS[layers], "groups": 32}
    name = f"seresnext{layers}_32x4d"
    return _variant(name, arguments, parameters, macs, published, accuracy, twin={"groups": 8})


VARIANTS = (
    _resnet(18, 11_778_592, 1_814_160_384, "1.8142 G", None),
    _resnet(34, 21_958_868, 3_663_918_592, "3.6639 G", None),
    _resnet(50, 28_088_024, 3_860_488_192, "3.8605 G", 77.63),
    _resnet(101, 49_326_872, 7_574_937_600, "7.5749 G", 78.25),
    _resnet(152, 66_821_848, 11_288_993_792, "11.2890 G", 78.66),
    _resnext(50, 27_559_896, 4_232_994_816, "4.2330 G", 79.03),
    _resnext(101, 48_955_416, 7_974_739_968, "7.9747 G", 80.19),
    _variant(
        "senet154",
        {
            "block": SENet154Block,
            "depths": _DEPTHS[152],
            "groups": 64,
            "stem": (64, 64, 128),
            "projection": 3,
            "dropout": 0.2,
        },
        115_088_984,
        20_688_363_520,
        "20.6884 G",
        81.32,
        twin={"groups": 8, "stem": (16, 16, 32)},
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
