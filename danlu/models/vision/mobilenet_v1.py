"""MobileNet: a plain stack of 3×3 convolutions, each split into one per channel and one across channels.

Title: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications
Authors: Andrew G. Howard, Menglong Zhu, Bo Chen, Dmitry Kalenichenko, Weijun Wang, Tobias Weyand, Marco Andreetto,
  Hartwig Adam
Year: 2017
Link: https://arxiv.org/abs/1704.04861
New: depthwise separable convolutions throughout, and one number, the width multiplier, that trades accuracy for speed.
Table: table 1 (layers), tables 5 and 6 (shallow network, width multipliers: accuracy, multiply-adds, parameters). The
  paper rounds its counts; the exact ones are computed, and agree with pytorchcv's. The CIFAR-100 form is that of
  weiaicunzai/pytorch-cifar100.

Deviations:
- Zeros stand on all sides of the maps; the authors' program pads as TensorFlow's SAME, one pixel off at stride 2.
- Table 1 gives the last depthwise convolution stride 2, yet keeps 7×7 pixels; it has stride 1, as in every program.
- ReLU as the paper says; the authors' program and timm cut it at 6.
- Weights start as He et al. 2015 propose and the classifier at a deviation of 0.01; the paper does not say.
- `mobilenet_v1_cifar` is not the authors': its first convolution has stride 1, its 1×1 convolutions have biases (which
  the batch norm after them takes out again).
"""

from __future__ import annotations

from torch import Tensor, nn

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "DepthwiseSeparable", "MobileNetV1"]


class DepthwiseSeparable(nn.Module):
    """A 3×3 convolution of each channel alone, then a 1×1 convolution across channels; batch norm and ReLU after both.

    Takes [B, in_channels, H, W], returns [B, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, channels: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=bias)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps after the second ReLU."""
        x = self.relu(self.norm1(self.depthwise(x)))
        out: Tensor = self.relu(self.norm2(self.pointwise(x)))
        return out


class MobileNetV1(VisionModel):
    """The network of table 1.

    Args:
        width: multiplies the channels of every layer; α in the paper.
        repeats: how often table 1 repeats the convolution of 512 channels; 0 makes the shallow network of table 5.
        stem_stride: of the first convolution; 2 in the paper.
        bias: whether the 1×1 convolutions have biases.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, H, W] of 16 · stem_stride pixels and more, returns logits [B, K].
    """

    input_reason = "the strides multiply to that number, and leave one pixel of the last map"

    def __init__(
        self,
        width: float = 1.0,
        repeats: int = 5,
        stem_stride: int = 2,
        bias: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.smallest = 16 * stem_stride
        seen = int(32 * width)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, seen, 3, stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(seen),
            nn.ReLU(inplace=True),
        )
        stages = [Stage("stem", seen, stem_stride)]
        self.body = nn.ModuleDict()
        table = ((64, 1), (128, 2), (256, 2), (512, 1 + repeats), (1024, 2))
        for number, (channels, blocks) in enumerate(table, start=1):
            stage = nn.Sequential()
            for index in range(blocks):
                stride = 2 if index == 0 and number > 1 else 1
                stage.append(DepthwiseSeparable(seen, int(channels * width), stride, bias))
                seen = int(channels * width)
            self.body[f"stage{number}"] = stage
            stages.append(Stage(f"stage{number}", seen, stem_stride * 2 ** (number - 1)))
        self.stages = tuple(stages)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem and stage1 … stage5 for pictures [B, C, H, W]; H and W are halved by all but stage1."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.stem(x)  # [B, 32 α, H/2, W/2]
        for name, stage in self.body.items():
            x = out[name] = stage(x)  # at last [B, 1024 α, H/32, W/32]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage5 [B, 1024 α, H/32, W/32]."""
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))  # the mean is [B, 1024 α]
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _initialise(self.classifier)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _one_more(name: str) -> str:
    # pytorchcv counts the blocks of a stage from one.
    stage, index, rest = name.removeprefix("body.").split(".", 2)
    return f"features.{stage}.unit{int(index) + 1}.{rest}"


_PARTS = renamer(
    (r"^stem\.0\.", "features.init_block.conv."),
    (r"^stem\.1\.", "features.init_block.bn."),
    (r"\.depthwise\.", ".dw_conv.conv."),
    (r"\.norm1\.", ".dw_conv.bn."),
    (r"\.pointwise\.", ".pw_conv.conv."),
    (r"\.norm2\.", ".pw_conv.bn."),
    (r"^classifier\.", "output."),
)


def _rename(name: str) -> str:
    return _PARTS(_one_more(name) if name.startswith("body.") else name)


_PAPER = Paper(
    title="MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    authors="Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam",
    year=2017,
    link="https://arxiv.org/abs/1704.04861",
)
_LEARNING = Learning(arguments={"width": 0.25, "repeats": 0}, steps=160, rate=3e-3)


def _variant(
    name: str, arguments: dict[str, float], counts: tuple[int, int], published: Published, library: str
) -> Variant:
    return Variant(
        name=name,
        model=MobileNetV1,
        arguments=arguments,
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=counts[0],
        macs=counts[1],
        published=published,
        mapping=WeightMapping(f"pytorchcv {library}", _rename, builder=f"pytorchcv.models.mobilenet:{library}"),
        smallest=32,
        aliases=("mobilenet",) if name == "mobilenet_v1" else (),
        representative=name == "mobilenet_v1_025",
        learning=_LEARNING,
    )


def _published(parameters: str, macs: str, accuracy: float) -> Published:
    source = "parameters: pytorchcv; multiply-adds and accuracy: table 6 as megvii-model/ShuffleNet-Series quotes it"
    return Published(parameters, macs, {"ImageNet-1K": accuracy}, source)


VARIANTS = (
    _variant("mobilenet_v1", {}, (4_231_976, 568_740_352), _published("4,231,976", "569 M", 70.6), "mobilenet_w1"),
    _variant(
        "mobilenet_v1_075",
        {"width": 0.75},
        (2_585_560, 325_400_448),
        _published("2,585,560", "325 M", 68.4),
        "mobilenet_w3d4",
    ),
    _variant(
        "mobilenet_v1_050",
        {"width": 0.5},
        (1_331_592, 149_497_088),
        _published("1,331,592", "149 M", 63.7),
        "mobilenet_wd2",
    ),
    _variant(
        "mobilenet_v1_025",
        {"width": 0.25},
        (470_072, 41_030_272),
        _published("470,072", "41 M", 50.6),
        "mobilenet_wd4",
    ),
    Variant(
        name="mobilenet_v1_shallow",
        model=MobileNetV1,
        arguments={"repeats": 0},
        paper=_PAPER,
        input=(3, 224, 224),
        classes=1000,
        parameters=2_887_976,
        macs=307_323_392,
        published=Published(
            parameters="2.9 M",
            macs="307 M",
            accuracy={"ImageNet-1K": 65.3},
            source="table 5",
            unverified=("parameters", "macs", "accuracy"),
        ),
        mapping=WeightMapping(
            "pytorchcv MobileNet with one layer of 512 channels",
            _rename,
            builder="proof.references.mobilenet_v1:shallow_mobilenet",
        ),
        smallest=32,
        learning=_LEARNING,
    ),
    Variant(
        name="mobilenet_v1_cifar",
        model=MobileNetV1,
        arguments={"stem_stride": 1, "bias": True},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=100,
        parameters=3_315_428,
        macs=46_446_592,
        published=Published(
            parameters="3,315,428",
            macs="46.4 M",
            accuracy={"CIFAR-100": 65.98},
            source="README of weiaicunzai/pytorch-cifar100, 200 epochs; counts of its program",
        ),
        mapping=WeightMapping(
            "pytorchcv mobilenet_w1 with the first stride 1 and biases",
            _rename,
            builder="proof.references.mobilenet_v1:mobilenet_cifar",
        ),
        smallest=16,
        representative=True,
        learning=Learning(arguments={"width": 0.25, "repeats": 0}, size=16, steps=160, rate=3e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
