"""Residual networks for CIFAR with activations before the convolutions, and the other orders that were compared.

Title: Identity Mappings in Deep Residual Networks
Authors: Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun
Year: 2016 (ECCV)
Link: https://arxiv.org/abs/1603.05027
New: with batch norm and ReLU before each convolution nothing stands on the path of the shortcuts, and a signal passes
    unchanged from any block to any other; a thousand layers train.
Table: table 2 and figure 4 (the five orders: original is resnet110, full pre-activation is preact_resnet110), table 4.

Deviations:
- The 110-layer networks have shortcuts without parameters (option A of He et al. 2015, whose network they vary) and
  preact_resnet164 has projections without batch norm, as in the authors' program. Libraries often give
  110 layers projections, too, which makes 1,730,522 parameters of 1,727,962.
- In the first block of each stage the shortcut, too, branches off after batch norm and ReLU; the paper says so of the
  very first block, the authors' program does it where the shape changes.
- Where the order puts no ReLU after the addition the last sum still passes one before the mean; it changes something
  for ReLU-only pre-activation alone.
- The classifier starts uniformly as linear layers of torch do; the paper does not say.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer
from danlu.models.vision.resnet_cifar import BasicBlock

__all__ = [
    "VARIANTS",
    "BatchNormAfterAddition",
    "FirstPreActivation",
    "FirstPreActivationBottleneck",
    "PreActResNet",
    "PreActivation",
    "PreActivationBottleneck",
    "ReLUBeforeAddition",
    "ReLUOnlyPreActivation",
    "ReorderedResNet",
]


class BatchNormAfterAddition(BasicBlock):
    """Figure 4 (b): the second batch norm follows the addition, so that it stands on the shortcuts' path."""

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(norm(shortcut(x) + residual(x)))."""
        residual = self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True))
        return F.relu(self.norm2(self.shortcut(x) + residual), inplace=True)


class ReLUBeforeAddition(BasicBlock):
    """Figure 4 (c): the second ReLU precedes the addition, so that a block can only add."""

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + relu(residual(x))."""
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True)))
        return self.shortcut(x) + F.relu(residual, inplace=True)


class ReLUOnlyPreActivation(BasicBlock):
    """Figure 4 (d): ReLU precedes the convolutions, batch norm follows them."""

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + residual(relu(x))."""
        residual: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(F.relu(x))), inplace=True)))
        return self.shortcut(x) + residual


class PreActivation(BasicBlock):
    """Figure 4 (e): batch norm and ReLU precede both convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.norm1 = nn.BatchNorm2d(in_channels)

    def residual(self, active: Tensor) -> Tensor:
        """Return what is added, [B, channels, H', W'], for the activated input."""
        x = F.relu(self.norm2(self.conv1(active)), inplace=True)
        out: Tensor = self.conv2(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(relu(norm(x)))."""
        return x + self.residual(F.relu(self.norm1(x), inplace=True))


class FirstPreActivation(PreActivation):
    """The first block of a stage: what is activated goes both ways."""

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(active) + residual(active) with active = relu(norm(x))."""
        active = F.relu(self.norm1(x), inplace=True)
        return self.shortcut(active) + self.residual(active)


class PreActivationBottleneck(nn.Module):
    """Full pre-activation with convolutions of 1×1, 3×3 and 1×1, the last to four times ``width`` channels."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)

    def residual(self, active: Tensor) -> Tensor:
        """Return what is added, [B, 4 width, H', W'], for the activated input."""
        x = F.relu(self.norm2(self.conv1(active)), inplace=True)  # [B, width, H, W]
        x = F.relu(self.norm3(self.conv2(x)), inplace=True)  # [B, width, H', W']
        out: Tensor = self.conv3(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return x + residual(relu(norm(x)))."""
        return x + self.residual(F.relu(self.norm1(x), inplace=True))


class FirstPreActivationBottleneck(PreActivationBottleneck):
    """The first block of a stage: what is activated goes both ways; the shortcut is a projection (option B)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        self.shortcut = nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(active) + residual(active) with active = relu(norm(x))."""
        active = F.relu(self.norm1(x), inplace=True)
        out: Tensor = self.shortcut(active) + self.residual(active)
        return out


class ReorderedResNet(VisionModel):
    """The 110-layer network of He et al. 2015 with blocks of another order.

    Args:
        block: class of the blocks.
        blocks: how many in each of the three stages.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 4×4 pixels and more, returns logits [B, K].
    """

    stages = (Stage("stem", 16, 1), Stage("stage1", 16, 1), Stage("stage2", 32, 2), Stage("stage3", 64, 4))
    smallest = 4
    input_reason = "two stages halve the picture"

    def __init__(self, block: type[BasicBlock], blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem_conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        seen = 16
        for stage in self.stages[1:]:
            first = block(seen, stage.channels, stage.channels // seen)
            rest = [block(stage.channels, stage.channels, 1) for _ in range(blocks - 1)]
            self.add_module(stage.name, nn.Sequential(first, *rest))
            seen = stage.channels
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, stage1, stage2 and stage3 for pictures [B, C, H, W]."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)  # [B, 16, H, W]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, 16, H, W] … [B, 64, H/4, W/4]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage3 [B, 64, H/4, W/4]."""
        logits: Tensor = self.classifier(F.relu(x).mean(dim=(2, 3)))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        self.classifier, self.num_classes = _fresh(self.classifier, num_classes), num_classes


class PreActResNet(VisionModel):
    """The network of full pre-activation: nothing but convolutions and additions stands on its main path.

    Args:
        first: class of the first block of each stage.
        block: class of the other blocks.
        blocks: how many in each of the three stages.
        num_classes: K.
        in_channels: C of the pictures.

    Takes [B, C, H, W] of 4×4 pixels and more, returns logits [B, K].
    """

    smallest = 4
    input_reason = "two stages halve the picture"

    def __init__(
        self,
        first: type[PreActivation | PreActivationBottleneck],
        block: type[PreActivation | PreActivationBottleneck],
        blocks: int,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        stages, seen = [Stage("stem", 16, 1)], 16
        for number, (width, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
            channels = block.expansion * width
            rest = [block(channels, width, 1) for _ in range(blocks - 1)]
            self.add_module(f"stage{number}", nn.Sequential(first(seen, width, stride), *rest))
            stages.append(Stage(f"stage{number}", channels, stride * stages[-1].stride))
            seen = channels
        self.stages = tuple(stages)
        self.norm = nn.BatchNorm2d(seen)
        self.classifier = nn.Linear(seen, num_classes)
        self.apply(_initialise)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return stem, stage1, stage2 and stage3 for pictures [B, C, H, W]; the sums, before batch norm and ReLU."""
        self.check_pictures(x)
        out = {}
        x = out["stem"] = self.stem(x)  # [B, 16, H, W]
        for stage in self.stages[1:]:
            x = out[stage.name] = self.get_submodule(stage.name)(x)  # [B, 16, H, W] … [B, 64, H/4, W/4]
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for stage3 [B, 64, H/4, W/4]."""
        x = F.relu(self.norm(x), inplace=True)
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        self.classifier, self.num_classes = _fresh(self.classifier, num_classes), num_classes


def _fresh(old: nn.Linear, classes: int) -> nn.Linear:
    return nn.Linear(old.in_features, classes, device=old.weight.device, dtype=old.weight.dtype)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


_NAMES = renamer(
    (r"^stem_conv\.|^stem\.", "conv."),
    (r"^stem_norm\.|^norm\.", "bn."),
    (r"^stage(\d)\.(\d+)\.conv(\d)\.", r"unit_\1_\2.c\3."),
    (r"^stage(\d)\.(\d+)\.norm(\d)\.", r"unit_\1_\2.n\3."),
    (r"^classifier\.", "linear."),
)
_TO_PYTORCHCV = renamer(
    (r"^stem\.", "features.init_block."),
    (r"^norm\.", "features.post_activ.bn."),
    (r"^stage", "features.stage"),
    (r"\.conv(\d)\.", r".body.conv\1.conv."),
    (r"\.norm(\d)\.", r".body.conv\1.bn."),
    (r"\.shortcut\.", ".identity_conv."),
    (r"^classifier\.", "output."),
)


def _to_pytorchcv(name: str) -> str:
    parts = _TO_PYTORCHCV(name).split(".")
    if parts[1].startswith("stage"):
        parts[2] = f"unit{int(parts[2]) + 1}"
    return ".".join(parts)


_PAPER = Paper(
    title="Identity Mappings in Deep Residual Networks",
    authors="He, Zhang, Ren, Sun",
    year=2016,
    link="https://arxiv.org/abs/1603.05027",
)


# Measured; in train mode. The same networks agree to 1e-7 in float64, as their test shows.
_TOLERANCE = {"full": 1e-4, "bn_after_add": 3e-2}
_ROUNDING = (
    "float32 rounding grows from layer to layer where batch norm uses the statistics of two small maps, most of all "
    "where it stands on the main path 54 times; in float64 the two agree"
)


def _variant(order: str, model: type[VisionModel], arguments: dict[str, object], source: Published) -> Variant:
    return Variant(
        name="preact_resnet110" if order == "full" else f"preact_resnet110_{order}",
        model=model,
        arguments={**arguments, "blocks": 18},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=10,
        parameters=1_727_962,
        macs=252_887_680,
        published=source,
        mapping=WeightMapping(
            "an interpreter of the orders of figure 4, written apart, under the names conv, bn, unit_1_0.c1 … linear",
            _NAMES,
            builder="proof.references.preact_resnet:Ordered",
            arguments={"order": order, "blocks": 18},
            tolerance=_TOLERANCE.get(order, 1e-5),
            reason=_ROUNDING if order in _TOLERANCE else "",
        ),
        smallest=4,
        representative=True,
        check_input=(3, 16, 16),
        learning=Learning(arguments={"blocks": 2}, size=8, steps=200, rate=3e-3),
    )


def _reordered(order: str, block: type[BasicBlock], accuracy: float) -> Variant:
    source = "table 2: 100 % minus the test error, median of five runs"
    published = Published("1.7 M", accuracy={"CIFAR-10": accuracy}, source=source, unverified=("accuracy",))
    return _variant(order, ReorderedResNet, {"block": block}, published)


VARIANTS = (
    _variant(
        "full",
        PreActResNet,
        {"first": FirstPreActivation, "block": PreActivation},
        Published(
            "1.7 M",
            accuracy={"CIFAR-10": 93.63},
            source="table 4 and README of KaimingHe/resnet-1k-layers: 100 % minus the test error, median of five runs",
        ),
    ),
    _reordered("bn_after_add", BatchNormAfterAddition, 91.83),
    _reordered("relu_before_add", ReLUBeforeAddition, 92.16),
    _reordered("relu_only", ReLUOnlyPreActivation, 93.29),
    Variant(
        name="preact_resnet164",
        model=PreActResNet,
        arguments={"first": FirstPreActivationBottleneck, "block": PreActivationBottleneck, "blocks": 18},
        paper=_PAPER,
        input=(3, 32, 32),
        classes=10,
        parameters=1_703_258,
        macs=247_646_720,
        published=Published(
            "1.7 M",
            accuracy={"CIFAR-10": 94.54, "CIFAR-100": 75.67},
            source="table 4 and READMEs of KaimingHe/resnet-1k-layers and szagoruyko/wide-residual-networks: 100 % "
            "minus the test error, median of five runs",
        ),
        mapping=WeightMapping(
            "pytorchcv preresnet164bn_cifar10",
            _to_pytorchcv,
            builder="pytorchcv.models.preresnet_cifar:preresnet164bn_cifar10",
        ),
        smallest=4,
        representative=True,
        learning=Learning(arguments={"blocks": 2}, size=8, steps=200, rate=3e-3),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
